"""The state that stands over everything, as a pure function of what is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gone", "stopped", "stale", "paused", "settling", "live", "ready"]
STALE_S = 2.0
SILENT_S = 1.5

ORIGINS = {
    "simulation": ("SIMULATED", "these data come from a simulator, not from a microscope"),
    "replay": ("REPLAY", "these data were measured earlier and are played again"),
    "experiment": ("MICROSCOPE", "these data come from the instrument"),
    "": ("SOURCE UNKNOWN", "the instrument has not said what it is"),
}


@dataclass(frozen=True)
class Facts:
    """What the banner looks at. Ages in seconds, None = never heard of."""

    connected: bool = True
    instrument_age: float | None = None
    fault: str = ""
    paused: bool = False
    settling: bool = False
    acquiring: bool = False
    frame_age: float | None = None
    origin: str = ""
    uncalibrated: tuple[str, ...] = ()


@dataclass(frozen=True)
class Banner:
    """What to show: kind, one word, one line, the origin of the data, what is not calibrated."""

    kind: Kind
    word: str
    line: str
    origin: str
    origin_line: str
    uncalibrated: str = ""


def banner(facts: Facts) -> Banner:
    """Return the banner; what is most dangerous to overlook comes first."""
    kind, word, line = _state(facts)
    origin, origin_line = ORIGINS.get(facts.origin, ORIGINS[""])
    missing = f"uncalibrated: {', '.join(facts.uncalibrated)}" if facts.uncalibrated else ""
    return Banner(kind, word, line, origin, origin_line, missing)


def _state(facts: Facts) -> tuple[Kind, str, str]:
    if not facts.connected or facts.instrument_age is None:
        return "gone", "NO INSTRUMENT", "waiting for the rig; what you see is old. It reconnects by itself"
    if facts.instrument_age > SILENT_S:
        silent = f"silent for {facts.instrument_age:.0f} s"
        return "stale", "STALE", f"the instrument's process is {silent}; what you see is old. It reconnects by itself"
    if facts.fault:
        return (
            "stopped",
            "STOPPED",
            f"{facts.fault}. Latched: re-arm to permit new commands; nothing restarts by itself",
        )
    if facts.paused:
        return "paused", "PAUSED", "resume the plan to go on"
    if facts.acquiring and facts.frame_age is not None and facts.frame_age > STALE_S:
        return "stale", "STALE", f"acquiring, but no frame came for {facts.frame_age:.0f} s"
    if facts.settling:
        return "settling", "SETTLING", "the hardware is reaching its new state; these frames are not used"
    if facts.frame_age is not None and facts.frame_age <= STALE_S:
        return "live", "LIVE", "frames are arriving"
    if facts.frame_age is None:
        return "ready", "READY", "connected; no frames yet. Run a plan to begin"
    return "ready", "READY", f"connected; the last frame came {_ago(facts.frame_age)} ago"


def _ago(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
