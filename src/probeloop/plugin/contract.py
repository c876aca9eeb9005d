"""What a drop-in is. One file, one class; the host owns processes, threads, buffers and topics.

Kinds: FrameTransform (N frames in, N out), JoinTransform (N frames of each of several topics in), ScanTransform (a
scan in, results now and then), Policy (where next), Scalarizer (spectrum to one number), Reward, Plan (a generator of
commands).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.axes import StreamSpec
from ..data.calibration import CalibrationSet
from ..data.commands import Command, Scan, SpectrumKind
from ..data.control import Cause, Cost, Result
from ..data.driver import InstrumentInfo
from ..data.frame import FrameBlock
from ..data.scan import Position, Region
from ..data.settings import Settings

Outputs = Mapping[str, NDArray[Any]]


class NoParameters(Settings):
    """For a drop-in with nothing to set."""


class Context(msgspec.Struct, frozen=True):
    """What a drop-in is told once. device: "cpu" or "cuda"."""

    name: str = ""
    seed: int = 0
    calibrations: CalibrationSet = CalibrationSet()
    device: Literal["cpu", "cuda"] = "cpu"


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement, as a policy hears of it; bulk data stay on `topic` at (generation, index).

    scalarizer: whose value it is, by its name in the rig. again: it was told before and costs nothing; the operator
    changed what is interesting, and this is its new value.
    """

    position: Position
    value: float
    sigma: float = 0.0
    valid: bool = True
    topic: str = ""
    generation: int = 0
    index: int = -1
    time_ns: int = 0
    reason: str = ""
    scalarizer: str = ""
    again: bool = False


class DropIn(ABC):
    """Common to all kinds: `Parameters`, and `parameters`, which the host replaces between two blocks.

    notice: what a transform can't use of its last input, and what to do about it; the host tells it once a scan.
    renewed: set by a transform whose results are other ones from this call on, though its parameters are the same,
    such as by weights that were learned meanwhile: the host begins a new revision with them, and unsets it.
    """

    Parameters: ClassVar[type[Settings]] = NoParameters
    parameters: Any
    notice: str = ""
    renewed: bool = False

    def __init__(self, parameters: Settings | None = None, context: Context | None = None) -> None:
        self.parameters = parameters if parameters is not None else self.Parameters()
        self.context = context or Context()

    def close(self) -> None:  # noqa: B027 - most drop-ins hold nothing
        """Let go of what the drop-in holds."""


