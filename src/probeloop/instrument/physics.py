"""The gate's checks of what a command may do to specimen, tip and detector. See checks.py for who may command.

SetOptics, MoveStage and VendorRoutine have no verb in this version, so `known` refuses them first; their checks
stand, because a driver's verb needs them the day it enters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..data import commands as c
from ..data.driver import detector_alone
from ..data.limits import Corners
from ..data.scan import Position, Region
from ..data.units import display
from .gate import FEEDBACK_TABLE, Proposal, Refusal, feedback_event

ELEMENTARY_CHARGE = 1.602176634e-19  # [C], exact in the SI of 2019
# tuples: isinstance with a union written out builds it anew at every call, 0.5 us, and a verdict makes dozens
_SCANS = (c.Scan, c.ScanPath)
_AT_A_PLACE = (c.MoveProbe, c.AcquireSpectrum, c.ApplyPulse)
_LATERAL = (*_SCANS, *_AT_A_PLACE)
_LIGHT = (c.Unblank, c.SetDetector, c.SetBeam, c.SetOptics)
_SPENDING = (c.Unblank, c.SetBeam, c.AcquireReference, *_LATERAL)
_SAME = 1e-6  # of a side: two rectangles are the same
_EDGE = 1e-12  # relative slack for rounding at the edge of a limit


def drift(p: Proposal) -> Refusal | None:
    """A place of the specimen must be known well enough."""
    tolerance = getattr(p.command, "position_tolerance", None)
    if getattr(p.submit.command, "frame", "scan") != "specimen" or tolerance is None or p.drift_sigma <= tolerance:
        return None
    return Refusal(
        f"the drift is known to {display(p.drift_sigma, 'm')} only",
        f"position_tolerance {display(tolerance, 'm')}",
        "register again first",
    )


def region(p: Proposal) -> Refusal | None:
    """Every place touched lies inside the allowed region; a detector alone scans all of it, or nothing."""
    if (
        isinstance(p.command, c.Scan)
        and detector_alone(p.info)
        and not _is_all(p.command.region, p.info.limits.region)
    ):
        (left, top), (right, bottom) = p.info.limits.region
        size = f"{display(right - left, 'm')} x {display(bottom - top, 'm')}"
        return Refusal(
            "a scan unit that is not the instrument's decides where it scans",
            "region",
            f"all of the declared field of view: {size} about ({(left + right) / 2:.6g}, {(top + bottom) / 2:.6g}) m",
        )
    (left, top), (right, bottom) = p.limits.region
    dx, dy = _EDGE * max(abs(left), abs(right)), _EDGE * max(abs(top), abs(bottom))
    for x, y in visited(p.command):  # in plain numbers: numpy takes longer for one place than all other checks
        if not (left - dx <= x <= right + dx and top - dy <= y <= bottom + dy):
            allowed = f"x {left:.6g} to {right:.6g} m, y {top:.6g} to {bottom:.6g} m"
            return Refusal(f"({x:.6g}, {y:.6g}) m is outside the region", "region", allowed)
    return None


def _is_all(region: Region, corners: Corners) -> bool:
    """True when a scan's region is the rectangle between two corners [m], to a millionth of its sides."""
    (left, top), (right, bottom) = corners
    width, height = right - left, bottom - top
    return (
        region.rotation == 0.0
        and abs(region.width - width) <= _SAME * width
        and abs(region.height - height) <= _SAME * height
        and abs(region.centre_x - (left + right) / 2) <= _SAME * width
        and abs(region.centre_y - (top + bottom) / 2) <= _SAME * height
    )


def grid(p: Proposal) -> Refusal | None:
    """Single places lie on the scanner's grid: the sender puts them there."""
    for position in _single_places(p.command):
        if not p.info.grid.holds(position):
            near = p.info.grid.nearest(position)
            return Refusal(f"({position[0]:.6g}, {position[1]:.6g}) m is off the scanner's grid", "grid", f"{near} m")
    return None


def step(p: Proposal) -> Refusal | None:
    """No jump of the probe beyond the largest step."""
    limit = p.limits.max_step
    if limit is None:
        return None
    before = p.state.position
    for position in _single_places(p.command):
        length = math.dist(before, position)
        if length > limit * (1 + _EDGE):
            return Refusal(
                f"a jump of {display(length, 'm')}",
                f"max_step {display(limit, 'm')}",
                f"steps of at most {limit:g} m",
            )
        before = position
    return None


def tip_speed(p: Proposal) -> Refusal | None:
    """The tip scans no faster than it may."""
    limit = p.limits.max_tip_speed
    if limit is None:
        return None
    command, length = p.command, 0.0
    if isinstance(command, c.Scan):
        length = max(command.region.width / command.shape[1], command.region.height / command.shape[0])
    elif isinstance(command, c.ScanPath) and len(command.positions) > 1:
        places = np.asarray(command.positions)
        length = float(np.max(np.hypot(*np.diff(places, axis=0).T)))
    else:
        return None
    speed = length / command.dwell_time
    if speed <= limit * (1 + _EDGE):
        return None
    return Refusal(
        f"{speed:.3g} m/s between pixels",
        f"max_tip_speed {limit:g} m/s",
        f"a dwell of at least {length / limit:.3g} s",
    )


