"""The checks of an instrument with a camera for diffraction patterns: from a dark frame to rotation and flip."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    AcquireReference,
    CalibrationError,
    InstrumentInfo,
    PlanError,
    Reduce,
    Region,
    Result,
    Scan,
    SetAberrations,
    Unblank,
    wavelength,
)

from . import readings
from .capabilities import Steps
from .centre import Disc
from .findings import Findings, Verdict
from .interference import Lens, Probe
from .lattice import Fit
from .readings import Totals
from .rotation import Turn, matrix, turn_from_knob
from .transform import Box

ELECTRON = 1.602176634e-19
ENOUGH = 80.0  # a lattice whose peaks stand this far above the rest is taken without looking elsewhere
WITNESS, ALONE = 1.5, 2.5  # significance from which the curl is heard beside another way, and by itself
IN_SIGHT = 35e-9  # [m] further from focus the mean deflection shows next to nothing
RIM = 0.7  # pixels of the disc's edge that are left out


@dataclass(frozen=True)
class Wanted:
    """What the plan was told. cell [1/m]: reciprocal vectors as columns. lengths [m], time [s]."""

    cell: NDArray[np.float64]
    reflections: tuple[tuple[int, int], ...]
    points: int
    step: float
    dwell: float
    reach: float
    defocus: float
    references: int
    pixels: str
    pattern: str
    totals: str


@dataclass
class Known:
    """What was found so far; None = not yet, or not at all. place: centre of the scans [m]."""

    hot: tuple[tuple[int, int], ...] = ()
    level: float = 0.0
    disc: Disc | None = None
    angle: float = 0.0
    fit: Fit | None = None
    place: tuple[float, float] = (0.0, 0.0)
    turn: Turn | None = None
    lens: Lens | None = None
    scan: Result | None = None
    slow: Result | None = None
    state: dict[str, Any] = field(default_factory=dict)


class Diffraction:
    """Steps of the plan; each adds to `findings` and `known`."""

    def __init__(self, info: InstrumentInfo, wanted: Wanted, findings: Findings) -> None:
        """Raises CalibrationError when the voltage or the convergence angle is unknown."""
        self.info, self.wanted, self.findings, self.known = info, wanted, findings, Known()
        alpha = findings.believed.require("convergence_angle", "checkup")
        volts = alpha.valid_for.get("voltage")
        if volts is None:
            raise CalibrationError("the convergence angle does not say at which voltage", "calibrate it again")
        self.alpha, self.alpha_sigma = alpha.value[0], alpha.sigma[0] if alpha.sigma else 0.0
        self.wavelength = float(wavelength(float(volts)))
        self.known.state = {"voltage": float(volts)}
        side = round(info.camera_pixels**0.5)
        self.box = Box.of((side, side), findings.believed)

    # --- references ---

    def dark(self) -> Steps:
        """Dark reference: level, noise, hot pixels. A reference is exposed as the scan before it was."""
        w = self.wanted
        yield Scan(Region(*self.places()[-1], 4 * w.step, 4 * w.step), (4, 4), w.dwell)
        result: Result = yield AcquireReference("dark", self.wanted.references)
        flat = yield Reduce(result, self.wanted.pattern, readings.hot)
        self.known.level, noise, count = flat[:3]
        self.known.hot = _places(flat[3:])
        words = f"level {flat[0]:.3g}, noise {noise:.3g} counts a frame, {count:.0f} hot pixels"
        self.findings.row("dark reference", "found", words, hot_pixels=int(count), hot_places=self.known.hot)
        self.findings.values["hot_pixels"] = int(count)

    def vacuum(self) -> Steps:
        """Vacuum probe: centre, radius and with the convergence angle the camera length, and the beam current."""
        if "Unblank" in self.info.commands:
            yield Unblank()
        result: Result = yield AcquireReference("vacuum_probe", self.wanted.references)
        told = Totals(*(yield Reduce(result, self.wanted.totals, readings.totals)))
        reading = readings.disc_reading(max(1, int(told.frames)), self.known.hot)
        disc = readings.disc_of((yield Reduce(result, self.wanted.pattern, reading)))
        if disc is None:
            raise PlanError("no disc is seen in vacuum: is the beam on, and the camera in?")
        if told.saturated:
            raise PlanError("the vacuum probe saturates the camera", "a lower current or a shorter dwell time")
        self.known.disc = disc
        self.findings.calibrated(
            "pattern_centre", disc.centre, disc.sigma, "px", "fit of the disc of the vacuum probe", self.known.state
        )
        if disc.clipped:
            raise PlanError(
                "the bright disc is cut off by the edge of the camera",
                "move the pattern, or shorten the camera length",
            )
        self.known.angle = self.alpha / disc.radius
        sigma = self.known.angle * math.hypot(self.alpha_sigma / self.alpha, disc.sigma / disc.radius)
        self.findings.calibrated(
            "detector_scale", (self.known.angle,), sigma, "rad/px",
            f"disc of the vacuum probe: {disc.radius:.2f} px are {self.alpha * 1e3:.4g} mrad", self.known.state,
        )  # fmt: skip
        round_ = disc.ellipticity < 0.03
        self.findings.row("disc", "passed" if round_ else "failed", f"{disc.ellipticity:.1%} off round")
        self._current(told, disc)

    def _current(self, told: Totals, disc: Disc) -> None:
        gain = self.findings.believed.find("counts_per_electron")
        if gain is None or not gain.value[0] > 0:
            self.findings.cannot("beam current", "counts per electron are uncalibrated")
            return
        if not told.exposure > 0:
            self.findings.cannot("beam current", "the camera does not say its exposure time")
            return
        area = math.pi * disc.radius**2
        counts = disc.total if self.known.level * area > 0.01 * disc.total else told.counts
        current = counts / gain.value[0] / told.exposure * ELECTRON
        shot = 1 / math.sqrt(max(1.0, counts * told.frames / gain.value[0]))
        known = gain.sigma[0] / gain.value[0] if gain.sigma else 0.0
        sigma = current * math.hypot(shot, known, 0.002)
        self.findings.calibrated(
            "beam_current", (current,), sigma, "A", "counts of the vacuum probe", {**self.known.state}
        )

    # --- scans ---

    def scan(self, place: tuple[float, float], dwell: float | None = None, flyback: float = 0.0) -> Scan:
        """Return a scan of the wanted field at a place [m]."""
        w = self.wanted
        region = Region(*place, w.points * w.step, w.points * w.step)
        return Scan(region, (w.points, w.points), dwell or w.dwell, flyback_time=flyback)

    def places(self) -> list[tuple[float, float]]:
        """Return where to look for the lattice: a field right, left, above and below the centre, then the centre."""
        (x0, y0), (x1, y1) = self.info.limits.region
        x, y, half = (x0 + x1) / 2, (y0 + y1) / 2, self.wanted.points * self.wanted.step / 2
        r = min(self.wanted.reach, (x1 - x0) / 2 - half, (y1 - y0) / 2 - half)
        if r < 0:
            raise PlanError(f"a field of {2 * half * 1e9:.3g} nm is larger than the scanner's region", "fewer points")
        return [(x + r, y), (x - r, y), (x, y + r), (x, y - r), (x, y)] if r > 0 else [(x, y)]

    def lattice(self) -> Steps:
        """Scan scale and distortion, from the lattice in the images of the disc's pixels."""
        chosen, _ = self.chosen()
        w = self.wanted
        best: Fit | None = None
        for place in self.places():
            result: Result = yield self.scan(place)
            flat = yield Reduce(result, w.pixels, readings.lattice_reading(w.cell, (w.step, w.step), chosen))
            fit = Fit.of(flat)
            if fit.peaks and (best is None or (fit.significance > best.significance)):
                best, self.known.place, self.known.scan = fit, place, result
            if best is not None and best.significance > ENOUGH and best.peaks >= 3:
                break
        if best is not None and result is not self.known.scan:
            self.known.scan = yield self.scan(self.known.place)  # the host keeps the last few scans alone
        if best is None:
            raise PlanError(
                "the known lattice is seen nowhere",
                "go to a thin place of the crystal; lattice_a, _b, _angle say which",
            )
        self.known.fit = best
        words = f"{best.peaks} reflections, {best.significance:.0f} times above the rest"
        self.findings.calibrated(
            "scan_scale", (best.scale,), best.scale * best.sigma, "", f"known lattice: {words}", {}
        )
        allowed = max(0.01, 4 * best.sigma)
        verdict: Verdict = "passed" if best.distortion <= allowed else "failed"
        self.findings.row(
            "scan distortion", verdict, f"{best.distortion:.2%} longer in one direction than across (drift included)",
            found=best.distortion,
        )  # fmt: skip

    def pixels(self) -> Steps:
        """Dead pixels, from the mean pattern of the longest scan over the crystal."""
        scan = self.known.slow or self.known.scan
        if scan is None:
            raise PlanError("there is no scan of the crystal to look at")
        told = Totals(*(yield Reduce(scan, self.wanted.totals, readings.totals)))
        flat = yield Reduce(scan, self.wanted.pattern, readings.dead_reading(max(1, int(told.frames))))
        where = _places(flat[2:])
        words = f"{flat[0]:.0f} dead pixels; {flat[1]:.0%} of the camera could be judged"
        self.findings.row("dead pixels", "found", words, dead_pixels=int(flat[0]), dead_places=where)
        self.findings.values["dead_pixels"] = int(flat[0])

    def rotation(self) -> Steps:
        """Rotation and flip: by a change of C10 where there is such a knob, and by the curl."""
        fit, scan, w = self.known.fit, self.known.scan, self.wanted
        if fit is None or scan is None:
            raise PlanError("rotation and flip need the lattice")
        chosen, probe = self.chosen()
        probe = _scaled(probe, fit.scale)
        q = np.array([fit.transform @ (w.cell @ np.array(each)) for each in w.reflections])
        own = yield Reduce(scan, w.pixels, readings.curl_reading(probe.step, q))
        curl = Turn(*own)
        knob, why = yield from self._by_knob(scan, chosen, probe, q)
        turn, method = (
            (knob, "interference in the disc before and after a change of C10") if not why else (curl, "curl")
        )
        if why:
            self.findings.cannot("rotation by defocus", why)
        elif not self._agree(turn, curl):
            self.known.lens = None
            raise PlanError(
                "the two ways to rotation and flip disagree", "a thinner place of the crystal, nearer to focus"
            )
        if why and not curl.significance > ALONE:
            raise PlanError(f"rotation and flip are not seen: {why}; and the mean deflection shows no clear gradient")
        self.known.turn = turn
        state = self.known.state
        self.findings.calibrated("scan_detector_rotation", (turn.rotation,), turn.sigma, "rad", method, state)
        self.findings.calibrated("scan_detector_flip", (turn.flip,), 0.0, "", method, state)

    def _by_knob(self, base: Result, chosen: tuple[int, ...], probe: Probe, q: NDArray[np.float64]) -> Steps:
        """Return the turn and why there is none, or "", from scans to either side of `base`'s focus."""
        w, place = self.wanted, self.known.place
        if "C10" not in self.info.limits.knobs or "SetAberrations" not in self.info.commands:
            return Turn(0.0, 1.0, math.pi, 0.0), f"{self.info.name} has no knob C10"
        reading = readings.lens_reading(chosen, probe, q)
        self.findings.changed["C10"] = f"{w.defocus * 1e9:+.3g} nm"
        yield SetAberrations({"C10": w.defocus})
        above: Result = yield self.scan(place)
        first = Lens(*(yield Reduce(above, w.pixels, reading)))
        yield SetAberrations({"C10": -2 * w.defocus})
        self.findings.changed["C10"] = f"{-w.defocus * 1e9:+.3g} nm"
        below: Result = yield self.scan(place)
        yield SetAberrations({"C10": w.defocus})
        del self.findings.changed["C10"]
        second = Lens(*(yield Reduce(below, w.pixels, reading)))
        seen = {w.defocus: first, -w.defocus: second}
        pairs = [(w.defocus, -w.defocus)]
        if turn_from_knob(first, second, -2 * w.defocus)[1] or _uneven(first, second):  # one is too far from focus
            seen[0.0] = Lens(*(yield Reduce(base, w.pixels, reading)))
            pairs += [(0.0, -w.defocus), (0.0, w.defocus)]
            pairs.sort(key=lambda pair: -sum(seen[each].likelihood for each in pair))
        turn, why = Turn(0.0, 1.0, math.pi, 0.0), ""
        for one, two in pairs:
            turn, why = turn_from_knob(seen[one], seen[two], two - one)
            if not why:
                c10, a, b = _at_zero({one: seen[one], two: seen[two]}, turn.rotation)
                self.known.lens = Lens(1.0, turn.rotation, turn.flip, c10, a, b)
                words = f"C10 {c10 * 1e9:+.1f} nm, C12 {a * 1e9:+.1f}, {b * 1e9:+.1f} nm"
                self.findings.row("focus", "found", words, found=[c10, a, b], units="m")
                return turn, ""
        return turn, why

    def _agree(self, turn: Turn, curl: Turn) -> bool:
        """Hold the curl's answer against the knob's; False where the curl has one, and it is another."""
        lens = self.known.lens
        if not curl.significance > WITNESS or (lens is not None and abs(lens.c10) > IN_SIGHT):
            self.findings.cannot("rotation by curl", "the mean deflection shows no clear gradient at this defocus")
            return True
        apart = math.degrees(math.remainder(curl.rotation - turn.rotation, 2 * math.pi))
        agree = curl.flip == turn.flip and abs(apart) < max(8.0, math.degrees(4 * curl.sigma))
        words = f"{apart:+.1f}° from that by defocus, the {'same' if curl.flip == turn.flip else 'OTHER'} flip"
        verdict: Verdict = "passed" if agree else "failed"
        self.findings.row("rotation by curl", verdict, words, found=[curl.rotation, curl.flip])
        return agree

    def bragg(self) -> Steps:
        """Camera length a second time: from the Bragg discs, which need no convergence angle."""
        fit, turn, disc, scan = self.known.fit, self.known.turn, self.known.disc, self.known.scan
        if fit is None or turn is None or disc is None or scan is None:
            raise PlanError("the Bragg discs need lattice, rotation and disc")
        g = np.array([self.wanted.cell @ np.array(each) for each in self.wanted.reflections])
        g = g @ (fit.transform / fit.scale).T @ matrix(turn.rotation, turn.flip)
        frames = self.wanted.points**2
        reading = readings.bragg_reading(frames, disc, g, self.known.angle, self.wavelength)
        angle, sigma, contrast = yield Reduce(scan, self.wanted.pattern, reading)
        if not angle:
            self.findings.cannot(
                "camera length by Bragg discs", "no rim of a Bragg disc is seen outside the bright disc"
            )
            return
        apart = angle / self.known.angle - 1
        agree = abs(apart) < max(0.03, 3 * sigma / angle)
        words = (
            f"{apart:+.1%} from that by the convergence angle (good to {sigma / angle:.1%}), contrast {contrast:.0%}"
        )
        self.findings.row(
            "camera length by Bragg discs",
            "passed" if agree else "failed",
            words,
            found=angle,
            sigma=sigma,
            units="rad/px",
        )

    def image(self, result: Result) -> Steps:
        """Return the image of the specimen in a scan, whatever the defocus, as (ny, nx), or None."""
        if self.known.lens is None or self.known.fit is None:
            return None
        chosen, probe = self.chosen()
        reading = readings.object_reading(chosen, _scaled(probe, self.known.fit.scale), self.known.lens)
        return readings.image_of((yield Reduce(result, self.wanted.pixels, reading)))

    def chosen(self) -> tuple[tuple[int, ...], Probe]:
        """Return which channels are inside the disc, and what is known of the probe."""
        disc = self.known.disc
        if disc is None:
            raise PlanError("the bright disc was not found")
        pixels = self.box.pixels(disc.centre)
        inside = np.flatnonzero(np.hypot(pixels[:, 0], pixels[:, 1]) < disc.radius - RIM * self.box.bin)
        step = (self.wanted.step, self.wanted.step)
        probe = Probe(pixels[inside], disc.radius, self.known.angle, self.wavelength, 1.0, step)
        return tuple(map(int, inside)), probe


def _at_zero(seen: dict[float, Lens], rotation: float) -> tuple[float, float, float]:
    """Return C10, C12a, C12b [m] with the knob put back, from the scan furthest from focus; seen: by the knob [m]."""
    knob = max(seen, key=lambda each: abs(seen[each].c10))
    far = seen[knob]
    if abs(math.remainder(far.rotation - rotation, 2 * math.pi)) > 1:
        far = far.other_half
    return far.c10 - knob, far.c12a, far.c12b


def _uneven(first: Lens, second: Lens) -> bool:
    """Return True where one of two fits explains so much less that it may be none."""
    return 3 * min(first.likelihood, second.likelihood) < max(first.likelihood, second.likelihood)


def _scaled(probe: Probe, scale: float) -> Probe:
    return replace(probe, scale=scale)


def _places(flat: tuple[float, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((int(y), int(x)) for y, x in zip(flat[::2], flat[1::2], strict=True))
