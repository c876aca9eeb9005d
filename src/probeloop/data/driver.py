"""What a driver or a simulator must offer: one required Protocol, and one small Protocol for each thing it can do.

An instrument is what it can do: it lists its commands in `describe().commands`, and offers the verb that `VERBS`
names for each. The core owns threads, buffers and topics; a driver fills the buffer that it is handed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import msgspec

from . import commands as c
from .axes import Origin, StreamSpec
from .calibration import Calibration
from .clock import Clock
from .control import Scalar
from .limits import Limits
from .scan import Position

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .frame import FrameBuffer

Modality = Literal["stem", "stm", "afm", "none"]


class Grid(msgspec.Struct, frozen=True):
    """Places the scanner can reach: origin + step * (i, j) [m]; step 0 = continuous."""

    origin: tuple[float, float] = (0.0, 0.0)
    step: tuple[float, float] = (0.0, 0.0)

    def nearest(self, position: Position) -> Position:
        """Return the reachable place nearest to `position`; the sender does this, the gate never."""
        x, y = (
            o + round((p - o) / s) * s if s else p for p, o, s in zip(position, self.origin, self.step, strict=True)
        )
        return (x, y)

    def holds(self, position: Position) -> bool:
        """True when `position` is on the grid, to a millionth of a step."""
        (x, y), (dx, dy) = position, self.step
        if not (dx or dy):
            return True
        near_x, near_y = self.nearest(position)
        return (not dx or abs(x - near_x) <= 1e-6 * dx) and (not dy or abs(y - near_y) <= 1e-6 * dy)


class InstrumentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an instrument is.

    commands: names it understands. topics: every topic it may publish, with its largest frame [bytes].
    safe_state: in order; empty for a `detector_alone`. safe_readback: what read_back() says when it is reached (empty
    = can't be verified).
    settling: seconds by command name. beam_current: the highest of the present state [A], for the dose.
    footprint: probe size for the dose map [m]. interruptible: a scan can be ended within a line. own_waveform: lowest
    and highest bias [V] of a loop that names no waveform; None = not known.
    """

    name: str
    modality: Modality
    origin: Origin
    commands: tuple[str, ...]
    limits: Limits
    grid: Grid = Grid()
    topics: dict[str, int] = {}
    safe_state: tuple[c.Command, ...] = ()
    safe_readback: dict[str, Scalar] = {}
    settling: dict[str, float] = {}
    calibrations: tuple[Calibration, ...] = ()
    interruptible: bool = True
    can_wait: bool = False
    camera_pixels: int = 0
    park_timeout: float = 0.5
    footprint: float = 0.0
    own_waveform: tuple[float, float] | None = None
    description: str = ""


@dataclass(frozen=True)
class Acquisition:
    """A measurement the hardware has accepted.

    topic, spec: where its frames go and what they are. t_settled_ns: on the instrument's clock; frames exposed
    before it are flagged SETTLING. frame_period_ns: on the host's clock, for the pump to size its blocks; 0 =
    unknown. frames: a primed-by-`next` generator: `n = frames.send(buffer)` fills rows [0, n) of the buffer, n >= 1,
    and raises StopIteration at the end; `frames.close()` aborts it. truth: a simulator's, see `Simulator`.
    """

    topic: str
    spec: StreamSpec
    frames: Generator[int, FrameBuffer, None]
    t_settled_ns: int = 0
    frame_period_ns: int = 0
    settings: dict[str, Scalar] = field(default_factory=dict)
    truth: Callable[[], Mapping[str, Any]] | None = None


@runtime_checkable
class Instrument(Protocol):
    """Required of every driver and simulator."""

    clock: Clock

    def describe(self) -> InstrumentInfo:
        """Say what the instrument is and can do."""
        ...

    def read_back(self) -> dict[str, Scalar]:
        """Return the hardware's own values by name: what it is, not what was asked.

        Names the gate knows: position_x, position_y [m], blanked, beam_current [A], detector_inserted, feedback,
        bias [V], drive [V], energy_offset [eV], dispersion [eV/channel], slit [eV], every knob by its name (C10
        ...) [m].
        """
        ...

    def make_safe(self) -> None:
        """Reach the safe state within 0.5 s; called from another thread during any other call, more than once."""
        ...

    def close(self) -> None:
        """Let go of the hardware."""
        ...


