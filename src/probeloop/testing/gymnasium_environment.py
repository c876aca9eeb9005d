"""The environment itself; the only place that imports gymnasium, which is there with the extra `rl` alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data import commands as c
from ..data.control import Cost, Failed, Refused
from ..data.driver import Instrument
from ..data.errors import SettingsError
from ..data.limits import tightened
from ..plugin.contract import Observation
from .environment import Act, Look, Rewarding
from .local_instrument import LocalInstrument

Seen = dict[str, NDArray[np.float32]]


class SimulatorEnvironment(gymnasium.Env[Seen, NDArray[np.float32]]):
    """A simulator behind its gate; see `make_environment`."""

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self, make: Callable[[int], Instrument], reward: Rewarding, act: Act, look: Look,
        value: Callable[[Any], float], scale: float, steps: int, dose: float | None, refusal: float, privileged: bool,
    ) -> None:  # fmt: skip
        self._make, self._reward, self.act, self.look, self._value = make, reward, act, look, value
        self.scale, self.steps, self.dose, self.refusal, self.privileged = scale, steps, dose, refusal, privileged
        self._rig: LocalInstrument | None = None
        self._last: Seen = {}
        first = make(0)
        try:
            self._info = info = first.describe()
        finally:
            first.close()
        problems = list(act.problems(info))
        if problems:
            raise SettingsError(problems)
        self._knobs = tuple(name for name in info.limits.knobs if name in getattr(act, "most", {}))

        def box(low: float, *shape: int) -> Any:
            return gymnasium.spaces.Box(low, 1.0, shape, np.float32)

        spaces = {"look": box(-1.0, *look.shape), "seen": box(0.0, *look.shape), "place": box(-1.0, 2)}
        if self._knobs:
            spaces["knobs"] = box(-1.0, len(self._knobs))
        self.observation_space = gymnasium.spaces.Dict(spaces)  # type: ignore[assignment]
        self.action_space = box(-1.0, act.size)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Seen, dict[str, Any]]:
        """Begin anew on a simulator of another seed; the same `seed` begins the same episodes."""
        super().reset(seed=seed)
        self.close()
        instrument = self._make(int(self.np_random.integers(2**31)))
        self._info = info = instrument.describe()
        limits = info.limits
        if self.dose is not None:
            limits = tightened(limits, msgspec.structs.replace(limits, dose=self.dose))  # type: ignore[type-var]
        self._rig = rig = LocalInstrument(instrument, limits)
        self._began_ns, self._steps = instrument.clock.now_ns(), 0
        (x0, y0), (x1, y1) = info.limits.region
        self._place = info.grid.nearest(((x0 + x1) / 2, (y0 + y1) / 2))
        rig.take()
        for name in ("Unblank", "Approach"):
            if name in info.commands:
                self._do(c.COMMANDS[name]())  # type: ignore[arg-type]
        self._last = self._seen(np.full(self.look.shape, np.nan))
        _, told = self._look(0.0, self._began_ns)
        return copy.deepcopy(self._last), told

    def step(self, action: NDArray[np.float32]) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Act, look, and judge; an action that is refused costs, and what was seen before stays seen."""
        if self._rig is None:
            raise RuntimeError("call reset first")
        self._steps += 1
        dose, time_ns = self._rig.desk.state.dose, self._rig.driver.clock.now_ns()
        refused, before = "", self._place
        if self.action_space.contains(action):
            commands, where = self.act.commands(np.asarray(action, np.float64), self._info)
            self._place = where or before
            refused = next((why for command in commands if (why := self._do(command))), "")
        else:
            refused = f"the action {np.asarray(action).tolist()} is not {self.act.size} numbers of -1 to 1"
        earned, told = self._look(dose, time_ns) if not refused else (0.0, self._told(refused))
        if told["refused"]:
            self._place, earned = before, -self.refusal
        cut = self._steps >= self.steps or (self.dose is not None and told["dose"] >= self.dose)
        return copy.deepcopy(self._last), float(earned), bool(self._rig.desk.state.fault), cut, told

    def close(self) -> None:
        """End the simulator."""
        if self._rig is not None:
            self._rig.driver.close()
            self._rig = None

    def _do(self, command: c.Command) -> str:
        """Submit a command and carry it out; return why it was refused or failed, or ""."""
        assert self._rig is not None
        self._rig.events.clear()
        reply = self._rig.submit(command)
        if isinstance(reply, Refused):
            return f"{reply.limit}: {reply.reason}; allowed: {reply.allowed or 'nothing'}"
        while self._rig.desk.run_next():
            pass
        return next((event.reason for event in self._rig.events if isinstance(event, Failed)), "")

    def _look(self, dose: float, time_ns: int) -> tuple[float, dict[str, Any]]:
        """Measure, and return what is seen is worth, and info. dose [e], time_ns: before the action."""
        rig = self._rig
        assert rig is not None
        refused = self._do(self.look.command(self._info, self._place))
        blocks = [block for outlet in rig.topics.values() for block in outlet.blocks]
        rig.topics.clear()
        told = self._told(refused)
        if refused:
            return 0.0, told
        values = np.asarray(self.look.read(self._info, blocks), np.float64)
        self._last = self._seen(values)
        number = self._value(values) if np.isfinite(values).any() else float("nan")
        if not np.isfinite(number):
            return 0.0, told
        now = rig.driver.clock.now_ns()
        cost = Cost(dose=told["dose"] - dose, time=(now - time_ns) / 1e9)
        observed = Observation(position=self._place, value=number, time_ns=now)
        return self._reward(observed, cost), told | {"value": number}

    def _seen(self, values: NDArray[np.float64]) -> Seen:
        """Return an observation of the space."""
        assert self._rig is not None
        there = np.isfinite(values)
        value = np.where(there, values, 0.0)
        (x0, y0), (x1, y1) = self._info.limits.region
        place = [2 * (self._place[0] - x0) / (x1 - x0) - 1, 2 * (self._place[1] - y0) / (y1 - y0) - 1]
        made = {"look": value / (np.abs(value) + self.scale), "seen": there, "place": np.array(place)}
        if self._knobs:
            readback = self._rig.driver.read_back()
            bounds = [self._info.limits.knobs[name] for name in self._knobs]
            turned = [float(readback.get(name) or 0.0) for name in self._knobs]
            made["knobs"] = np.array([2 * (v - a) / (b - a) - 1 for v, (a, b) in zip(turned, bounds, strict=True)])
        return {name: np.asarray(array, np.float32) for name, array in made.items()}

    def _told(self, refused: str) -> dict[str, Any]:
        rig = self._rig
        assert rig is not None
        time = (rig.driver.clock.now_ns() - self._began_ns) / 1e9
        told: dict[str, Any] = {"value": None, "dose": float(rig.desk.state.dose), "time": time, "refused": refused}
        if self.privileged:
            truth: Mapping[str, Any] = getattr(rig.driver, "truth", dict)()
            told["truth"] = copy.deepcopy({name: value for name, value in truth.items() if not callable(value)})
        return told
