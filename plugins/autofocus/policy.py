"""Autofocus: brings defocus and two-fold astigmatism to zero, jointly, and says so when it can't.

Coarse rounds (tilt-shift, any defocus) until the lens is near focus, then fine rounds (fit of the interference)
until nothing is left that exceeds twice its own error and the tolerance. A success is claimed only when an
independent score, the dark field's normalised variance, is at its top there too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

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
    Unblank,
    quantity,
)
from probeloop.api import wavelength as electron_wavelength

from .estimate import NOTHING, Disc, Estimate, Spectra, close, contrast, far, spectra
from .transform import calibrated_disc

KNOBS = ("C10", "C12a", "C12b")
Asked = Generator[Any, Any, Any]
Reading = Callable[[NDArray[Any]], tuple[float, ...]]


class _Reading:
    """A pure function of a map (ny, nx, K + 2); the plan's record knows it by its class's name."""

    def __init__(self, disc: Disc, step: float, wavelength: float) -> None:
        self._disc, self._step, self._wavelength = disc, step, wavelength

    def _spectra(self, values: NDArray[Any]) -> Spectra | None:
        """Return None where the map is none of this disc."""
        fits = values.ndim == 3 and values.shape[2] == self._disc.rows.size + 2
        return spectra(values[..., :-2], self._step) if fits else None


class FarReading(_Reading):
    """The coarse estimate as seven floats."""

    def __call__(self, values: NDArray[Any]) -> tuple[float, ...]:
        """Read a map."""
        data = self._spectra(values)
        return (NOTHING if data is None else far(data, self._disc)).flat()


class CloseReading(_Reading):
    """The fine estimate as seven floats, then the dark field's contrast and its sigma."""

    def __call__(self, values: NDArray[Any]) -> tuple[float, ...]:
        """Read a map."""
        data = self._spectra(values)
        if data is None:
            return (*NOTHING.flat(), 0.0, 1.0)
        made = close(data, self._disc, self._wavelength)
        return (*made.flat(), *contrast(values[..., -2], values[..., -1]))


