"""What processes say to each other: requests, replies, events.

Every process answers one request/response service with `Request`; every change of state goes to the lossless
topic `events` as `Event`. Nothing keeps state that can't be rebuilt from `Describe` and the events.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from .commands import Command, Pause, Resume, Stop
from .errors import WireError
from .scan import Position
from .units import quantity

Cause = tuple[tuple[str, int], ...]
Json = Any
Scalar = float | int | bool | str | None


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a command spends: dose [e], highest dose on the sample after it [e/m²], time [s], pulses."""

    dose: float = 0.0
    area_dose: float = 0.0
    time: float = 0.0
    pulses: int = 0
    estimate: bool = False


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stamps of the host's CLOCK_MONOTONIC [ns] along the loop; 0 = not passed.

    exposed: end of exposure of the newest frame in `cause`. published: by the camera. taken, derived: into the first
    plug-in and out of the last, 0 where the policy read the camera itself. received: by the policy's process.
    Loop latency = applied - exposed.
    """

    exposed: int = 0
    published: int = 0
    taken: int = 0
    derived: int = 0
    received: int = 0
    decided: int = 0
    submitted: int = 0
    verdict: int = 0
    applied: int = 0

    @property
    def loop_latency_ns(self) -> int | None:
        """Software latency of the loop [ns]; None for a command without a cause."""
        return self.applied - self.exposed if self.exposed and self.applied else None


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of requests; the tag is the class name."""


class Describe(_Request, frozen=True):
    """Ask a process what it is, and in what state."""


class SetParameters(_Request, frozen=True):
    """New parameters for `target`, if its revision is still `expect_revision` (None = whatever it is)."""

    target: str
    values: dict[str, Json]
    expect_revision: int | None = None


class Enable(_Request, frozen=True):
    """Let a plug-in run."""

    plugin: str


class Disable(_Request, frozen=True):
    """Stop a plug-in; its topics stay."""

    plugin: str


class Reload(_Request, frozen=True):
    """Load a plug-in's source again, in a second process."""

    plugin: str


class Run(_Request, frozen=True):
    """Run a plan."""

    plan: str
    parameters: dict[str, Json] = {}
    seed: int | None = None


class Abort(_Request, frozen=True):
    """End the plan, or the scan that runs, in order."""

    reason: str = ""


class SetReward(_Request, frozen=True):
    """What is interesting, now and of all that was measured: weights, a scalarizer of the rig; None = leave."""

    weights: dict[str, Annotated[float, quantity("", ge=-1e9, le=1e9)]] | None = None
    scalarizer: str | None = None


class SetBudget(_Request, frozen=True):
    """New limits of what the plan may spend; None = leave."""

    dose: Annotated[float, quantity("e", ge=0.0, le=1e30)] | None = None
    time: Annotated[float, quantity("s", ge=0.0, le=1e9)] | None = None
    count: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] | None = None


class Approve(_Request, frozen=True):
    """Let the plan measure these suggestions."""

    ids: tuple[int, ...]


class Veto(_Request, frozen=True):
    """Drop these suggestions."""

    ids: tuple[int, ...]


class AddPoint(_Request, frozen=True):
    """Measure here too."""

    position: Position


class StartRecording(_Request, frozen=True):
    """Record the named topics (none = those of the rig)."""

    topics: tuple[str, ...] = ()


class StopRecording(_Request, frozen=True):
    """Close the record."""


class Note(_Request, frozen=True):
    """A person's remark, for the record."""

    text: Annotated[str, msgspec.Meta(max_length=4000)]


class Shutdown(_Request, frozen=True):
    """Go to the safe state and end."""


class TakeControl(_Request, frozen=True):
    """Take the lease; `force` by the operator raises the epoch."""

    holder: str
    force: bool = False


class ReleaseControl(_Request, frozen=True):
    """Give the lease back."""

    holder: str


class Heartbeat(_Request, frozen=True):
    """The holder lives (1 s; silence of 3 s is dangerous)."""

    holder: str
    epoch: int


class Rearm(_Request, frozen=True):
    """The operator's reset after a STOP or a fault: permits, never restarts."""

    holder: str


class Submit(_Request, frozen=True):
    """A command for the gate.

    epoch: the one the command was made in. not_after: host CLOCK_MONOTONIC [ns], 0 = no deadline.
    """

    command: Command
    holder: str
    epoch: int
    cause: Cause = ()
    trace: Trace = Trace()
    not_after: int = 0
    dry_run: bool = False


Request = (
    Describe | SetParameters | Enable | Disable | Reload | Run | Pause | Resume | Abort | SetReward | SetBudget
    | Approve | Veto | AddPoint | StartRecording | StopRecording | Note | Shutdown | TakeControl | ReleaseControl
    | Heartbeat | Rearm | Stop | Submit
)  # fmt: skip


