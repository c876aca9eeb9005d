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
from probeloop.plugins.autofocus.rays import pictures, rays, sharpness
from scipy.ndimage import gaussian_filter, map_coordinates

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
    """Return a specimen of overlapping rectangles, one pixel a nanometre, each taking 2 % of the beam."""
    rng = np.random.default_rng(seed)
    made = np.ones((round(FIELD * 1e9),) * 2)
    for y, x, height, width in rng.uniform((0, 0, 4, 4), (*made.shape, 60, 60), (400, 4)).astype(int):
        made[y : y + height, x : x + width] -= 0.02
    return np.asarray(gaussian_filter(made, 2.0))


class RayColumn:
    """Frames are the specimen at H theta + probe, in electrons: `level` a pixel, Poisson.

    lens: coefficients at the start [m]. stuck: knobs that do not move. flicker: rms of the beam current, from frame
    to frame.
    """

    def __init__(
        self, lens: dict[str, float], level: float = 2e5, seed: int = 0, empty: bool = False,
        stuck: tuple[str, ...] = (), late: int = 0, flicker: float = 0.0,
    ) -> None:  # fmt: skip
        self.clock = ManualClock()
        self.knobs = dict.fromkeys(KNOBS, 0.0) | lens
        self.before, self.still = dict(self.knobs), 0
        self.level, self.stuck, self.late, self.flicker = level, stuck, late, flicker
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
            commands=("Scan", "Unblank", "SetAberrations", "Settle"),
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
        self.still -= 1
        return dict(self.before if self.still >= 0 else self.knobs)

    def unblank(self, command: Unblank) -> int:
        return self.clock.now_ns()

    def set_aberrations(self, command: SetAberrations) -> int:
        self.before, self.still = dict(self.knobs), self.late
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
            "camera", "frames", "<u4",
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


RAYS: dict[str, Any] = {"points": 16, "coarse_step": 4.0, "fine_step": 4.0, "tolerance": 1.0, "check_offset": 100.0}


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
    for data, error in ((spectra(values[..., :-2], 4e-9), 60e-9), (pictures(values[..., :-2], 4e-9, True), 25e-9)):
        assert data is not None
        made = far(data, disc)
        assert made.significance > 50
        np.testing.assert_allclose(made.value, np.array(start) * 1e-9, atol=error)


@pytest.mark.parametrize("start", [(0, 0, 0), (3, -2, 1), (60, 3, -30)])
def test_near_focus_all_pixels_together_tell_far_less_than_a_step(start: tuple[float, float, float]) -> None:
    values, disc = read(RayColumn(lens(*start)))
    data = pictures(values[..., :-2], 4e-9, curvature=True)
    assert data is not None
    made = rays(data, disc)[1]
    assert made.significance > 300
    np.testing.assert_allclose(made.value, np.array(start) * 1e-9, atol=0.8e-9 + 0.05e-9 * np.abs(start).max())
    assert np.all(made.sigma < 8e-9)
    waves = spectra(values[..., :-2], 4e-9)
    assert waves is not None
    assert close(waves, disc, 3.7e-12).significance < 0.1 * made.significance


def test_in_focus_the_error_is_what_the_estimate_says_it_is() -> None:
    """What all pixels see alike is looked at: as shares of their sum they would show nothing here."""
    column, pulls = RayColumn(lens(0, 0, 0), seed=3), []
    for _ in range(12):
        values, disc = read(column, points=16)
        data = pictures(values[..., :-2], 4e-9)
        assert data is not None
        made = rays(data, disc)[1]
        pulls.append(made.value / made.sigma)
    assert 0.4 < np.sqrt(np.mean(np.square(pulls))) < 2.0
    shares = spectra(values[..., :-2], 4e-9)
    assert shares is not None
    assert far(shares, disc).significance < 15


def test_kernel_equals_the_naive_lines() -> None:
    rng = np.random.default_rng(2)
    k, q = rng.uniform(-40e-3, 40e-3, (2, 40)), rng.uniform(-1e8, 1e8, (2, 6))
    values = (rng.normal(size=(6, 40)) + 1j * rng.normal(size=(6, 40))).astype(np.complex64)
    c10, c12a, c12b = 300e-9, -70e-9, 40e-9
    matrix = np.array([[c10 + c12a, c12b], [c12b, c10 - c12a]])
    alike = (values * np.exp(-2j * np.pi * (q.T @ matrix @ k))).sum(axis=1)
    share = np.abs(alike) ** 2 / (40 * (np.abs(values) ** 2).sum(axis=1))
    out = np.zeros(6)
    shifted(values, q, k, np.array([c10, c12a, c12b]), out)
    np.testing.assert_allclose(out, -40 * np.log(1 - share), rtol=1e-5)


