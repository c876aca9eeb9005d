"""Autofocus in a world of rays: a camera whose every pixel sees one picture, shifted by grad chi."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from probeloop.plugins.autofocus import Autofocus
from probeloop.plugins.autofocus.commands import Loop
from probeloop.plugins.autofocus.disc import Disc
from probeloop.plugins.autofocus.estimate import close, far, spectra
from probeloop.plugins.autofocus.kernels import shifted
from probeloop.plugins.autofocus.rays import rays, sharpness
from scipy.ndimage import map_coordinates

from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.calibration import Calibration
from probeloop.data.clock import ManualClock
from probeloop.data.commands import Scan, SetAberrations, Unblank
from probeloop.data.driver import Acquisition, InstrumentInfo
from probeloop.data.frame import FrameBuffer
from probeloop.data.limits import Limits
from probeloop.data.scan import Region

KNOBS = ("C10", "C12a", "C12b")
PIXELS, HALF_ANGLE, CONVERGENCE = 64, 0.1, 40e-3  # an illuminated camera, far wider than the disc: no dark field
FIELD = 800e-9


def picture(seed: int) -> NDArray[np.float64]:
    """Return a specimen of overlapping rectangles, one pixel a nanometre, with transmissions of a few per cent less."""
    rng = np.random.default_rng(seed)
    made = np.ones((round(FIELD * 1e9),) * 2)
    for y, x, height, width in rng.uniform((0, 0, 4, 4), (*made.shape, 60, 60), (400, 4)).astype(int):
        made[y : y + height, x : x + width] -= 0.02
    return made


class RayColumn:
    """Frames are the specimen at H theta + probe, in electrons: `level` a pixel, Poisson.

    lens: coefficients at the start [m]. stuck: knobs that do not move. flicker: rms of the beam current, from frame
    to frame.
    """

    def __init__(
        self, lens: dict[str, float], level: float = 400.0, seed: int = 0, empty: bool = False,
        stuck: tuple[str, ...] = (), flicker: float = 0.0,
    ) -> None:  # fmt: skip
        self.clock = ManualClock()
        self.knobs = dict.fromkeys(KNOBS, 0.0) | lens
        self.level, self.stuck, self.flicker = level, stuck, flicker
        self.rng = np.random.default_rng(seed)
        self.picture = np.ones((8, 8)) if empty else picture(seed)
        angle = (np.arange(PIXELS) - PIXELS // 2) * (2 * HALF_ANGLE / PIXELS)
        self.kx, self.ky = np.meshgrid(angle, angle)

    def describe(self) -> InstrumentInfo:
        def known(kind: Any, value: tuple[float, ...], units: str) -> Calibration:
            return Calibration(id=kind, kind=kind, value=value, units=units, valid_for={"voltage": 100e3})

        half = PIXELS / 2
        return InstrumentInfo(
            name="rays",
            modality="stem",
            origin="simulation",
            commands=("Scan", "Unblank", "SetAberrations"),
            limits=Limits(region=((-2e-7, -2e-7), (2e-7, 2e-7)), knobs=dict.fromkeys(KNOBS, (-2e-6, 2e-6))),
            calibrations=(
                known("pattern_centre", (half, half), "px"),
                known("detector_scale", (2 * HALF_ANGLE / PIXELS,), "rad/px"),
                known("convergence_angle", (CONVERGENCE,), "rad"),
                known("scan_detector_rotation", (0.0,), "rad"),
            ),
            camera_pixels=PIXELS**2,
        )

    def read_back(self) -> dict[str, Any]:
        return dict(self.knobs)

    def unblank(self, command: Unblank) -> int:
        return self.clock.now_ns()

    def set_aberrations(self, command: SetAberrations) -> int:
        for name, value in command.values.items():
            if name not in self.stuck:
                self.knobs[name] += value
        return self.clock.now_ns()

    def frame(self, x: float, y: float) -> NDArray[np.float64]:
        """Return the electrons of one probe position [m], without noise."""
        c10, c12a, c12b = (self.knobs[name] for name in KNOBS)
        at_x = (c10 + c12a) * self.kx + c12b * self.ky + x
        at_y = c12b * self.kx + (c10 - c12a) * self.ky + y
        middle, pixel = np.array(self.picture.shape) / 2, FIELD / len(self.picture)
        places = [at_y / pixel + middle[0], at_x / pixel + middle[1]]
        return np.asarray(self.level * map_coordinates(self.picture, places, order=1, mode="nearest"))

    def scan(self, command: Scan) -> Acquisition:
        (ny, nx), region = command.shape, command.region
        spec = StreamSpec(
            "camera", "frames", "<u2",
            (Axis("y", ny, region.height / ny, 0.0, "m"), Axis("x", nx, region.width / nx, 0.0, "m")),
            tuple(Axis(name, PIXELS, 2 * HALF_ANGLE / PIXELS, 0.0, "rad") for name in ("ky", "kx")),
            units="e", origin="simulation",
        )  # fmt: skip
        return Acquisition("camera", spec, self._frames(region.positions(command.shape)))

    def _frames(self, positions: NDArray[np.float64]) -> Generator[int, FrameBuffer, None]:
        buffer = yield 0
        for first in range(0, len(positions), buffer.capacity):
            places = positions[first : first + buffer.capacity]
            for row, (x, y) in enumerate(places):
                beam = max(0.0, 1 + self.flicker * self.rng.normal())
                buffer.data[row] = self.rng.poisson(beam * self.frame(x, y))
            count = len(places)
            buffer.scan_index[:count] = np.arange(first, first + count)
            buffer.position[:count] = places
            buffer = yield count


RAYS: dict[str, Any] = {"points": 24, "coarse_step": 4.0, "fine_step": 4.0, "tolerance": 1.0, "check_offset": 100.0}


def plan(**parameters: Any) -> Autofocus:
    return Autofocus(Autofocus.Parameters(**(RAYS | parameters)))


def lens(c10: float, c12a: float, c12b: float) -> dict[str, float]:
    """Return coefficients [m] of values in nm."""
    return dict(zip(KNOBS, (c10 * 1e-9, c12a * 1e-9, c12b * 1e-9), strict=True))


def read(column: RayColumn, points: int = 24, step: float = 4e-9) -> tuple[NDArray[Any], Disc]:
    """Return the map (points, points, K + 2) of a scan, and its disc."""
    loop = Loop(column)
    loop.scan(Scan(Region(0, 0, points * step, points * step), (points, points), 1e-3))
    middle = (PIXELS / 2, PIXELS / 2)
    return loop.map, Disc.on((PIXELS, PIXELS), middle, 2 * HALF_ANGLE / PIXELS, CONVERGENCE)


@pytest.mark.parametrize("start", [(500, 300, -400), (-500, 500, 500)])
def test_shifts_between_neighbours_tell_half_a_micrometre(start: tuple[float, float, float]) -> None:
    values, disc = read(RayColumn(lens(*start)))
    data = spectra(values[..., :-2], 4e-9, of_total=False)
    assert data is not None
    made = far(data, disc)
    assert made.significance > 15
    np.testing.assert_allclose(made.value, np.array(start) * 1e-9, atol=60e-9)


@pytest.mark.parametrize("start", [(0, 0, 0), (20, -10, 5), (-60, 3, 30)])
def test_near_focus_all_pixels_together_tell_far_less_than_a_step(start: tuple[float, float, float]) -> None:
    values, disc = read(RayColumn(lens(*start)))
    data = spectra(values[..., :-2], 4e-9, of_total=False)
    assert data is not None
    made = rays(data, disc)
    assert made.significance > 15
    np.testing.assert_allclose(made.value, np.array(start) * 1e-9, atol=max(1e-9, 0.05e-9 * np.abs(start).max()))
    assert np.all(made.sigma < 1e-9)