class Accepted(msgspec.Struct, frozen=True, tag=True):
    """Yes. id: of the command or action; completion comes as an event. epoch: the one now in force."""

    id: int = 0
    cost: Cost = Cost()
    epoch: int = 0


class Refused(msgspec.Struct, frozen=True, tag=True):
    """No: the reason in words, the limit that would be crossed, what is allowed."""

    reason: str
    limit: str = ""
    allowed: str = ""


class Description(msgspec.Struct, frozen=True, tag=True):
    """Answer to Describe: role, state as plain data, JSON Schema of what can be set."""

    process: str
    role: str
    state: dict[str, Json] = {}
    schema: dict[str, Json] = {}


Reply = Accepted | Refused | Description


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished command gave. Bulk data stay on their topic, named by (topic, generation, first_index, count).

    first_valid_index: the first block index at or after which frames show the new state.
    physical_ns: end of exposure of the cause, of this command or of the change before it, to the first valid frame,
    settling included. aborted: it ended early. stopped: by a STOP, a fault or a hand-over, which is told when the
    instrument is safe.
    """

    generation: int = 0
    topic: str = ""
    first_index: int = -1
    count: int = 0
    first_valid_index: int = -1
    readback: dict[str, Scalar] = {}
    cost: Cost = Cost()
    trace: Trace = Trace()
    physical_ns: int | None = None
    aborted: bool = False
    stopped: bool = False


class _Event(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Base of events. time_ns: host CLOCK_MONOTONIC; wall: ISO 8601; process: who says so."""

    process: str = ""
    time_ns: int = 0
    wall: str = ""


class Verdict(_Event, frozen=True, kw_only=True):
    """The gate judged a command."""

    id: int
    command: Command
    holder: str
    epoch: int
    accepted: bool
    reason: str = ""
    limit: str = ""
    allowed: str = ""
    cost: Cost = Cost()
    cause: Cause = ()
    dry_run: bool = False


class Done(_Event, frozen=True, kw_only=True):
    """A command finished."""

    id: int
    result: Result


class Failed(_Event, frozen=True, kw_only=True):
    """A command failed. stopped: by a STOP, a fault or a hand-over, which is told when the instrument is safe."""

    id: int
    reason: str
    stopped: bool = False


class Generation(_Event, frozen=True, kw_only=True):
    """The hardware accepted a change: frames of `id` follow (CONVENTIONS.md 3)."""

    id: int
    command_id: int
    topic: str
    scan: Command | None = None
    settings: dict[str, Scalar] = {}
    calibration_ids: tuple[str, ...] = ()
    t_settled_ns: int = 0


class Revision(_Event, frozen=True, kw_only=True):
    """New parameters are in force from `first_index` of `topic` on."""

    target: str
    topic: str
    revision: int
    first_index: int
    values: dict[str, Json]
    source_hash: str = ""


class StateChange(_Event, frozen=True, kw_only=True):
    """A process, plug-in, plan, lease, recorder or the gate is now in another state."""

    target: str
    state: str
    reason: str = ""
    data: dict[str, Json] = {}


class Gap(_Event, frozen=True, kw_only=True):
    """Frames that never came: `count` from `first` of `topic`; `pixels` names them where known."""

    topic: str
    first: int
    count: int
    reason: str
    generation: int = 0
    pixels: tuple[int, ...] = ()


class Progress(_Event, frozen=True, kw_only=True):
    """How far a plan or scan is; eta [s] or None."""

    target: str
    done: float
    total: float
    eta: float | None = None
    message: str = ""


class Observed(_Event, frozen=True, kw_only=True):
    """A plan's step and what came of it, for the record and for resuming."""

    step: int
    kind: str
    value: Json


class Remark(_Event, frozen=True, kw_only=True):
    """A person's note or a message of a process. level: as in a log."""

    text: str
    level: Literal["debug", "info", "warning", "error"] = "info"


Event = (
    Verdict | Done | Failed | Generation | Revision | StateChange | Gap | Progress | Observed | Remark
)  # fmt: skip

_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}
_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """Return a request, reply or event as msgpack."""
    return _encoder.encode(message)


def _decode(data: bytes, kind: Any) -> Any:
    if kind not in _decoders:
        _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return _decoders[kind].decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"no message: {error}") from error


def decode_request(data: bytes) -> Request:
    """Read a request; raises WireError."""
    made: Request = _decode(data, Request)
    return made


def decode_reply(data: bytes) -> Reply:
    """Read a reply; raises WireError."""
    made: Reply = _decode(data, Reply)
    return made


def decode_event(data: bytes) -> Event:
    """Read an event; raises WireError."""
    made: Event = _decode(data, Event)
    return made