def dwell(p: Proposal) -> Refusal | None:
    """Dwell times and exposures are those the electronics can do."""
    low, high = p.limits.dwell_time
    command = p.command
    kind = command.kind if isinstance(command, c.AcquireSpectrum) else None
    source = command if isinstance(command, _SCANS) else kind
    value = getattr(source, "dwell_time", None) or getattr(source, "exposure", None)
    value = getattr(source, "pulse_time", None) if value is None else value
    if value is None or low <= value <= high:
        return None
    return Refusal(f"a dwell of {display(value, 's')}", "dwell_time", f"{display(low, 's')} to {display(high, 's')}")


def points(p: Proposal) -> Refusal | None:
    """A scan has no more places than memory and patience allow."""
    if isinstance(p.command, c.Scan):
        count = p.command.shape[0] * p.command.shape[1]
    elif isinstance(p.command, c.ScanPath):
        count = len(p.command.positions)
        if not count:
            return Refusal("a path without a place", "points", "at least 1")
    else:
        return None
    limit = p.limits.max_scan_points
    return None if count <= limit else Refusal(f"{count} places", f"max_scan_points {limit}", f"at most {limit}")


def feedback(p: Proposal) -> Refusal | None:
    """Feedback changes along its table; out of contact only Approach leads into it."""
    event = feedback_event(p.command)
    if event is None or FEEDBACK_TABLE[(p.state.feedback, event)] is not None:
        return None
    ways = [e for (s, e), after in FEEDBACK_TABLE.items() if s == p.state.feedback and after and e[0].isupper()]
    return Refusal(f"{c.name_of(p.command)} while {p.state.feedback}", "feedback", ", ".join(ways))


def lateral(p: Proposal) -> Refusal | None:
    """The tip moves sideways only engaged, lifted or withdrawn."""
    if not isinstance(p.command, _LATERAL) or p.state.feedback not in ("approaching", "held"):
        return None
    if all(place == p.state.position for place in _single_places(p.command)) and not isinstance(p.command, _SCANS):
        return None  # measuring where it stands is what a held tip is for
    return Refusal(f"a lateral move while feedback is {p.state.feedback}", "feedback", "engaged, lifted or withdrawn")


def knobs(p: Proposal) -> Refusal | None:
    """Every knob has bounds, and stays in them; a relative turn starts at the read-back."""
    if not isinstance(p.command, c.SetAberrations):
        return None
    for name, value in p.command.values.items():
        pair = p.limits.knobs.get(name)
        if pair is None:
            return Refusal(f"no knob {name!r}", "knobs", ", ".join(p.limits.knobs))
        start = 0.0 if p.command.absolute else p.state.knobs.get(name, math.nan)
        slack = _EDGE * max(map(abs, pair))
        if not pair[0] - slack <= start + value <= pair[1] + slack:
            low, high = display(pair[0] - start, "m"), display(pair[1] - start, "m")
            return Refusal(f"{name} would be {display(start + value, 'm')}", f"knobs.{name}", f"{low} to {high}")
    return None


def absolute(p: Proposal) -> Refusal | None:
    """An absolute aberration needs a measurement that is still valid."""
    if not isinstance(p.command, c.SetAberrations) or not p.command.absolute:
        return None
    old = [name for name in p.command.values if p.state.measured.get(name, 0) < p.now_ns]
    if not old:
        return None
    return Refusal(f"no valid measurement of {', '.join(old)}", "measured", "a relative change, or measure first")


def beam_current(p: Proposal) -> Refusal | None:
    """The beam current is within its bounds."""
    if not isinstance(p.command, c.SetBeam) or p.command.current is None or p.limits.beam_current is None:
        return None
    low, high = p.limits.beam_current
    if low <= p.command.current <= high:
        return None
    return Refusal(
        f"a beam current of {display(p.command.current, 'A')}",
        "beam_current",
        f"{display(low, 'A')} to {display(high, 'A')}",
    )


def beam_on(p: Proposal) -> Refusal | None:
    """A measurement needs the beam, where it can be taken away: dark frames would pass for data."""
    if not needs_beam(p.command) or "Unblank" not in p.info.commands or not p.state.blanked or p.state.parked:
        return None
    return Refusal("the beam is blanked", "beam", "Unblank first")


def detector_flux(p: Proposal) -> Refusal | None:
    """No beam on the inserted camera beyond what a pixel survives, in the state that is asked for.

    Evenly spread over the camera's pixels; unknown pixels count as one.
    """
    limit = p.limits.flux_per_pixel
    if limit is None or not isinstance(p.command, _LIGHT):
        return None
    state, command = p.state, p.command
    inserted, lit, current = state.detector_inserted, not state.blanked or state.parked, state.beam_current
    if isinstance(command, c.Unblank):
        lit = True
    elif isinstance(command, c.SetDetector):
        inserted = inserted if command.inserted is None else command.inserted
    elif isinstance(command, c.SetBeam):
        if command.spot is not None and inserted and lit:
            return Refusal("the current of a spot number is not known", "flux_per_pixel", "SetBeam(current)")
        current = current if command.current is None else command.current
    flux = current / ELEMENTARY_CHARGE / max(1, p.info.camera_pixels)
    if not (inserted and lit) or flux <= limit:
        return None
    most = limit * max(1, p.info.camera_pixels) * ELEMENTARY_CHARGE
    return Refusal(
        f"{flux:.3g} e/s on a pixel of the inserted camera",
        f"flux_per_pixel {limit:g}",
        f"at most {display(most, 'A')}",
    )


