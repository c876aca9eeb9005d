"""Any simulator and a reward as an environment for reinforcement learning: what is acted on, and what is seen.

    from probeloop.testing.environment import Knobs, ScanLook, make_environment

    env = make_environment("stem", contrast, act=Knobs({"C10": 2e-8}), look=ScanLook((16, 16), 1.5e-9, 1e-5))

Actions go to the instrument as commands, through the same gate as those of a person: what it refuses is not done,
costs `refusal`, and is said in `info["refused"]`. Nothing is clipped. Time is the instrument's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data import commands as c
from ..data.assemble import assemble, empty_map
from ..data.axes import StreamSpec
from ..data.control import Cost
from ..data.driver import Instrument, InstrumentInfo
from ..data.errors import DropInError, Problem
from ..data.frame import FrameBlock
from ..data.scan import Position, Region
from ..plugin.contract import Observation, Reward

if TYPE_CHECKING:
    import gymnasium

Rewarding = Callable[[Observation, Cost], float]
Vector = NDArray[np.float64]


class Act(Protocol):
    """What an action, `size` numbers of -1 to 1, does."""

    @property
    def size(self) -> int:
        """How many numbers an action has."""

    def problems(self, info: InstrumentInfo) -> Iterable[Problem]:
        """Yield what this instrument can't do."""

    def commands(self, action: Vector, info: InstrumentInfo) -> tuple[Sequence[c.Command], Position | None]:
        """Return the commands of an action, and where to look afterwards, None = where before."""


class Look(Protocol):
    """How the instrument is looked at after every action; `shape` of the real numbers that come out."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what comes out."""

    def command(self, info: InstrumentInfo, position: Position) -> c.Command:
        """Return the acquisition at a place."""

    def read(self, info: InstrumentInfo, blocks: Sequence[FrameBlock]) -> Vector:
        """Return what the frames show, NaN where nothing came."""


@dataclass(frozen=True)
class Knobs:
    """Turns aberration knobs. most: by name, the change that 1 stands for [m]."""

    most: Mapping[str, float]

    @property
    def size(self) -> int:
        """How many knobs."""
        return len(self.most)

    def problems(self, info: InstrumentInfo) -> Iterable[Problem]:
        """Yield the knobs it has not, and steps that are none."""
        have = info.limits.knobs if "SetAberrations" in info.commands else {}
        for name, most in self.most.items():
            if name not in have:
                yield Problem(f"act.most.{name}", f"no knob of {info.name}", " | ".join(have) or "it has none")
            elif not 0 < most <= have[name][1] - have[name][0]:
                yield Problem(f"act.most.{name}", f"{most:g} m", f"0 < change <= {have[name][1] - have[name][0]:g} m")

    def commands(self, action: Vector, info: InstrumentInfo) -> tuple[Sequence[c.Command], Position | None]:
        """Return one turn of all knobs."""
        turns = {name: float(a) * most for a, (name, most) in zip(action, self.most.items(), strict=True)}
        return (c.SetAberrations(turns),), None


@dataclass(frozen=True)
class Places:
    """Chooses where to look next: -1 to 1 is the instrument's region, x then y."""

    size: int = 2

    def problems(self, info: InstrumentInfo) -> Iterable[Problem]:
        """Every instrument has places."""
        return ()

    def commands(self, action: Vector, info: InstrumentInfo) -> tuple[Sequence[c.Command], Position | None]:
        """Return no command, and the nearest place that the scanner can reach."""
        (x0, y0), (x1, y1) = info.limits.region
        x, y = x0 + (action[0] + 1) / 2 * (x1 - x0), y0 + (action[1] + 1) / 2 * (y1 - y0)
        return (), info.grid.nearest((float(x), float(y)))


def plain(block: FrameBlock) -> NDArray[Any]:
    """Return the sum of each frame, or the first channel of each pixel, complex by modulus, (N,)."""
    data = np.abs(block.data) if block.data.dtype.kind == "c" else block.data
    flat = data.reshape(block.count, -1)
    return flat.sum(axis=1, dtype=np.float64) if block.spec.kind == "frames" else flat[:, 0]


@dataclass(frozen=True)
class ScanLook:
    """A small scan about the place: shape (ny, nx), size of its longer side [m], dwell_time [s].

    number: (N,) of a block's frames; the sum of a frame, the first channel of a map, complex by modulus.
    """

    shape: tuple[int, int]
    size: float
    dwell_time: float
    number: Callable[[FrameBlock], NDArray[Any]] = plain

    def command(self, info: InstrumentInfo, position: Position) -> c.Command:
        """Return the scan."""
        step = self.size / max(self.shape)
        region = Region(*position, self.shape[1] * step, self.shape[0] * step)
        return c.Scan(region, self.shape, self.dwell_time)

    def read(self, info: InstrumentInfo, blocks: Sequence[FrameBlock]) -> Vector:
        """Return the map (ny, nx)."""
        if not blocks or blocks[0].spec.nav_shape != self.shape:
            return np.full(self.shape, np.nan)
        out = StreamSpec("look", "values", "<f8", blocks[0].spec.nav)
        made: Vector = empty_map(out)
        for block in blocks:
            if block.count:
                assemble(out, msgspec.structs.replace(block, spec=out, data=self.number(block)), made)
        return made


def make_environment(
    simulator: str | Callable[[int], Instrument],
    reward: Reward | Rewarding,
    *,
    act: Act,
    look: Look,
    parameters: Mapping[str, Any] | None = None,
    value: Callable[[NDArray[np.float64]], float] = lambda seen: float(np.nanmean(seen)),
    scale: float = 1.0,
    steps: int = 30,
    dose: float | None = None,
    refusal: float = 1.0,
    privileged: bool = False,
) -> gymnasium.Env[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Return a gymnasium environment of a simulator.

    simulator: its name, with `parameters`, or a function of a seed. Each `reset` makes a new one of another seed.
    act, look: see `Knobs`, `Places`, `ScanLook`. value: makes of what is seen the number that `reward`, a function of
    (Observation, Cost) or a Reward, judges; not finite = an invalid observation, which earns nothing.
    Observations: `look` as v / (|v| + scale), 0 where nothing was seen, `seen` (1 or 0), `place` and `knobs` as -1 to
    1 of their limits. An episode is cut after `steps`, or at `dose` [e]. refusal: what a refused action costs.
    info: value (None = invalid), dose [e] and time [s] since the reset, refused (why), and with `privileged` the
    simulator's truth without its functions. Raises DropInError without the extra `rl`, SettingsError for what the
    instrument can't do.
    """
    from ..discover import installed, load_instrument

    if not installed("gymnasium"):
        raise DropInError("the extra 'rl' is not installed", 'pip install "probeloop[rl]"')

    def named(seed: int) -> Instrument:
        given = {**(parameters or {}), "seed": seed}
        return load_instrument(str(simulator), given, kind="Simulator", unpaced=True)

    make = named if isinstance(simulator, str) else simulator
    from .gymnasium_environment import SimulatorEnvironment

    judged = reward.reward if isinstance(reward, Reward) else reward
    return SimulatorEnvironment(make, judged, act, look, value, scale, steps, dose, refusal, privileged)
