"""What can be checked on a detector alone: that its frames come, all of them, and that its pixels live.

It moves no beam and no probe, so nothing that needs an empty place, a dark frame or a second look at one place of the
specimen can be measured with it. Each of these is named, with what to do instead.
"""

from __future__ import annotations

from probeloop.api import InstrumentInfo, Read, Reduce, Result

from . import readings
from .capabilities import Steps
from .findings import Findings
from .maps import Images, plain_scan
from .readings import Totals

POINTS, DWELL = 24, 1e-3  # a side of the scan that is counted [s]
_CANNOT = {
    "dark reference and hot pixels": "it can't take the beam away: blank it by hand, then AcquireReference(dark)",
    "pattern centre, camera length, beam current": "it can't send the beam through an empty place",
    "scan scale, rotation, flip": "a scan unit that is not its own decides where it scans: calibrate them there",
    "drift": "a scan unit that is not its own decides where it scans",
    "flyback": "the scan unit's, which is not its own",
    "settling of the lens": "it has no lens",
}


def alone(info: InstrumentInfo, findings: Findings, pattern: str, totals: str, inputs: frozenset[str]) -> Steps:
    """Scan all of the field once, count its frames, look at its pixels; name what can't be checked.

    Where it reads back trigger "external", nobody says whether triggers come, and it is not scanned.

    pattern, totals: topics of `mean_pattern`; inputs: those that are there.
    """
    for check, why in _CANNOT.items():
        findings.cannot(check, f"{info.name} is a detector alone: {why}")
    now: Result = yield Read()
    if now.readback.get("trigger") == "external":
        findings.cannot("frames", "they come with the triggers of a scan unit: start a scan there, and run a plan")
        return
    scan = plain_scan(info, Images(POINTS, DWELL), 1.0, 0.0)
    asked = scan.shape[0] * scan.shape[1] * scan.frames
    result: Result = yield scan
    good = result.count == asked and not result.aborted
    findings.row("frames", "passed" if good else "failed", f"{result.count} of {asked} came", found=result.count)
    if not result.count or not {pattern, totals} <= inputs:
        why = f"{pattern} is not there: probeloop checkup RIG" if result.count else "no frame came"
        findings.cannot("dead pixels", why)
        return
    told = Totals(*(yield Reduce(result, totals, readings.totals)))
    flat = yield Reduce(result, pattern, readings.dead_reading(max(1, int(told.frames))))
    words = f"{flat[0]:.0f} dead pixels; {flat[1]:.0%} of the camera was lit well enough to be judged"
    findings.row("dead pixels", "found", words, dead_pixels=int(flat[0]))
    findings.values["dead_pixels"] = int(flat[0])
