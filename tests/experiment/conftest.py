"""A rig without a bus: an instrument that answers at once, the streams it feeds, and the events it leaves."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.clock import MonotonicClock
from probeloop.data.commands import AcquireSpectrum, Command, MoveProbe, Read, Scan
from probeloop.data.control import Accepted, Cause, Cost, Done, Event, Observed, Result, StateChange, Trace, Verdict
from probeloop.data.driver import Grid, InstrumentInfo
from probeloop.data.errors import RefusedError
from probeloop.data.frame import BlockFlag, FrameBlock, FrameBuffer, FrameFlag
from probeloop.data.limits import Limits
from probeloop.data.scan import Position
from probeloop.data.settings import convert
from probeloop.discover import load_class as found_class
from probeloop.experiment.budget import Allowance, Budget
from probeloop.experiment.controls import Controls
from probeloop.experiment.interest import ScalarizerInput
from probeloop.experiment.loop import Loop, Timeouts
from probeloop.experiment.plan import PlanRun
from probeloop.experiment.resume import Interrupted, interrupted
from probeloop.experiment.reward import Rewards
from probeloop.experiment.streams import FrameStore
from probeloop.plugin.contract import Context, Plan, PlanContext, Policy, Reward, Scalarizer

STEP = 5e-9
SIDE = 50
HOLDER = "experiment"
COMMANDS = ("Scan", "MoveProbe", "AcquireSpectrum", "Read", "SetAberrations", "Annotate")


load_class = functools.cache(found_class)


class Crash(BaseException):
    """What SIGKILL is, as far as the plan can tell: nothing is said, nothing is cleaned up."""


class Peak(Scalarizer):
    """The first number of a spectrum."""

    def scalarize(self, spectrum: Any, spec: StreamSpec) -> tuple[float, float, bool]:
        value = float(spectrum[0])
        return value, math.nan, value >= 0


def smooth(x: float, y: float) -> float:
    """One maximum, at 180 nm, 70 nm."""
    return math.exp(-(((x - 180e-9) / 90e-9) ** 2) - ((y - 70e-9) / 60e-9) ** 2)


def info(**changes: Any) -> InstrumentInfo:
    side = SIDE * STEP
    limits = Limits(region=((0.0, 0.0), (side, side)), **changes.pop("limits", {}))
    grid = Grid((STEP / 2, STEP / 2), (STEP, STEP))
    return InstrumentInfo(
        name="fake", modality="afm", origin="simulation", commands=COMMANDS, limits=limits, grid=grid, **changes
    )


def block(
    spec: StreamSpec,
    data: Any,
    *,
    index: int,
    generation: int,
    scan_index: Any = None,
    flags: int = 0,
    frame_flags: Any = 0,
    position: Any = (0.0, 0.0),
    source_index: int = -1,
) -> FrameBlock:
    """A block of len(data) frames."""
    data = np.asarray(data)
    n = len(data)
    buffer = FrameBuffer.allocate(spec, max(n, 1))
    buffer.data[:n] = data
    buffer.scan_index[:n] = np.arange(n) if scan_index is None else scan_index
    buffer.flags[:n] = frame_flags
    buffer.position[:n] = position
    buffer.time_ns[:n] = np.arange(index, index + n)
    buffer.seal(
        n,
        index=index,
        generation=generation,
        flags=flags,
        exposed_ns=1000 + index,
        published_ns=2000 + index,
        source_index=source_index,
    )
    return FrameBlock(
        spec, index, n, BlockFlag(flags), generation, 0, source_index, 2000 + index, 1000 + index, 0,
        buffer.data[:n], buffer.time_ns[:n], buffer.scan_index[:n], buffer.position[:n], buffer.dose[:n],
        buffer.flags[:n],
    )  # fmt: skip


def scan_spec(name: str, shape: tuple[int, int]) -> StreamSpec:
    ny, nx = shape
    return StreamSpec(name, "values", "<f4", nav=(Axis("y", ny, STEP, units="m"), Axis("x", nx, STEP, units="m")))


SPECTRUM = StreamSpec("spectrum", "spectra", "<f8", sig=(Axis("step", 4),))


class Rig:
    """An instrument that answers at once. before: called with (number of the command, command) ahead of a verdict."""

    def __init__(self, value: Callable[[float, float], float] = smooth, **changes: Any) -> None:
        self.info = info(**changes)
        self.value = value
        self.before: Callable[[int, Command], None] = lambda number, command: None
        self.dose = 0.0
        self.jumps_checked = True
        self.readback: dict[str, Any] = {}
        self.log: list[Command] = []
        self.registered: list[tuple[Position, float, float]] = []
        self.submits: list[tuple[Command, Cause, Trace]] = []
        self.dry_runs: list[Command] = []
        self.events: list[Event] = []
        self.position = (STEP / 2, STEP / 2)
        self._id = 0
        self._generation = 0
        self._index = {"spectrum": 0, "image": 0}
        self.attach()

    def attach(self) -> None:
        """Begin anew what a crash takes away: the experiment's own memory."""
        changed = threading.Condition()
        self.controls = Controls(MonotonicClock(), changed)
        self.store = FrameStore(("spectrum", "image"), MonotonicClock(), changed)

    # the gate

    def submit(self, command: Command, cause: Cause, trace: Trace, dry_run: bool = False) -> Accepted:
        cost = Cost(dose=self.dose if isinstance(command, AcquireSpectrum | Scan) else 0.0, time=1e-3)
        if dry_run:
            self.dry_runs.append(command)
            return Accepted(0, cost)
        self.before(len(self.log), command)
        most = self.info.limits.max_step
        goal = getattr(command, "position", None)
        if most is not None and goal is not None and math.dist(goal, self.position) > most * (1 + 1e-9):
            raise RefusedError("the jump is too long", "max_step", f"{most:g} m")
        self._id += 1
        self.log.append(command)
        self.submits.append((command, cause, trace))
        self.events.append(
            Verdict(id=self._id, command=command, holder=HOLDER, epoch=1, accepted=True, cost=cost, cause=cause)
        )
        done = Done(id=self._id, result=self._result(command, cost))
        self.after(done)
        return Accepted(self._id, cost)

    def register(self, shift: Position, sigma: float, peak_ratio: float) -> None:
        if peak_ratio < 1.5:
            raise RefusedError("the registration failed", "peak_ratio", "at least 1.5")
        self.registered.append((shift, sigma, peak_ratio))

    def after(self, done: Done) -> None:
        """Say that a command is done."""
        self.events.append(done)
        self.controls.finished(done)

    def _result(self, command: Command, cost: Cost) -> Result:
        if isinstance(command, MoveProbe | AcquireSpectrum):
            self.position = command.position
        if isinstance(command, Read):
            places = {"position_x": self.position[0], "position_y": self.position[1]}
            return Result(readback={**places, **self.readback}, cost=cost)
        if isinstance(command, AcquireSpectrum):
            return self._spectrum(command, cost)
        if isinstance(command, Scan):
            return self._scan(command, cost)
        return Result(cost=cost)

    def _spectrum(self, command: AcquireSpectrum, cost: Cost) -> Result:
        self._generation += 1
        at = self._take("spectrum", 1)
        data = np.full((1, 4), self.value(*command.position))
        end = BlockFlag.SCAN_BEGIN | BlockFlag.SCAN_END
        self.store.accept(
            block(SPECTRUM, data, index=at, generation=self._generation, flags=end, position=command.position)
        )
        return self._made("spectrum", at, 1, at, cost)

    def _scan(self, command: Scan, cost: Cost) -> Result:
        """Two settling frames that would spoil the map, then the scan in blocks of a line."""
        self._generation += 1
        spec = scan_spec("image", command.shape)
        ny, nx = command.shape
        places = command.region.positions(command.shape)
        values = np.array([self.value(x, y) for x, y in places], np.float32)
        settling = self._take("image", 2)
        self.store.accept(
            block(spec, [1e9, 1e9], index=settling, generation=self._generation, frame_flags=int(FrameFlag.SETTLING))
        )
        first = self._index["image"]
        for line in range(ny):
            row = slice(line * nx, (line + 1) * nx)
            end = BlockFlag.SCAN_END if line == ny - 1 else 0
            at = self._take("image", nx)
            index = np.arange(row.start, row.stop)
            self.store.accept(
                block(spec, values[row], index=at, generation=self._generation, scan_index=index, flags=int(end))
            )
        return self._made("image", settling, 2 + ny * nx, first, cost)

    def _take(self, topic: str, n: int) -> int:
        at = self._index[topic]
        self._index[topic] += n
        return at

    def _made(self, topic: str, first: int, count: int, valid: int, cost: Cost) -> Result:
        return Result(
            generation=self._generation,
            topic=topic,
            first_index=first,
            count=count,
            first_valid_index=valid,
            cost=cost,
        )

    # a run

    def loop(self, interrupted: Interrupted | None = None, **options: Any) -> Loop:
        options = {
            "scalarizers": {"peak": ScalarizerInput(Peak(), "spectrum")},
            "timeouts": Timeouts(0.2, 0.2),
        } | options
        return Loop(
            self.info,
            self,
            self.store,
            self.controls,
            MonotonicClock(),
            self.events.append,
            interrupted=interrupted,
            **options,
        )

    def run(
        self,
        plan: str | type[Plan],
        parameters: Mapping[str, Any] | None = None,
        seed: int = 1,
        resume: bool = False,
        repeat: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Run a plan to its end, or on from where the events end."""
        cls = load_class(plan, "Plan") if isinstance(plan, str) else plan
        name = plan if isinstance(plan, str) else plan.__name__
        before = interrupted(self.recorded(), HOLDER) if resume else None
        if before is not None:
            before.check(repeat)
        data = {"plan": name, "parameters": dict(parameters or {}), "seed": seed, "resumed": before is not None}
        self.events.append(StateChange(target="plan", state="running", data=data))
        made = cls(convert(cls.Parameters, parameters or {}), Context(name, seed))
        ctx = PlanContext(np.random.default_rng(seed), self.info, policy_maker(seed), ("image",), ("peak",))

        def record(number: int, kind: str, value: dict[str, Any]) -> None:
            self.events.append(Observed(step=number, kind=kind, value=value))

        self.last_loop = self.loop(before, repeat=repeat, **options)
        run = PlanRun(made.run(ctx), self.last_loop, record, before.steps if before else ())
        summary = run.run()
        state = "finished" if summary["succeeded"] else "failed"
        self.events.append(StateChange(target="plan", state=state, data=summary))
        return summary

    def recorded(self) -> list[Event]:
        """The events as they come out of events.jsonl."""
        lines = [msgspec.json.encode(event) for event in self.events]
        return [msgspec.json.decode(line, type=Event) for line in lines]

    def write(self, path: Path) -> Path:
        path.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in self.events))
        return path

    def steps(self) -> list[Any]:
        return [event for event in self.recorded() if isinstance(event, Observed)]


def policy_maker(seed: int) -> Callable[[str, Mapping[str, Any]], Policy]:
    def make(name: str, parameters: Mapping[str, Any]) -> Policy:
        cls = load_class(name, "Policy")
        made: Policy = cls(convert(cls.Parameters, parameters), Context(name, seed))
        return made

    return make


@pytest.fixture
def make_rig() -> type[Rig]:
    return Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def make_block() -> Callable[..., FrameBlock]:
    return block


@pytest.fixture
def make_scan_spec() -> Callable[..., StreamSpec]:
    return scan_spec


@pytest.fixture
def crash() -> type[Crash]:
    return Crash


@pytest.fixture
def allowance() -> Callable[..., Budget]:
    return lambda **limits: Budget(Allowance(**limits))


@pytest.fixture
def rewards() -> Callable[..., Rewards]:
    return Rewards


__all__ = ["Crash", "Peak", "Reward", "Rig"]