def test_sharpness_is_free_of_noise_and_highest_in_focus() -> None:
    rng = np.random.default_rng(1)
    flat, sigma = sharpness(rng.normal(100.0, 3.0, (64, 64)))
    assert flat < 4 * sigma
    wave = 100 * (1 + 0.1 * np.sin(np.arange(64) * 0.4))[None, :] * np.ones((64, 1))
    value, sigma = sharpness(wave + rng.normal(0.0, 3.0, wave.shape))
    assert value == pytest.approx(wave.var() / wave.mean() ** 2, abs=4 * sigma)
    assert sharpness(np.full((64, 64), np.nan)) == (0.0, 1.0)
    scores = [sharpness(read(RayColumn(lens(c10, 0, 0)))[0][..., :-2].sum(axis=2))[0] for c10 in (-100, 0, 100)]
    assert scores[1] > 1.02 * max(scores[0], scores[2])


@pytest.mark.parametrize("start", [(500, 300, -400), (-500, -100, 490), (4, 0, -3)])
def test_the_plan_focuses_a_column_that_is_nothing_but_rays(start: tuple[float, float, float]) -> None:
    column = RayColumn(lens(*start), seed=1)
    summary = Loop(column).run(plan())
    assert summary["succeeded"], summary["message"]
    assert summary["world"] == "rays"
    assert "read-back confirmed" in summary["message"]
    assert summary["read_back_m"] == {name: pytest.approx(column.knobs[name], abs=1e-15) for name in KNOBS}
    assert np.abs(list(column.knobs.values())).max() < 2e-9


@pytest.mark.parametrize(
    "nothing",
    [{"empty": True}, {"empty": True, "flicker": 0.03}, {"level": 0.05}],
    ids=["featureless", "featureless under a beam that flickers", "hardly an electron"],
)
def test_it_claims_nothing_where_there_is_nothing_to_see(nothing: dict[str, Any]) -> None:
    column = RayColumn(lens(100, 20, 0), **nothing)
    summary = Loop(column).run(plan())
    assert summary["succeeded"] is False
    assert summary["message"].startswith("failed: ")
    assert column.knobs == {k: pytest.approx(v, abs=1e-15) for k, v in lens(100, 20, 0).items()}


def test_a_flickering_beam_does_not_keep_it_from_focus() -> None:
    column = RayColumn(lens(300, -100, 50), seed=1, flicker=0.002)
    summary = Loop(column).run(plan(points=24, check_offset=200.0))
    assert summary["succeeded"], summary["message"]
    assert np.abs(list(column.knobs.values())).max() < 2e-9


def test_a_knob_that_does_not_move_is_named_and_the_others_go_back() -> None:
    column = RayColumn(lens(300, 100, 0), seed=1, stuck=("C12a",))
    summary = Loop(column).run(plan())
    assert summary["succeeded"] is False
    assert "C12a was told to go to" in summary["message"]
    assert "reads back +100.00 nm" in summary["message"]
    assert column.knobs == {k: pytest.approx(v, abs=1e-15) for k, v in lens(300, 100, 0).items()}


def test_a_knob_that_is_late_to_read_back_is_waited_for() -> None:
    column = RayColumn(lens(300, 100, 0), seed=1, late=1)
    summary = Loop(column).run(plan())
    assert summary["succeeded"], summary["message"]
    assert summary["read_back_m"] == {name: pytest.approx(column.knobs[name], abs=1e-15) for name in KNOBS}


def test_knobs_that_are_not_read_back_are_not_said_to_be_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    column = RayColumn(lens(300, 100, 0), seed=1)
    monkeypatch.setattr(column, "read_back", dict)
    summary = Loop(column).run(plan())
    assert summary["succeeded"], summary["message"]
    assert summary["read_back_confirmed"] is False
    assert "does not read these knobs back" in summary["message"]


def test_on_a_fine_camera_a_channel_is_a_square_of_pixels() -> None:
    disc = Disc.on((128, 128), (63.5, 64.0), 1e-3, 44e-3)
    assert disc.pixels.shape == (disc.rows.size, 16)
    assert disc.pitch == pytest.approx(4e-3)
    assert np.unique(disc.pixels).size == disc.pixels.size
    y, x = np.divmod(disc.pixels, 128)
    assert np.hypot((y - 63.5) * 1e-3, (x - 64) * 1e-3).max() < 44e-3
    np.testing.assert_allclose(disc.kx, ((x - 64) * 1e-3).mean(axis=1))
    np.testing.assert_allclose(disc.ky, ((y - 63.5) * 1e-3).mean(axis=1))
    step = np.diff(disc.kx)[np.diff(disc.rows) == 0]
    np.testing.assert_allclose(step, disc.pitch * np.diff(disc.columns)[np.diff(disc.rows) == 0])
    assert abs(disc.kx.mean()) < disc.pitch / 2
    assert abs(disc.ky.mean()) < disc.pitch / 2
