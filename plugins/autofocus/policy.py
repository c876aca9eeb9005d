"""Autofocus: brings defocus and two-fold astigmatism to zero, jointly, and says so when it can't.

Coarse rounds (tilt-shift, any defocus) until the lens is near focus, then fine rounds (fit of the interference, or
of shifts alone where nothing interferes) until nothing is left that exceeds twice its own error and the tolerance.
Every turned knob is read back. A success is claimed only when an independent score is at its top there too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import numpy as np

from probeloop.api import (
    CalibrationError,
    CalibrationSet,
    Checkpoint,
    Plan,
    PlanContext,
    PlanError,
    PlanSteps,
    ProbeloopError,
    Reduce,
    RefusedError,
    Region,
    Result,
    Scan,
    SetAberrations,
    Settings,
    Settle,
    Unblank,
    quantity,
)
from probeloop.api import wavelength as electron_wavelength

from .disc import Disc, calibrated_disc
from .estimate import Estimate
from .reading import BesideReading, CloseReading, FarReading, Reading, Seen, World

KNOBS = ("C10", "C12a", "C12b")
_LEAST_CHANNELS = 16
_WORST = 5.0  # error of a success, in units of the tolerance
_SETTLE = 5.0  # for a knob that is slow to read back [s]
_SCORES = {"waves": "the dark field's contrast", "rays": "the sharpness of the disc's picture"}
Asked = Generator[Any, Any, Any]


@dataclass
class _Lens:
    """What one run knows of the lens. turned: in all, as asked [m]. begun, now: the knobs' read-backs [m]."""

    topic: str
    disc: Disc
    wavelength: float
    settles: bool
    turned: dict[str, float]
    summary: dict[str, Any]
    begun: dict[str, float] = field(default_factory=dict)
    now: dict[str, float] = field(default_factory=dict)
    world: World | None = None

    def read_back(self, result: Result) -> None:
        """Take the knobs' values from a result, where it has them."""
        values = {name: result.readback.get(name) for name in KNOBS}
        self.now |= {k: float(v) for k, v in values.items() if isinstance(v, int | float) and np.isfinite(v)}
        self.begun = {**self.now, **self.begun}