class Simulator(Instrument, Protocol):
    """An instrument that is not there, and so can say what is really there: for training and scoring, on no topic.

    An acquisition of it may say so too: once its frames have ended, `Acquisition.truth()` returns arrays with a row
    for each trigger in its order, or one row that holds for all. Names with a meaning: time_ns (needed), scan_index,
    position (x, y) in SPECIMEN [m], drift (x, y) [m], electrons (that an open beam sends through the specimen), and
    aberrations by coefficient (C10 ...) [m]. Any other name is held against the recorded topic or channel so called.
    """

    def truth(self) -> Mapping[str, Any]:
        """Return what is true now, by name: arrays, plain values, functions (which no session keeps).

        Names with a meaning: aberrations, drift (vx, vy) [m/s], dose_map [e/m²], and calibrations: the true value by
        kind of calibration, where what the instrument declares may be off.
        """
        ...


class Foretelling(Protocol):
    """A simulator that can tell a spectrum before it is measured: what a report holds a learned map against."""

    def expected_spectra(self, kind: c.SpectrumKind, positions: NDArray[Any]) -> tuple[StreamSpec, NDArray[Any]]:
        """Return what `acquire_spectrum` would give at places of the specimen as it is now, and changes nothing.

        positions: (N, 2) (x, y) [m]. The spec of a spectrum, and (N, *frame_shape) without noise and without faults.
        Raises DriverError for a kind that it doesn't measure.
        """
        ...


class SafePort(Protocol):
    """A second way to the hardware, for the guard's process.

    A driver class offers it as the static method `guard_connection(parameters) -> SafePort`, with the parameters that
    the driver itself gets. It raises when the hardware is not there or refuses, and is called again later. Without
    one the guard reaches nothing, and says so. Each call returns or raises within 0.5 s, mute hardware or not.
    """

    def make_safe(self) -> None:
        """Reach the safe state within 0.5 s, whatever the first connection does."""
        ...

    def read_back(self) -> dict[str, Scalar]:
        """Return the hardware's own values by name, as `Instrument.read_back`; asked once a second, as a proof."""
        ...

    def close(self) -> None:
        """Let go of this connection."""
        ...


class Sensors(Protocol):
    """Values that are watched while nobody commands: what `limits.alarms` is about."""

    def sense(self) -> dict[str, Scalar]:
        """Return what each sensor reads now, by the name of its alarm, in that alarm's units.

        Called every 50 ms from a thread of its own during any other call, as `make_safe`, and back before the
        shortest `missing_after` is over. A sensor that can't be read is left out or None: that trips too.
        """
        ...


class Scanner(Protocol):
    """Moves the probe."""

    def scan(self, command: c.Scan) -> Acquisition:
        """Begin a scan."""
        ...

    def move_probe(self, command: c.MoveProbe) -> int:
        """Move; return when it is settled, on the instrument's clock [ns]."""
        ...


class PathScanner(Protocol):
    """Visits arbitrary places."""

    def scan_path(self, command: c.ScanPath) -> Acquisition:
        """Begin a scan along a path."""
        ...


class Camera(Protocol):
    """A detector with a state, and reference measurements."""

    def set_detector(self, command: c.SetDetector) -> int:
        """Set it; return when it is settled [ns]."""
        ...

    def acquire_reference(self, command: c.AcquireReference) -> Acquisition:
        """Begin a reference measurement."""
        ...


class Beam(Protocol):
    """A beam that can be taken off the sample."""

    def blank(self, command: c.Blank) -> int:
        """Blank; return when it is settled [ns]."""
        ...

    def unblank(self, command: c.Unblank) -> int:
        """Unblank; return when it is settled [ns]."""
        ...


class BeamCurrent(Protocol):
    """A beam whose current can be set."""

    def set_beam(self, command: c.SetBeam) -> int:
        """Set it; return when it is settled [ns]."""
        ...


class Optics(Protocol):
    """Aberration knobs."""

    def set_aberrations(self, command: c.SetAberrations) -> int:
        """Turn the knobs; return when they are settled [ns]."""
        ...