class Autofocus(Plan):
    """Corrects C10, C12a and C12b together, by tilt-shift from afar and by interference near focus."""

    class Parameters(Settings):
        """Where and how.

        x, y: centre of the small scans. points: along a side. coarse_step, fine_step: between them. rounds: at
        most, of each sort. tolerance: smaller corrections are not worth making. significance: least, in units of
        what noise gives. topic: the output of `bright_field_pixels`.
        """

        x: Annotated[float, quantity("nm", ge=-1e6, le=1e6)] = 0.0
        y: Annotated[float, quantity("nm", ge=-1e6, le=1e6)] = 0.0
        points: Annotated[int, msgspec.Meta(ge=16, le=128)] = 32
        coarse_step: Annotated[float, quantity("nm", ge=0.02, le=10)] = 0.15
        fine_step: Annotated[float, quantity("nm", ge=0.01, le=1)] = 0.08
        dwell_time: Annotated[float, quantity("ms", ge=0.001, le=1000)] = 0.01
        rounds: Annotated[int, msgspec.Meta(ge=2, le=20)] = 6
        tolerance: Annotated[float, quantity("nm", ge=0.01, le=10)] = 0.4
        significance: Annotated[float, quantity("", ge=3, le=1000)] = 15.0
        check_offset: Annotated[float, quantity("nm", ge=1, le=100)] = 5.0
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
        done: dict[str, float] = dict.fromkeys(KNOBS, 0.0)
        summary: dict[str, Any] = {"applied_m": done, "scans": 0, "measured_m": {}, "sigma_m": {}}
        try:
            topic, disc, wavelength = self._prepare(ctx)
            if "Unblank" in ctx.info.commands:
                yield Unblank()
            yield from self._coarse(topic, disc, wavelength, done, summary)
            yield from self._fine(topic, disc, wavelength, done, summary)
            yield from self._confirm(topic, disc, wavelength, summary)
        except Unfocused as reason:
            yield from self._undo(done)
            return {**summary, "succeeded": False, "message": f"failed: {reason.message}"}
        except (RefusedError, CalibrationError) as error:
            return {**summary, "succeeded": False, "message": f"failed: {error}"}
        return {**summary, "succeeded": True, "message": "in focus: nothing left above twice its own error"}

    def _prepare(self, ctx: PlanContext) -> tuple[str, Disc, float]:
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
        voltage = calibrations.require("convergence_angle", "autofocus").valid_for.get("voltage")
        if voltage is None:
            raise CalibrationError("the convergence angle does not say at which voltage", "calibrate it again")
        return topic, disc, float(electron_wavelength(float(voltage)))

    def _coarse(
        self, topic: str, disc: Disc, wavelength: float, done: dict[str, float], summary: dict[str, Any]
    ) -> Asked:
        p = self.parameters
        for number in range(p.rounds):
            reading = FarReading(disc, p.coarse_step * 1e-9, wavelength)
            made = Estimate.of((yield from self._scan(p.coarse_step, topic, reading, summary)))
            if made.significance < p.significance:
                raise Unfocused(f"no shift between the images of the disc (significance {made.significance:.1f})")
            yield from self._correct(made, done, 0.0)
            yield Checkpoint(0.1 * (number + 1), _told(made))
            if abs(made.value[0]) < 20e-9 and np.hypot(*made.value[1:]) < 8e-9:
                return
        raise Unfocused("coarse rounds do not converge")

    def _fine(
        self, topic: str, disc: Disc, wavelength: float, done: dict[str, float], summary: dict[str, Any]
    ) -> Asked:
        p = self.parameters
        for number in range(p.rounds):
            reading = CloseReading(disc, p.fine_step * 1e-9, wavelength)
            flat = yield from self._scan(p.fine_step, topic, reading, summary)
            made = Estimate.of(flat)
            summary["contrast"] = list(flat[7:9])
            summary["measured_m"] = dict(zip(KNOBS, map(float, made.value), strict=True))
            summary["sigma_m"] = dict(zip(KNOBS, map(float, made.sigma), strict=True))
            if made.significance < p.significance:
                raise Unfocused(f"no interference near focus (significance {made.significance:.1f})")
            if made.sigma.max() > 2e-9:
                raise Unfocused(f"the error of the estimate stays at {made.sigma.max() * 1e9:.1f} nm")
            yield Checkpoint(0.6 + 0.05 * number, _told(made))
            if not (yield from self._correct(made, done, p.tolerance * 1e-9)):
                return
        raise Unfocused("not stationary: fine rounds still find something to correct")

    def _confirm(self, topic: str, disc: Disc, wavelength: float, summary: dict[str, Any]) -> Asked:
        """Step off focus on both sides: the dark field must be flatter there."""
        p = self.parameters
        reading = CloseReading(disc, p.fine_step * 1e-9, wavelength)
        value, sigma = summary["contrast"]
        offset = p.check_offset * 1e-9
        beside = []
        for move in (offset, -2 * offset):
            yield SetAberrations({"C10": move})
            beside.append((yield from self._scan(p.fine_step, topic, reading, summary))[7:9])
        yield SetAberrations({"C10": offset})
        summary["contrast_beside"] = [list(each) for each in beside]
        for other, other_sigma in beside:
            if value - other < 2 * np.hypot(sigma, other_sigma):
                raise Unfocused(f"the dark field's contrast {value:.2g} is no better than {other:.2g} beside focus")

    def _scan(self, step: float, topic: str, reading: Reading, summary: dict[str, Any]) -> Asked:
        """Scan and return what `reading` makes of it."""
        p = self.parameters
        side = p.points * step * 1e-9
        region = Region(p.x * 1e-9, p.y * 1e-9, side, side)
        result: Result = yield Scan(region, (p.points, p.points), p.dwell_time * 1e-3)
        summary["scans"] += 1
        flat: tuple[float, ...] = yield Reduce(result, topic, reading)
        return flat

    def _correct(self, made: Estimate, done: dict[str, float], tolerance: float) -> Asked:
        """Turn the knobs against what exceeds twice its own error and the tolerance; return whether any did."""
        worth = np.abs(made.value) > np.maximum(2 * made.sigma, tolerance)
        values = {name: -float(v) for name, v, good in zip(KNOBS, made.value, worth, strict=True) if good}
        if values:
            yield SetAberrations(values)
            for name, value in values.items():
                done[name] += value
        return bool(values)

    def _undo(self, done: dict[str, float]) -> Asked:
        """Put the knobs back: a failed autofocus leaves the lens as it was."""
        back = {name: -value for name, value in done.items() if value}
        if back:
            yield SetAberrations(back)
            done.update(dict.fromkeys(KNOBS, 0.0))


class Unfocused(ProbeloopError):
    """Why autofocus gave up."""


def _told(made: Estimate) -> str:
    parts = [
        f"{name} {value * 1e9:+.1f} ± {sigma * 1e9:.1f} nm"
        for name, value, sigma in zip(KNOBS, made.value, made.sigma, strict=True)
    ]
    return ", ".join(parts)
