"""The language of instruments (CONVENTIONS.md 8): frozen, SI, every float bounded on both sides.

`Command` is the union that crosses processes; its JSON Schema is published by `probeloop schema`. A constructed
struct is not validated: the gate runs `settings.revalidate` on all it is handed.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from .scan import Length, Order, Position, Region
from .units import quantity

Frame = Literal["scan", "specimen"]
Duration = Annotated[float, quantity("s", ge=0.0, le=86400.0)]
Dwell = Annotated[float, quantity("s", gt=0.0, le=3600.0)]
Volt = Annotated[float, quantity("V", ge=-1000.0, le=1000.0)]
Ampere = Annotated[float, quantity("A", ge=0.0, le=1.0)]
Radian = Annotated[float, quantity("rad", ge=-7.0, le=7.0)]
Deflection = Annotated[float, quantity("", ge=-7.0, le=7.0)]  # m or rad, as the deflector
Hertz = Annotated[float, quantity("Hz", ge=0.0, le=1e10)]
ElectronVolt = Annotated[float, quantity("eV", ge=-1e6, le=1e6)]
Dispersion = Annotated[float, quantity("eV/channel", gt=0.0, le=1000.0)]
Newton = Annotated[float, quantity("N", ge=0.0, le=1.0)]
Ratio = Annotated[float, quantity("", ge=-1e12, le=1e12)]
Speed = Annotated[float, quantity("m/s", ge=0.0, le=1.0)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.]{0,63}$")]


class _Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of all commands; the tag is the class name."""


class Scan(_Command, frozen=True):
    """Visit the pixels of `region` on a map of `shape` (ny, nx), `frames` times."""

    region: Region
    shape: tuple[Count, Count]
    dwell_time: Dwell
    order: Order = "raster"
    frames: Count = 1
    channels: tuple[str, ...] = ()
    flyback_time: Duration = 0.0
    frame: Frame = "scan"
    position_tolerance: Length = 1.0


class ScanPath(_Command, frozen=True):
    """Visit `positions` in order; one axis `point`."""

    positions: tuple[Position, ...]
    dwell_time: Dwell
    frame: Frame = "scan"
    position_tolerance: Length = 1.0


class MoveProbe(_Command, frozen=True):
    """Put the probe at a position on the scanner's grid."""

    position: Position
    frame: Frame = "scan"
    position_tolerance: Length = 1.0


class Stop(_Command, frozen=True):
    """STOP: safe state now, every queue flushed, the epoch raised. Always accepted."""

    reason: str = ""


class Pause(_Command, frozen=True):
    """Hold after the current line (an instrument) or step (a plan)."""


class Resume(_Command, frozen=True):
    """Go on after Pause."""


class Blank(_Command, frozen=True):
    """Take the beam off the sample."""


class Unblank(_Command, frozen=True):
    """Put the beam on the sample."""


class SetBeam(_Command, frozen=True):
    """Beam current [A] or the column's spot number."""

    current: Ampere | None = None
    spot: Annotated[int, msgspec.Meta(ge=0, le=100)] | None = None


class SetOptics(_Command, frozen=True):
    """Camera length [m], convergence angle [rad], mode."""

    camera_length: Annotated[float, quantity("m", gt=0.0, le=100.0)] | None = None
    convergence_angle: Annotated[float, quantity("rad", gt=0.0, le=0.2)] | None = None
    mode: str | None = None


class SetAberrations(_Command, frozen=True):
    """Aberration knobs by name (C10, C12a, ...) [m]; added to the knob's value unless absolute."""

    values: dict[Name, Length]
    absolute: bool = False


class SetPhasePlate(_Command, frozen=True):
    """Phase of every programmable segment."""

    phases: tuple[Radian, ...]


class SetShift(_Command, frozen=True):
    """Deflector: beam, image, descan [m] or tilt [rad]."""

    which: Literal["beam", "image", "descan", "tilt"]
    x: Deflection
    y: Deflection


class MoveStage(_Command, frozen=True):
    """Stage axes; None = leave."""

    x: Length | None = None
    y: Length | None = None
    z: Length | None = None
    alpha: Radian | None = None
    beta: Radian | None = None
    absolute: bool = True


class SetDetector(_Command, frozen=True):
    """Detector state; None = leave. roi = (y0, x0, height, width) [px]."""

    inserted: bool | None = None
    exposure: Dwell | None = None
    threshold: ElectronVolt | None = None
    bit_depth: Literal[1, 6, 8, 12, 16, 24, 32] | None = None
    roi: tuple[int, int, int, int] | None = None
    binning: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None


class SetSpectrometer(_Command, frozen=True):
    """Spectrometer state; None = leave."""

    energy_offset: ElectronVolt | None = None
    dispersion: Dispersion | None = None
    slit: ElectronVolt | None = None