class Spectrometer(Protocol):
    """Measures at a place."""

    def acquire_spectrum(self, command: c.AcquireSpectrum) -> Acquisition:
        """Begin the measurement; one block of one frame."""
        ...


class EnergyAxis(Protocol):
    """A spectrometer whose energy axis and slit can be set."""

    def set_spectrometer(self, command: c.SetSpectrometer) -> int:
        """Set it; return when it is settled [ns]."""
        ...


class Tip(Protocol):
    """A tip with feedback."""

    def approach(self, command: c.Approach) -> int:
        """Come into feedback; return when it is settled [ns]."""
        ...

    def withdraw(self, command: c.Withdraw) -> int:
        """Go away from the surface; return when it is settled [ns]."""
        ...

    def set_feedback(self, command: c.SetFeedback) -> int:
        """Feedback on or held; return when it is settled [ns]."""
        ...


class Bias(Protocol):
    """A bias that can be set and pulsed."""

    def set_bias(self, command: c.SetBias) -> int:
        """Ramp to a value; return when it is settled [ns]."""
        ...

    def apply_pulse(self, command: c.ApplyPulse) -> int:
        """One pulse; return when it is settled [ns]."""
        ...


class Drive(Protocol):
    """An excitation that can be set."""

    def set_drive(self, command: c.SetDrive) -> int:
        """Set it; return when it is settled [ns]."""
        ...


VERBS: dict[str, tuple[str, str]] = {
    "Scan": ("Scanner", "scan"),
    "MoveProbe": ("Scanner", "move_probe"),
    "ScanPath": ("PathScanner", "scan_path"),
    "SetDetector": ("Camera", "set_detector"),
    "AcquireReference": ("Camera", "acquire_reference"),
    "Blank": ("Beam", "blank"),
    "Unblank": ("Beam", "unblank"),
    "SetBeam": ("BeamCurrent", "set_beam"),
    "SetAberrations": ("Optics", "set_aberrations"),
    "AcquireSpectrum": ("Spectrometer", "acquire_spectrum"),
    "SetSpectrometer": ("EnergyAxis", "set_spectrometer"),
    "Approach": ("Tip", "approach"),
    "Withdraw": ("Tip", "withdraw"),
    "SetFeedback": ("Tip", "set_feedback"),
    "SetBias": ("Bias", "set_bias"),
    "ApplyPulse": ("Bias", "apply_pulse"),
    "SetDrive": ("Drive", "set_drive"),
}
OF_THE_CORE = ("Stop", "Pause", "Resume", "Settle", "Read", "Annotate")
_DRIVES_NOTHING = frozenset(("Scan", "SetDetector", "AcquireReference", *OF_THE_CORE))
NO_OUTPUT = "none: no output of its own"


def detector_alone(info: InstrumentInfo) -> bool:
    """True when no command of the instrument changes what meets the sample: beam, probe, tip, bias, stage.

    A scan unit that is not its own moves the probe, so its scans are always of all of limits.region, and its safe
    state may be empty: ending its own acquisition is all that make_safe can do.
    """
    return "Scan" in info.commands and _DRIVES_NOTHING.issuperset(info.commands)


def safe_words(info: InstrumentInfo) -> str:
    """Return the safe state for people: the commands in order, or why there are none."""
    if info.safe_state:
        return ", then ".join(map(c.name_of, info.safe_state))
    return NO_OUTPUT if detector_alone(info) else "none"


def missing_verbs(instrument: Instrument) -> list[str]:
    """Return, in words, every command and alarm that is declared without the method it needs."""
    info = instrument.describe()
    faults = []
    if info.limits.alarms and not callable(getattr(instrument, "sense", None)):
        faults.append(f"alarms {', '.join(info.limits.alarms)}: the method sense() of Sensors is missing")
    for name in info.commands:
        if name in OF_THE_CORE:
            continue
        if name not in VERBS:
            faults.append(f"{name}: no verb exists for it in this version")
        elif not callable(getattr(instrument, VERBS[name][1], None)):
            faults.append(f"{name}: the method {VERBS[name][1]}() of {VERBS[name][0]} is missing")
    return faults