class FrameTransform(DropIn):
    """N frames in, N results out; the host copies scan_index, position, time, dose and flags."""

    may_be_nan: ClassVar[bool] = False
    memory_mb: ClassVar[int] = 1024

    @abstractmethod
    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return every output's spec by its short name, for frames of `spec`, before any frame flows.

        Raises CalibrationError or SettingsError when it can't work on them, DropInError when what it needs, such as
        a GPU, is not there.
        """

    @abstractmethod
    def process(self, block: FrameBlock) -> Outputs:
        """Return (N, ...) arrays by output name. `block.data` is valid until this returns."""


class JoinTransform(DropIn):
    """N rows of several topics in, N results out; the host finds the rows that are one measurement.

    inputs: what each topic is to the plug-in, at least two; a rig's `input` names the topics in that order.
    The host copies scan_index, position, time, dose and flags of the first one. waiting_mb: how much of what the
    others have not got yet may wait [MiB]; what is given up beyond it is named.
    """

    inputs: ClassVar[tuple[str, ...]] = ()
    may_be_nan: ClassVar[bool] = False
    memory_mb: ClassVar[int] = 1024
    waiting_mb: ClassVar[int] = 128

    @abstractmethod
    def outputs(self, specs: tuple[StreamSpec, ...]) -> dict[str, StreamSpec]:
        """Return every output's spec by its short name, for one spec an input.

        They have scans of one shape. Raises CalibrationError or SettingsError when it can't work on them.
        """

    @abstractmethod
    def process(self, blocks: tuple[FrameBlock, ...]) -> Outputs:
        """Return (N, ...) arrays by output name.

        The blocks, one an input, hold the same N pixels in the same order. Their data are valid until this returns.
        """


class ScanTransform(DropIn):
    """A scan in, results now and then. `every` says when `update` may emit; `takes` what it is given.

    takes "blocks": update(block). takes "map": update(map, mask) with the NaN-filled map so far, (*nav, *frame).
    """

    every: ClassVar[Literal["block", "rows", "seconds", "scan"]] = "seconds"
    interval: ClassVar[float] = 0.25
    takes: ClassVar[Literal["blocks", "map"]] = "map"
    may_be_nan: ClassVar[bool] = False
    memory_mb: ClassVar[int] = 1024

    @abstractmethod
    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return every output's spec by its short name."""

    def begin(self, spec: StreamSpec) -> None:
        """Be told that a scan begins."""

    @abstractmethod
    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Take a block, or the map so far and where it is measured; return outputs (1, ...) or None."""

    def end(self, aborted: bool) -> Outputs | None:
        """Return the last outputs of the scan, or None."""
        return None


class Scalarizer(DropIn):
    """A spectrum becomes one number.

    remembers: its value depends on the spectra before it. Then the host shows it these again, in their order, after
    `forget`: when a run is resumed, and when it takes the place of another scalarizer.
    """

    units: ClassVar[str] = ""
    remembers: ClassVar[bool] = False

    def forget(self) -> None:
        """Begin anew, with no spectrum before."""

    @abstractmethod
    def scalarize(self, spectrum: NDArray[Any], spec: StreamSpec) -> tuple[float, float, bool]:
        """Return (value, sigma, valid) of one frame of `spec`; sigma NaN = unknown."""


class Policy(DropIn):
    """Where to measure next. Randomness only from `self.rng`, so that a run can be repeated.

    pinned: the plan sets it before it asks; candidates outside it are not suggested, and stay free for later.
    """

    pinned: Region | None = None

    def __init__(self, parameters: Settings | None = None, context: Context | None = None) -> None:
        super().__init__(parameters, context)
        self.rng = np.random.default_rng(self.context.seed)

    @abstractmethod
    def context_images(self, candidates: NDArray[np.float64], shape: tuple[int, int], images: Outputs) -> None:
        """Be told the candidates (N, 2) (x, y) [m] on a map of `shape`, and images of it by topic (may be none)."""

    @abstractmethod
    def suggest(self, n: int) -> Sequence[Position]:
        """Return up to n candidates to measure next, best first; none = finished."""

    def tell(self, observations: Sequence[Observation]) -> None:
        """Be told what was measured, invalid and failed ones included; not what was vetoed or refused.

        One that is told `again` takes the place of the earlier one of the same (topic, generation, index); whenever
        there are such, all earlier ones are among them.
        """

    def maps(self) -> dict[str, NDArray[Any]]:
        """Return what it makes of the candidates by now, (ny, nx) by name, NaN = nothing; {} = it learns no map.

        "prediction" and "uncertainty" (one standard deviation) are in the scalarizer's units. It changes nothing and
        draws nothing from `self.rng`: a run that is resumed does not ask for the maps it has shown before.
        """
        return {}

    def linked(self) -> bool | None:
        """Return whether what was measured shows a link between images and values; None = it does not test that."""
        return None


class Reward(DropIn):
    """What an observation is worth."""

    @abstractmethod
    def reward(self, observation: Observation, cost: Cost) -> float:
        """Return the reward of a valid observation."""


class Submit(msgspec.Struct, frozen=True):
    """Plan step: hand over a command, get a Ticket at once."""

    command: Command


class Ticket(msgspec.Struct, frozen=True):
    """A command that is on its way."""

    id: int


class Wait(msgspec.Struct, frozen=True):
    """Plan step: get the results of tickets, in their order, as a tuple of Result."""

    tickets: tuple[Ticket, ...]


class Observe(msgspec.Struct, frozen=True):
    """Plan step: get what a scalarizer (its name in the rig) makes of a result, as a tuple of Observation.

    Once the operator changed what is interesting, all that were got before come again behind it, with their new
    values (`Observation.again`). A policy is told them all; they are no new measurements.
    """

    result: Result
    scalarizer: str


class Reduce(msgspec.Struct, frozen=True):
    """Plan step: get `function(map)` as a tuple of floats, recorded.

    topic: an input of the plan; the map is that of the result's generation, NaN where nothing is, complete when
    the scan has ended. `function` is pure: a resumed plan is fed its recorded value and never calls it again.
    """

    result: Result
    topic: str
    function: Callable[[NDArray[Any]], tuple[float, ...]]


class Show(msgspec.Struct, frozen=True):
    """Plan step: put maps on the topics PLAN.NAME, kind `image`; get the names of those that were, as a tuple.

    scan, result: the overview whose pixels the maps have; they go by its generation. maps: (ny, nx) by name, asked
    for when the step is answered, and not at all when it is answered from the record. scalarizer: its name in the
    rig, for the units of "prediction" and "uncertainty". A map of another shape is left out, and that is told.
    """

    scan: Scan
    result: Result
    maps: Callable[[], Mapping[str, NDArray[Any]]]
    scalarizer: str = ""


class Register(msgspec.Struct, frozen=True):
    """Plan step: tell the gate how far the specimen is from where its drift was thought to put it; get None.

    shift (x, y) [m], sigma [m], peak_ratio: of the highest correlation to the second. A poor peak, or a jump over
    three sigma, raises RefusedError at the yield. Commands with frame = "specimen" go by it from then on.
    """

    shift: Position
    sigma: float
    peak_ratio: float = 1e9


class Checkpoint(msgspec.Struct, frozen=True):
    """Plan step: how far it is (0-1), and a line for the operator."""

    progress: float
    message: str = ""


class Propose(msgspec.Struct, frozen=True):
    """Plan step: get the positions to measure now, as a tuple of Position.

    These are the proposed ones, less those the operator vetoes where approval is asked for, and behind them those
    that the operator added.
    """

    positions: tuple[Position, ...]


Step = Command | Submit | Wait | Observe | Reduce | Show | Register | Propose | Checkpoint
PlanSteps = Generator[Any, Any, dict[str, Any]]


class PlanContext(msgspec.Struct, frozen=True):
    """All that a plan may look at besides the answers to its steps.

    rng: the only source of chance. info: the instrument. policy: by name, made by the host with a seed of its own.
    inputs: topics the rig joined to the plan. scalarizers: their names in the rig. spectra: kinds of spectrum the rig
    names, the first one being its own choice.
    """

    rng: np.random.Generator
    info: InstrumentInfo
    make_policy: Callable[[str, Mapping[str, Any]], Policy]
    inputs: tuple[str, ...] = ()
    scalarizers: tuple[str, ...] = ()
    spectra: Mapping[str, SpectrumKind] = {}


class Plan(DropIn):
    """A deterministic generator of (parameters, seed, answers): no clock, no file, no global.

    It yields steps and is sent their answers: a command gives its Result; Submit a Ticket; Wait, Observe, Reduce,
    Show, Propose tuples; Register, Checkpoint None. It returns a summary (plain data) that must hold "succeeded":
    bool and "message". A refused command raises RefusedError, a failed one DriverError, at the yield. A plan that is
    out of budget, aborted or stopped gets a RefusedError whose `limit` is "budget", "abort" or "stop" at its next
    step: it may catch it to return what it has. After "budget" only what measures nothing is answered, after the
    others nothing.
    """

    def inputs(self) -> tuple[str, ...]:
        """Return the topics it reduces; they are read without loss from before the first step on."""
        return ()

    @abstractmethod
    def run(self, ctx: PlanContext) -> PlanSteps:
        """Yield steps."""


KINDS: tuple[type[DropIn], ...] = (FrameTransform, JoinTransform, ScanTransform, Scalarizer, Policy, Reward, Plan)


def kind_of(cls: type[DropIn]) -> str:
    """Return the name of the kind a class is of."""
    return next(kind.__name__ for kind in KINDS if issubclass(cls, kind))


def input_fault(cls: type[DropIn], topics: Sequence[str]) -> tuple[str, str] | None:
    """Return why a transform can't read these topics and what to do about it, or None when it can."""
    if issubclass(cls, JoinTransform):
        if len(set(topics)) < len(topics):
            return f"names a topic twice: {', '.join(topics)}", "name each once"
        if len(topics) != len(cls.inputs):
            count = f"{len(topics)} topic{'' if len(topics) == 1 else 's'}"
            return (
                f"names {count}, it joins {len(cls.inputs)}: {', '.join(cls.inputs)}",
                "name one for each, in that order",
            )
    elif len(topics) != 1:
        kind = kind_of(cls)
        return (
            f"names {len(topics)} topics, a {kind} reads one",
            f"join them first: a {kind} can read what a JoinTransform puts out",
        )
    return None


__all__ = [
    "KINDS", "Cause", "Checkpoint", "Context", "DropIn", "FrameTransform", "JoinTransform", "NoParameters",
    "Observation", "Observe", "Outputs", "Plan", "PlanContext", "PlanSteps", "Policy", "Propose", "Reduce",
    "Register", "Reward", "Scalarizer", "ScanTransform", "Show", "Step", "Submit", "Ticket", "Wait",
    "input_fault", "kind_of",
]  # fmt: skip
