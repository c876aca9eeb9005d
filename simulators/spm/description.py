"""What the microscope says of itself: commands, limits, alarms, calibrations."""

from __future__ import annotations

from typing import Any

from probeloop.api import Alarm, Calibration, InstrumentInfo, Limits, SetBias, SetDrive, Withdraw

from .feedback import RAIL
from .settings import SpmSettings
from .specimen import CRITICAL_RADIUS
from .tip import SPRING

BIAS, DRIVE = 20.0, 10.0  # [V]
SPEED = 5e-5  # highest of the tip, sideways [m/s]
_TOUCHING: Any = ("approaching", "engaged", "held")
ALARMS = {
    "deflection": Alarm(high=1e-7, units="m", when=_TOUCHING, stuck_after=2.0, missing_after=2.0),
    "z_position": Alarm(
        low=0.1 * RAIL, high=1.9 * RAIL, units="m", when=("engaged", "held"), hold=0.2, stuck_after=2.0,
        missing_after=2.0,
    ),
}  # fmt: skip


def described_instrument(p: SpmSettings, channels: int, spectrum: int) -> InstrumentInfo:
    """Return what the microscope is. channels: of a scan; spectrum: the largest [bytes]."""
    half = 0.45 * p.width * 1e-9
    return InstrumentInfo(
        name="spm",
        modality="afm",
        origin="simulation",
        commands=(
            "Scan", "MoveProbe", "AcquireSpectrum", "Approach", "Withdraw", "SetFeedback", "SetBias", "ApplyPulse",
            "SetDrive", "Stop", "Pause", "Resume", "Settle", "Read", "Annotate",
        ),
        limits=Limits(
            region=((-half, -half), (half, half)),
            max_tip_speed=SPEED,
            dwell_time=(5e-5, 0.1),
            max_scan_points=4_194_304,
            knobs={"drive": (0.0, DRIVE), "drive_frequency": (1e4, 5e6)},
            bias=(-BIAS, BIAS),
            bias_ramp=100.0,
            alarms=ALARMS,
            frame_timeout=60.0,  # of a slow line; and the very first one may wait for a compiler
        ),
        topics={"scan": channels * 8, "spectrum": spectrum},
        safe_state=(SetDrive(amplitude=0.0), Withdraw(), SetBias(0.0)),
        safe_readback={"drive": 0.0, "feedback": "withdrawn", "bias": 0.0, "scanning": False},
        settling={"Approach": 1.5, "MoveProbe": 2e-3},
        calibrations=_calibrations(p),
        can_wait=p.can_wait,
        footprint=CRITICAL_RADIUS,
        own_waveform=(-p.amplitude, p.amplitude),
        description=f"simulated scanning probe microscope, {p.surface}, {p.width:g} nm, seed {p.seed}",
    )  # fmt: skip


def _calibrations(p: SpmSettings) -> tuple[Calibration, ...]:
    def known(kind: Any, value: float, sigma: float, units: str) -> Calibration:
        return Calibration(
            id=f"spm-{kind}", kind=kind, value=(value,), sigma=(sigma,), units=units, method="simulator",
            time="2026-01-01T00:00:00+00:00",
        )  # fmt: skip

    return (
        known("scan_scale", 1.0, 0.01, ""),
        known("spring_constant", SPRING, 0.1 * SPRING, "N/m"),
        known("phase_offset", p.phase_offset, 0.02, "rad"),
        known("bias_polarity", 1.0, 0.0, ""),
    )
