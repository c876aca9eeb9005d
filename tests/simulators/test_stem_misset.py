"""A mis-set column: what is hidden acts as the conventions say, shown on a letter F; what is told is the belief."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.simulators.stem import StemSettings, StemSimulator
from probeloop.simulators.stem.misset import CENTRE, CURRENT, SCALE, MisSet
from probeloop.simulators.stem.physics import Geometry, Planes, Scatterer, make_probe

from probeloop.compute.detector import detector_to_scan
from probeloop.data.aberrations import Aberrations, chi, wavelength
from probeloop.data.calibration import Calibration, CalibrationSet
from probeloop.data.commands import AcquireReference, Unblank
from probeloop.data.errors import SettingsError
from probeloop.data.frame import FrameBlock, FrameBuffer
from probeloop.data.settings import convert

LAMBDA = wavelength(200e3)
PIXELS, ANGLE = 64, 3.5e-3
SMALL: dict[str, Any] = {
    "pixels": 64, "pixel_angle": 3.5, "tile": 8, "carbon": 0.2, "crystal": 0.4, "pace": None, "settling": 0.0,
}  # fmt: skip


def letter_f(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A soft letter F, 1.6 nm high, upright with x to the right and y down: its stem is left, its bars go right."""

    def bar(x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
        def inside(v: np.ndarray, low: float, high: float) -> np.ndarray:
            return 1 / (1 + np.exp((low - v) / 4e-11)) / (1 + np.exp((v - high) / 4e-11))

        return inside(x, x0, x1) * inside(y, y0, y1)

    nm = 1e-9
    return bar(-0.5 * nm, -0.2 * nm, -0.8 * nm, 0.8 * nm) + 0.9 * (
        bar(-0.2 * nm, 0.5 * nm, -0.8 * nm, -0.5 * nm) + bar(-0.2 * nm, 0.25 * nm, -0.15 * nm, 0.1 * nm)
    )


def scanned_f(true: MisSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return deflection (n, n, 2) (x, y) [px], dark field (n, n) and the letter (n, n), at commanded positions."""
    geometry = Geometry(PIXELS, ANGLE * true.camera, LAMBDA, 20e-3, true.centre)
    tile = 8 * PIXELS
    at = (np.arange(tile) - tile // 2) * geometry.pixel
    here = np.stack(np.meshgrid(at, at), axis=-1)
    in_scan = here @ true.to_scan.T
    phase = 0.6 * letter_f(in_scan[..., 0], in_scan[..., 1])
    scatterer = Scatterer(geometry, Planes.of(np.exp(1j * phase).astype(np.complex64)))
    probe = make_probe(Aberrations(), geometry)
    n, field = 28, 2.4e-9
    line = (np.arange(n) - (n - 1) / 2) * field / n
    commanded = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    places = true.placed(commanded, np.zeros_like(commanded))
    middle = np.array([PIXELS // 2 + true.centre[1], PIXELS // 2 + true.centre[0]])
    k = np.arange(PIXELS)
    com, dark = [], []
    for x, y in places:
        wave = scatterer.far_field(probe, float(x), float(y))
        pattern = np.roll(np.fft.fftshift(np.abs(wave) ** 2), geometry.whole_centre, (0, 1)).astype(np.float64)
        total = pattern.sum()
        com.append([(pattern.sum(0) * k).sum() / total - middle[0], (pattern.sum(1) * k).sum() / total - middle[1]])
        outside = np.hypot(k[:, None] - middle[1], k[None, :] - middle[0]) * geometry.angle > 22e-3
        dark.append(pattern[outside].sum() / total)
    drawn = letter_f(true.scale * commanded[:, 0], true.scale * commanded[:, 1])
    return np.reshape(com, (n, n, 2)), np.reshape(dark, (n, n)), drawn.reshape(n, n)


def alike(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.parametrize(("rotation", "flip"), [(0.0, 1.0), (0.6, 1.0), (-2.4, -1.0), (1.3, -1.0)])
def test_a_letter_f_is_an_f_and_deflects_along_its_gradient(rotation: float, flip: float) -> None:
    true = MisSet(scale=1.05, rotation=rotation, flip=flip, camera=0.97, centre=(2.3, -1.6))
    com, _, drawn = scanned_f(true)
    known = CalibrationSet(
        (
            Calibration(id="r", kind="scan_detector_rotation", value=(rotation,)),
            Calibration(id="f", kind="scan_detector_flip", value=(flip,)),
        )
    )
    turned = com @ detector_to_scan(known, "the test").T
    gradient = np.stack(np.gradient(drawn)[::-1], axis=-1)
    assert alike(turned, gradient) > 0.85
    mirrored = (
        com
        @ detector_to_scan(
            CalibrationSet((known.calibrations[0], Calibration(id="f", kind="scan_detector_flip", value=(-flip,)))),
            "it",
        ).T
    )
    assert alike(mirrored, gradient) < 0.6
    # the image itself: the potential that the deflection comes from is an F, not its mirror image
    potential = np.cumsum(turned[..., 0] - turned[0, 0, 0], axis=1)
    assert alike(potential, drawn) > alike(potential, drawn[:, ::-1]) + 0.2
    assert alike(potential, drawn) > alike(potential, drawn[::-1]) + 0.2


def test_aberrations_are_evaluated_where_the_detector_pixel_looks() -> None:
    rng = np.random.default_rng(3)
    lens = Aberrations(C10=2e-8, C12a=3e-9, C12b=-8e-9, C21a=4e-8, C21b=1e-8, C23a=-3e-8, C23b=2e-8, C30=1e-6)
    true = MisSet(rotation=0.7, flip=-1.0)
    p = rng.normal(0, 1e10, (50, 2))
    seen = p @ true.to_scan.T
    np.testing.assert_allclose(
        chi(true.turned(lens), p[:, 0], p[:, 1], LAMBDA), chi(lens, seen[:, 0], seen[:, 1], LAMBDA), rtol=1e-9
    )


def test_nothing_is_mis_set_by_default_and_all_of_it_on_request() -> None:
    assert MisSet.draw(0.0, 5, 128) == MisSet()
    drawn = [MisSet.draw(1.0, seed, 128) for seed in range(60)]
    assert {each.flip for each in drawn} == {1.0, -1.0}
    assert 0.8 * SCALE < max(abs(each.scale - 1) for each in drawn) <= SCALE
    assert 0.8 * CURRENT < max(abs(each.current - 1) for each in drawn) <= CURRENT
    assert 0.8 * CENTRE < max(max(map(abs, each.centre)) for each in drawn) <= CENTRE
    assert max(abs(each.rotation) for each in drawn) > 0.9 * np.pi
    small = MisSet.draw(0.1, 7, 128)
    assert small.scale - 1 == pytest.approx(0.1 * (MisSet.draw(1.0, 7, 128).scale - 1))


def vacuum(stem: StemSimulator) -> tuple[np.ndarray, FrameBlock]:
    """Return the mean vacuum pattern and the first block."""
    stem.unblank(Unblank())
    taken = stem.acquire_reference(AcquireReference("vacuum_probe", 16))
    room = np.zeros(16 * (taken.spec.frame_bytes + 64) + 4096, np.uint8)
    buffer = FrameBuffer.over(room, taken.spec, 16)
    next(taken.frames)
    buffer.seal(taken.frames.send(buffer), index=0, generation=1)
    block = FrameBlock.parse(room, taken.spec)
    return block.data.mean(axis=0), block


def test_the_operator_is_told_the_belief_and_the_frames_show_the_truth() -> None:
    stem = StemSimulator(StemSettings(**(SMALL | {"mis_set": 1.0, "seed": 9})))
    try:
        true = stem.truth()["calibrations"]
        believed = CalibrationSet(stem.describe().calibrations)
        assert believed.require("pattern_centre", "it").value == (32.0, 32.0)
        assert believed.require("scan_scale", "it").sigma[0] > 0.01
        pattern, block = vacuum(stem)
        assert block.spec.sig[0].scale == 3.5e-3
        k = np.arange(64)
        centre = [(pattern.sum(1) * k).sum() / pattern.sum(), (pattern.sum(0) * k).sum() / pattern.sum()]
        np.testing.assert_allclose(centre, true["pattern_centre"], atol=0.1)
        assert pattern.sum() / block.dose[0] == pytest.approx(true["beam_current"][0] / 50e-12, rel=0.02)
        area = np.pi * (25e-3 / true["detector_scale"][0]) ** 2
        lit = np.count_nonzero(pattern > 0.2 * np.percentile(pattern, 99))
        assert lit == pytest.approx(area, rel=0.1)
    finally:
        stem.close()


def test_a_share_beyond_one_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(SettingsError, match="mis_set") as caught:
        convert(StemSettings, {"mis_set": 1.5})
    assert "0 <= number <= 1" in str(caught.value.problems[0])
