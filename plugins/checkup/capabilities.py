"""Every capability set to a mild value within its limits, read back, and put back."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from probeloop.api import (
    Blank,
    DriverError,
    InstrumentInfo,
    MoveProbe,
    Read,
    RefusedError,
    Result,
    SetAberrations,
    SetBeam,
    SetBias,
    SetDetector,
    Unblank,
)

from .findings import Findings

Steps = Generator[Any, Any, Any]
ENDS = ("budget", "abort", "stop")
_MILD = 0.01  # of a range
_LEFT_OUT = {
    "Approach": "brings the tip to the surface",
    "Withdraw": "moves the tip",
    "Lift": "moves the tip",
    "ApplyPulse": "changes the sample",
    "VendorRoutine": "does what the vendor says",
    "SetFeedback": "moves the tip",
    "SetDrive": "shakes the tip",
    "MoveStage": "moves the sample",
    "SetOptics": "changes the calibrations",
    "SetPhasePlate": "has no read-back by name",
    "SetShift": "has no read-back by name",
    "SetSpectrometer": "has no read-back by name",
}


def exercise(info: InstrumentInfo, findings: Findings) -> Steps:
    """Set, read and put back what can be; a row for each command."""
    commands = info.commands
    if "Read" not in commands:
        findings.cannot("read back", "the instrument reads nothing back")
        return
    start: Result = yield Read()
    values = start.readback
    findings.row("read back", "passed", f"{len(values)} values", values=dict(values))
    if "SetAberrations" in commands:
        yield from _each(findings, "SetAberrations", _knobs(info, values))
    if "SetBeam" in commands:
        yield from _each(findings, "SetBeam", _beam(info, values))
    if "Unblank" in commands and "Blank" in commands:
        yield from _each(findings, "Blank, Unblank", _blanker())
    if "SetDetector" in commands and "detector_inserted" in values:
        yield from _each(findings, "SetDetector", _detector(values))
    if "MoveProbe" in commands:
        yield from _each(findings, "MoveProbe", _probe(info, values))
    if "SetBias" in commands and info.limits.bias is not None and isinstance(values.get("bias"), int | float):
        yield from _each(findings, "SetBias", _bias(info, float(values["bias"] or 0.0)))
    for name in commands:
        if name in _LEFT_OUT:
            findings.cannot(name, f"left out, because it {_LEFT_OUT[name]}")


def _each(findings: Findings, name: str, steps: Steps) -> Steps:
    """Run one exercise; it returns what is wrong, "" for nothing."""
    try:
        wrong = yield from steps
    except RefusedError as error:
        if error.limit in ENDS:
            raise
        findings.cannot(name, str(error))
    except DriverError as error:
        findings.row(name, "failed", str(error))
    else:
        findings.row(name, "failed" if wrong else "passed", wrong or "set, read back, put back")


def _near(found: Any, wanted: float, scale: float) -> bool:
    return isinstance(found, int | float) and abs(float(found) - wanted) <= 1e-3 * abs(scale) + 1e-15


def _knobs(info: InstrumentInfo, values: dict[str, Any]) -> Steps:
    wrong = []
    for name, (low, high) in info.limits.knobs.items():
        before = values.get(name)
        if not isinstance(before, int | float):
            wrong.append(f"{name} is not read back")
            continue
        change = _MILD * (high - low) / 2
        change = change if before + change <= high else -change
        done: Result = yield SetAberrations({name: change})
        back: Result = yield SetAberrations({name: -change})
        if not _near(done.readback.get(name), before + change, change):
            wrong.append(f"{name} reads {done.readback.get(name)} m after it was set to {before + change:g} m")
        elif not _near(back.readback.get(name), before, change):
            wrong.append(f"{name} does not come back")
    return "; ".join(wrong)


def _beam(info: InstrumentInfo, values: dict[str, Any]) -> Steps:
    before = values.get("beam_current")
    if not isinstance(before, int | float) or not before:
        return "the beam current is not read back"
    low = info.limits.beam_current[0] if info.limits.beam_current else 0.0
    wanted = max(low, 0.9 * float(before))
    done: Result = yield SetBeam(current=wanted)
    back: Result = yield SetBeam(current=float(before))
    if not _near(done.readback.get("beam_current"), wanted, before):
        return f"reads {done.readback.get('beam_current')} A after it was set to {wanted:g} A"
    return "" if _near(back.readback.get("beam_current"), float(before), before) else "does not come back"


def _blanker() -> Steps:
    lit: Result = yield Unblank()
    dark: Result = yield Blank()
    again: Result = yield Unblank()
    found = [each.readback.get("blanked") for each in (lit, dark, again)]
    return "" if found == [False, True, False] else f"blanked reads {found} after on, off, on"


def _detector(values: dict[str, Any]) -> Steps:
    state = bool(values["detector_inserted"])
    done: Result = yield SetDetector(inserted=state)
    found = done.readback.get("detector_inserted")
    return "" if found == state else f"inserted reads {found} after it was set to {state}"


def _probe(info: InstrumentInfo, values: dict[str, Any]) -> Steps:
    (x0, y0), (x1, y1) = info.limits.region
    x, y = values.get("position_x"), values.get("position_y")
    if not isinstance(x, int | float) or not isinstance(y, int | float):
        return "the position is not read back"
    step = min(_MILD * (x1 - x0), info.limits.max_step or x1 - x0)
    near = info.grid.nearest((min(max(float(x), x0), x1), min(max(float(y), y0), y1)))
    goal = info.grid.nearest((near[0] + (step if near[0] + step <= x1 else -step), near[1]))
    done: Result = yield MoveProbe(goal)
    back: Result = yield MoveProbe(near)
    found, slack = done.readback.get("position_x"), step + 2 * info.grid.step[0]
    if not _near(found, goal[0], slack):
        return f"x reads {found} m after it was sent to {goal[0]:g} m"
    return "" if _near(back.readback.get("position_x"), near[0], slack) else "does not come back"


def _bias(info: InstrumentInfo, before: float) -> Steps:
    assert info.limits.bias is not None
    low, high = info.limits.bias
    change = _MILD * (high - low) / 2
    wanted = before + change if before + change <= high else before - change
    done: Result = yield SetBias(wanted)
    back: Result = yield SetBias(before)
    if not _near(done.readback.get("bias"), wanted, change):
        return f"reads {done.readback.get('bias')} V after it was set to {wanted:g} V"
    return "" if _near(back.readback.get("bias"), before, change) else "does not come back"