class Autofocus(Plan):
    """Corrects C10, C12a and C12b together: from afar by tilt-shift, then by interference or by finer tilt-shift."""

    class Parameters(Settings):
        """Where and how.

        x, y: centre of the small scans. points: along a side. coarse_step, fine_step: between them. rounds: at
        most, of each sort. tolerance: smaller corrections are not worth making. significance: least, in units of
        what noise gives. check_offset: of C10, to either side of focus, where the picture must be worse. topic: the
        output of `bright_field_pixels`.
        """

        x: Annotated[float, quantity("nm", ge=-1e6, le=1e6)] = 0.0
        y: Annotated[float, quantity("nm", ge=-1e6, le=1e6)] = 0.0
        points: Annotated[int, msgspec.Meta(ge=16, le=128)] = 32
        coarse_step: Annotated[float, quantity("nm", ge=0.02, le=100)] = 0.15
        fine_step: Annotated[float, quantity("nm", ge=0.01, le=100)] = 0.08
        dwell_time: Annotated[float, quantity("ms", ge=0.001, le=1000)] = 0.01
        rounds: Annotated[int, msgspec.Meta(ge=2, le=20)] = 6
        tolerance: Annotated[float, quantity("nm", ge=0.01, le=100)] = 0.4
        significance: Annotated[float, quantity("", ge=3, le=1000)] = 15.0
        check_offset: Annotated[float, quantity("nm", ge=1, le=1000)] = 5.0
        topic: str = "bright_field_pixels.pixels"

        def problems(self) -> Iterable[str]:
            """Yield steps that are the wrong way round."""
            if self.fine_step > self.coarse_step:
                yield "fine_step is larger than coarse_step"

    def inputs(self) -> tuple[str, ...]:
        """Return the topic that the scans are read from."""
        return (self.parameters.topic,)

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Yield scans and corrections; the summary says what was corrected, with errors, and whether it succeeded."""
        summary: dict[str, Any] = {
            "applied_m": dict.fromkeys(KNOBS, 0.0),
            "scans": 0,
            "measured_m": {},
            "sigma_m": {},
        }
        try:
            lens = self._prepare(ctx, summary)
        except (Unfocused, CalibrationError) as error:
            return {**summary, "succeeded": False, "message": f"failed: {error}"}
        try:
            if "Unblank" in ctx.info.commands:
                lens.read_back((yield Unblank()))
            yield from self._coarse(lens)
            yield from self._fine(lens)
            yield from self._confirm(lens)
        except (Unfocused, RefusedError) as error:
            left: str = yield from self._undo(lens)
            return {**summary, "succeeded": False, "message": f"failed: {error}{left}"}
        confirmed = set(KNOBS) <= set(lens.now)
        summary |= {"read_back_m": lens.now, "read_back_confirmed": confirmed}
        knobs = "read-back confirmed" if confirmed else "the instrument does not read these knobs back"
        return {
            **summary,
            "succeeded": True,
            "message": f"in focus: nothing left above twice its own error; {knobs}",
        }

    def _prepare(self, ctx: PlanContext, summary: dict[str, Any]) -> _Lens:
        topic = self.parameters.topic
        if topic not in ctx.inputs:
            have = ", ".join(ctx.inputs) or "nothing"
            raise PlanError(f"autofocus reads {topic}, which is not joined to it ({have} is)", "name it in the rig")
        missing = [name for name in KNOBS if name not in ctx.info.limits.knobs]
        if missing:
            raise Unfocused(f"the instrument has no knob {', '.join(missing)}")
        side = round(ctx.info.camera_pixels**0.5)
        calibrations = CalibrationSet(ctx.info.calibrations)
        disc = calibrated_disc(calibrations, (side, side), "autofocus")
        if disc.rows.size < _LEAST_CHANNELS:
            raise Unfocused(f"the calibrated disc covers {disc.rows.size} pixels of the camera")
        voltage = calibrations.require("convergence_angle", "autofocus").valid_for.get("voltage")
        if voltage is None:
            raise CalibrationError("the convergence angle does not say at which voltage", "calibrate it again")
        wavelength = float(electron_wavelength(float(voltage)))
        return _Lens(topic, disc, wavelength, "Settle" in ctx.info.commands, summary["applied_m"], summary)

    def _coarse(self, lens: _Lens) -> Asked:
        p = self.parameters
        for number in range(p.rounds):
            made = (yield from self._scan(lens, p.coarse_step, FarReading, None)).estimate
            if made.significance < p.significance:
                raise Unfocused(f"no shift between the images of the disc (significance {made.significance:.1f})")
            yield from self._correct(lens, made, 0.0)
            yield Checkpoint(0.1 * (number + 1), _told(made))
            if abs(made.value[0]) < 20e-9 and np.hypot(*made.value[1:]) < 8e-9:
                return
        raise Unfocused("coarse rounds do not converge")

    def _fine(self, lens: _Lens) -> Asked:
        p, summary = self.parameters, lens.summary
        for number in range(p.rounds):
            seen = yield from self._scan(lens, p.fine_step, CloseReading, lens.world)
            made, lens.world = seen.estimate, seen.world
            summary["world"] = seen.world
            summary["contrast"] = list(seen.score)
            summary["measured_m"] = dict(zip(KNOBS, map(float, made.value), strict=True))
            summary["sigma_m"] = dict(zip(KNOBS, map(float, made.sigma), strict=True))
            if made.significance < p.significance:
                raise Unfocused(f"no interference near focus, no common shift (significance {made.significance:.1f})")
            yield Checkpoint(0.6 + 0.05 * number, _told(made))
            if not (yield from self._correct(lens, made, p.tolerance * 1e-9)):
                if made.sigma.max() > _WORST * p.tolerance * 1e-9:
                    raise Unfocused(f"the error of the estimate stays at {made.sigma.max() * 1e9:.1f} nm")
                return
        raise Unfocused("not stationary: fine rounds still find something to correct")

    def _confirm(self, lens: _Lens) -> Asked:
        """Step off focus on both sides: the score must be lower there, and rays must tell the step."""
        p, summary = self.parameters, lens.summary
        assert lens.world is not None
        value, sigma = summary["contrast"]
        offset = p.check_offset * 1e-9
        beside: list[tuple[float, Seen]] = []
        for move, at in ((offset, offset), (-2 * offset, -offset)):
            yield from self._turn(lens, {"C10": move})
            beside.append((at, (yield from self._scan(lens, p.fine_step, BesideReading, lens.world))))
        yield from self._turn(lens, {"C10": offset})
        summary["contrast_beside"] = [list(seen.score) for _, seen in beside]
        for at, seen in beside:
            other, other_sigma = seen.score
            if value - other < 2 * np.hypot(sigma, other_sigma):
                raise Unfocused(f"{_SCORES[lens.world]} {value:.2g} is no better than {other:.2g} beside focus")
            told = seen.estimate.value[0]
            if lens.world == "rays" and abs(told - at) > max(0.3 * offset, 3 * seen.estimate.sigma[0]):
                raise Unfocused(f"C10 turned by {at * 1e9:+.3g} nm shifts the images as {told * 1e9:+.3g} nm would")

    def _scan(self, lens: _Lens, step: float, how: type[Reading], world: World | None) -> Asked:
        """Scan and return what a reading sees."""
        p = self.parameters
        side = p.points * step * 1e-9
        region = Region(p.x * 1e-9, p.y * 1e-9, side, side)
        result: Result = yield Scan(region, (p.points, p.points), p.dwell_time * 1e-3)
        lens.read_back(result)
        lens.summary["scans"] += 1
        return Seen.of((yield Reduce(result, lens.topic, how(lens.disc, step * 1e-9, lens.wavelength, world))))

    def _correct(self, lens: _Lens, made: Estimate, tolerance: float) -> Asked:
        """Turn the knobs against what exceeds twice its own error and the tolerance; return whether any did."""
        worth = np.abs(made.value) > np.maximum(2 * made.sigma, tolerance)
        values = {name: -float(v) for name, v, good in zip(KNOBS, made.value, worth, strict=True) if good}
        if values:
            yield from self._turn(lens, values)
        return bool(values)

    def _turn(self, lens: _Lens, by: dict[str, float]) -> Asked:
        """Turn knobs by what is asked [m]; raises Unfocused when one reads back another value than it was told."""
        goal = {name: lens.now[name] + value for name, value in by.items() if name in lens.now}
        lens.read_back((yield SetAberrations(by)))
        for name, value in by.items():
            lens.turned[name] += value
        allowed = {name: max(0.5e-9 * self.parameters.tolerance, 0.01 * abs(by[name])) for name in goal}
        for name, told in goal.items():
            if lens.settles and abs(lens.now[name] - told) > allowed[name]:
                lens.read_back((yield Settle(name, allowed[name], _SETTLE)))
            if abs(lens.now[name] - told) > allowed[name]:
                raise Unfocused(
                    f"{name} was told to go to {told * 1e9:+.2f} nm and reads back {lens.now[name] * 1e9:+.2f} nm"
                )

    def _undo(self, lens: _Lens) -> Asked:
        """Put the knobs back: a failed autofocus leaves the lens as it was. Return what is to be said of it."""
        back = {
            name: lens.begun[name] - lens.now[name] if name in lens.begun else -value
            for name, value in lens.turned.items()
            if value
        }
        back = {name: value for name, value in back.items() if abs(value) > 1e-15}
        if not back:
            return ""
        try:
            lens.read_back((yield SetAberrations(back)))
        except RefusedError as error:
            return f"; and the knobs could not be put back: {error}"
        lens.turned.update(dict.fromkeys(KNOBS, 0.0))
        return ""


class Unfocused(ProbeloopError):
    """Why autofocus gave up."""


def _told(made: Estimate) -> str:
    parts = [
        f"{name} {value * 1e9:+.1f} ± {sigma * 1e9:.1f} nm"
        for name, value, sigma in zip(KNOBS, made.value, made.sigma, strict=True)
    ]
    return ", ".join(parts)