def camera_length(p: Proposal) -> Refusal | None:
    """The camera length is within its bounds."""
    return _bounded(p, "camera_length", "m")


def convergence_angle(p: Proposal) -> Refusal | None:
    """The convergence angle is within its bounds."""
    return _bounded(p, "convergence_angle", "rad")


def stage(p: Proposal) -> Refusal | None:
    """Every stage axis has bounds, and stays in them; a relative move starts at the read-back."""
    if not isinstance(p.command, c.MoveStage):
        return None
    for axis in ("x", "y", "z", "alpha", "beta"):
        value = getattr(p.command, axis)
        if value is None:
            continue
        pair = p.limits.stage.get(axis)
        if pair is None:
            return Refusal(f"the stage has no axis {axis!r}", "stage", ", ".join(p.limits.stage) or "none")
        target = value if p.command.absolute else p.state.stage.get(axis, math.nan) + value
        if not pair[0] <= target <= pair[1]:
            return Refusal(f"the stage's {axis} would be {target:g}", f"stage.{axis}", f"{pair[0]:g} to {pair[1]:g}")
    return None


def spectrometer(p: Proposal) -> Refusal | None:
    """The energy axis and the slit stay in their bounds; a spectrum may bring its own axis."""
    source, names = p.command, ("energy_offset", "dispersion", "slit")
    if isinstance(source, c.AcquireSpectrum) and isinstance(source.kind, c.EELS):
        source = c.SetSpectrometer(source.kind.offset, source.kind.dispersion)
    for name in names if isinstance(source, c.SetSpectrometer) else ():
        value, pair = getattr(source, name), p.limits.spectrometer.get(name)
        if value is not None and pair is not None and not pair[0] <= value <= pair[1]:
            return Refusal(f"{name} would be {value:g}", f"spectrometer.{name}", f"{pair[0]:g} to {pair[1]:g}")
    return None


def vendor(p: Proposal) -> Refusal | None:
    """A vendor's routine runs only if the rig names it."""
    if not isinstance(p.command, c.VendorRoutine) or p.command.name in p.limits.vendor_routines:
        return None
    return Refusal(
        f"the routine {p.command.name!r} is not allowed", "vendor_routines", ", ".join(p.limits.vendor_routines)
    )


def dose(p: Proposal) -> Refusal | None:
    """The run's electrons, those of this command included, stay within the budget."""
    limit = p.limits.dose
    if limit is None or not _spends(p.command):
        return None
    spent_out = p.state.dose >= limit and isinstance(p.command, c.Unblank)  # it costs by the second, by the clock
    if p.state.dose + p.cost.dose <= limit and not spent_out:
        return None
    left = max(0.0, limit - p.state.dose)
    return Refusal(f"{p.cost.dose:.3g} e more", f"dose {limit:.3g} e", f"at most {left:.3g} e")


def area_dose(p: Proposal) -> Refusal | None:
    """The most irradiated place, after this command, stays below the limit."""
    limit = p.limits.area_dose
    if limit is None or p.cost.area_dose <= limit or not _spends(p.command):
        return None
    return Refusal(f"{p.cost.area_dose:.3g} e/m² at the worst place", "area_dose", f"at most {limit:.3g} e/m²")


def needs_beam(command: c.Command) -> bool:
    """True for a measurement that is worth nothing with the beam off."""
    dark = isinstance(command, c.AcquireReference) and command.kind == "dark"
    return isinstance(command, c.ACQUISITIONS) and not dark


def visited(command: c.Command) -> Iterator[Position]:
    """Yield the places a command touches [m]; of a scan its corners, which bound it."""
    if isinstance(command, c.Scan):
        yield from command.region.corners().tolist()
    else:
        yield from _single_places(command)


def _single_places(command: c.Command) -> Iterator[Position]:
    if isinstance(command, c.ScanPath):
        yield from command.positions
    elif isinstance(command, _AT_A_PLACE):
        yield command.position


def _spends(command: c.Command) -> bool:
    """False for what only takes the beam away or looks: it must stay possible with an empty budget."""
    return isinstance(command, _SPENDING)


def _bounded(p: Proposal, name: str, unit: str) -> Refusal | None:
    pair = getattr(p.limits, name)
    value = getattr(p.command, name) if isinstance(p.command, c.SetOptics) else None
    if value is None or pair is None or pair[0] <= value <= pair[1]:
        return None
    low, high = display(pair[0], unit), display(pair[1], unit)
    return Refusal(f"a {name.replace('_', ' ')} of {display(value, unit)}", name, f"{low} to {high}")