class AcquireReference(_Command, frozen=True):
    """A reference measurement."""

    kind: Literal["dark", "gain", "vacuum_probe", "drift_image", "zero_loss"]
    frames: Count = 1


class SetBias(_Command, frozen=True):
    """Tip or sample bias [V], reached at `ramp` [V/s]."""

    value: Volt
    ramp: Annotated[float, quantity("V/s", gt=0.0, le=1e6)] = 1.0


class SetDrive(_Command, frozen=True):
    """Excitation of a lock-in measurement."""

    frequency: Hertz | None = None
    amplitude: Volt | None = None
    band: Hertz | None = None


class SetFeedback(_Command, frozen=True):
    """Feedback on or held, with set point and gains."""

    state: Literal["on", "hold"]
    setpoint: Ratio | None = None
    proportional: Ratio | None = None
    integral: Ratio | None = None


class Approach(_Command, frozen=True):
    """Bring the tip into feedback: the only way to `engaged`."""


class Withdraw(_Command, frozen=True):
    """Take the tip away."""

    distance: Annotated[float, quantity("m", gt=0.0, le=1.0)] = 1e-6


class Lift(_Command, frozen=True):
    """Hold the tip at a height above the last surface."""

    height: Annotated[float, quantity("m", gt=0.0, le=1e-3)]


class ApplyPulse(_Command, frozen=True):
    """One bias pulse at a position."""

    position: Position
    value: Volt
    duration: Dwell
    frame: Frame = "scan"
    position_tolerance: Length = 1.0


class BEPS(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Band-excitation switching loop: bias waveform [V], lock-in band."""

    waveform: tuple[Volt, ...] = ()
    cycles: Count = 1
    centre_frequency: Hertz = 350e3
    bandwidth: Hertz = 60e3
    drive: Volt = 1.0
    n_bins: Count = 64
    pulse_time: Dwell = 4e-3
    field: Literal["on", "off", "both"] = "off"


class IV(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Current against bias."""

    start: Volt
    stop: Volt
    n: Count
    ramp: Annotated[float, quantity("V/s", gt=0.0, le=1e6)] = 1.0
    settle: Duration = 0.0
    both_ways: bool = True
    hold: bool = True


class ForceCurve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Force against distance, up to a force or a depth."""

    n: Count
    trigger_force: Newton | None = None
    depth: Length | None = None
    speed: Speed = 1e-6
    dwell: Duration = 0.0


class EELS(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Electron energy-loss spectrum."""

    exposure: Dwell
    n: Count = 1
    offset: ElectronVolt | None = None
    dispersion: Dispersion | None = None


class EDS(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """X-ray spectrum."""

    exposure: Dwell


class Diffraction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """One diffraction pattern."""

    exposure: Dwell


SpectrumKind = BEPS | IV | ForceCurve | EELS | EDS | Diffraction


class AcquireSpectrum(_Command, frozen=True):
    """Measure at a position; one block on the topic `spectrum`."""

    position: Position
    kind: SpectrumKind
    frame: Frame = "scan"
    position_tolerance: Length = 1.0


class Settle(_Command, frozen=True):
    """Wait until a quantity is within its tolerance."""

    quantity: Name
    tolerance: Ratio
    timeout: Duration


class Read(_Command, frozen=True):
    """Read values back by name."""

    names: tuple[Name, ...] = ()


class Annotate(_Command, frozen=True):
    """A note in the record."""

    text: Annotated[str, msgspec.Meta(max_length=4000)]


class VendorRoutine(_Command, frozen=True):
    """A routine of the vendor's, if the rig allows its name."""

    name: Name
    args: dict[Name, Ratio | str | bool] = {}


Command = (
    Scan | ScanPath | MoveProbe | Stop | Pause | Resume | Blank | Unblank | SetBeam | SetOptics | SetAberrations
    | SetPhasePlate | SetShift | MoveStage | SetDetector | SetSpectrometer | AcquireReference | SetBias | SetDrive
    | SetFeedback | Approach | Withdraw | Lift | ApplyPulse | AcquireSpectrum | Settle | Read | Annotate
    | VendorRoutine
)  # fmt: skip
CORE = ("Scan", "MoveProbe", "Stop", "Pause", "Resume", "SetDetector", "AcquireReference", "AcquireSpectrum",
        "Settle", "Read", "Annotate")  # fmt: skip
COMMANDS: dict[str, type[_Command]] = {cls.__name__: cls for cls in Command.__args__}
ACQUISITIONS = (Scan, ScanPath, AcquireSpectrum, AcquireReference)


def name_of(command: _Command) -> str:
    """Return the command's name, its tag on the wire."""
    return type(command).__name__
