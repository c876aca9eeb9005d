"""Autofocus: its estimates against known lenses, its plan step by step, and what it says when it fails."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from probeloop.plugins.autofocus import Autofocus, BrightFieldPixels
from probeloop.plugins.autofocus.commands import TOPIC, Loop, attainable
from probeloop.plugins.autofocus.disc import Disc
from probeloop.plugins.autofocus.estimate import Estimate, close, contrast, far, spectra
from probeloop.plugins.autofocus.kernels import aligned, explained
from probeloop.plugins.autofocus.reading import Seen
from probeloop.simulators.stem import StemSettings, StemSimulator

from probeloop.data.aberrations import strehl, wavelength
from probeloop.data.calibration import CalibrationSet
from probeloop.data.commands import Scan, SetAberrations, Unblank
from probeloop.data.control import Result
from probeloop.data.driver import InstrumentInfo
from probeloop.data.errors import CalibrationError, PlanError, RefusedError
from probeloop.data.frame import FrameBlock, FrameBuffer
from probeloop.data.scan import Region
from probeloop.plugin.contract import Checkpoint, Context, PlanContext, Reduce
from probeloop.testing.check_plan import check_plan

LAMBDA = wavelength(200e3)
SMALL: dict[str, Any] = {
    "pixels": 64, "pixel_angle": 3.5, "tile": 14, "pace": None, "settling": 0.0, "crystal": 0.8, "carbon": 2.0,
}  # fmt: skip


def column(**parameters: Any) -> StemSimulator:
    return StemSimulator(StemSettings(**(SMALL | parameters)))


def plan(**parameters: Any) -> Autofocus:
    return Autofocus(Autofocus.Parameters(**parameters))


def read(stem: StemSimulator, step: float, points: int = 32) -> tuple[np.ndarray, Disc]:
    """Return the map (points, points, K + 2) of a scan with `step` [m], and its disc."""
    loop = Loop(stem)
    loop.scan(Scan(Region(0, 0, points * step, points * step), (points, points), 1e-5))
    return loop.map, Disc.on((64, 64), (32.0, 32.0), 3.5e-3, 25e-3)


@pytest.mark.parametrize("lens", [(120e-9, 20e-9, -10e-9), (-60e-9, 0.0, 25e-9)])
def test_from_afar_the_shifts_tell_size_and_sign(lens: tuple[float, float, float]) -> None:
    values, disc = read(column(offset=dict(zip(("C10", "C12a", "C12b"), lens, strict=True))), 1.5e-10)
    data = spectra(values[..., :-2], 1.5e-10)
    assert data is not None
    made = far(data, disc)
    assert made.significance > 15
    np.testing.assert_allclose(made.value, lens, atol=6e-9)


@pytest.mark.parametrize("lens", [(3e-9, -2e-9, 1e-9), (-8e-9, 1e-9, 3e-9), (0.3e-9, 0.2e-9, -0.4e-9)])
def test_near_focus_the_interference_tells_tenths_of_a_nanometre(lens: tuple[float, float, float]) -> None:
    values, disc = read(column(offset=dict(zip(("C10", "C12a", "C12b"), lens, strict=True))), 0.8e-10)
    data = spectra(values[..., :-2], 0.8e-10)
    assert data is not None
    made = close(data, disc, LAMBDA)
    assert made.significance > 15
    np.testing.assert_allclose(made.value, lens, atol=0.8e-9)
    assert np.all(made.sigma < 1e-9)


def test_noise_has_no_significance() -> None:
    rng = np.random.default_rng(5)
    disc = Disc.on((64, 64), (32.0, 32.0), 3.5e-3, 25e-3)
    values = rng.poisson(20.0, (32, 32, disc.rows.size)).astype(np.float32)
    data = spectra(values, 0.8e-10)
    assert data is not None
    assert far(data, disc).significance < 8
    assert close(data, disc, LAMBDA).significance < 8


def test_kernels_equal_the_naive_lines() -> None:
    rng = np.random.default_rng(2)
    convergence, lens = 25e-3, np.array([20e-9, -7e-9, 4e-9])
    k = rng.uniform(-18e-3, 18e-3, (2, 40))
    q = rng.uniform(-20e-3, 20e-3, (2, 6))
    values = (rng.normal(size=(6, 40)) + 1j * rng.normal(size=(6, 40))).astype(np.complex64)

    def chi(x: Any, y: Any) -> Any:
        return np.pi / LAMBDA * (lens[0] * (x * x + y * y) + lens[1] * (x * x - y * y) + 2 * lens[2] * x * y)

    def inside(x: Any, y: Any) -> Any:
        return (x * x + y * y < convergence**2).astype(float)

    out = np.zeros(6)
    explained(values, q, k, convergence, lens * np.pi / LAMBDA, out)
    for i in range(6):
        x, y = k
        lower = inside(x - q[0, i], y - q[1, i]) * np.exp(1j * (chi(x, y) - chi(x - q[0, i], y - q[1, i])))
        upper = inside(x + q[0, i], y + q[1, i]) * np.exp(-1j * (chi(x, y) - chi(x + q[0, i], y + q[1, i])))
        model = lower - upper
        seen = np.abs(lower) + np.abs(upper) > 0
        share = abs(np.vdot(model, values[i])) ** 2 / (
            (np.abs(model) ** 2).sum() * (np.abs(values[i][seen]) ** 2).sum()
        )
        assert out[i] == pytest.approx(-seen.sum() * np.log(1 - share), rel=1e-4)

    cross = rng.normal(size=(3, 6)) + 1j * rng.normal(size=(3, 6))
    offset, qx, qy = rng.uniform(-5e-3, 5e-3, (3, 2)), rng.normal(size=6) * 1e9, rng.normal(size=6) * 1e9
    matrix = np.array([[lens[0] + lens[1], lens[2]], [lens[2], lens[0] - lens[1]]])
    shift = offset @ matrix
    naive = (cross * np.exp(-2j * np.pi * (shift[:, :1] * qx + shift[:, 1:] * qy))).real.sum(axis=0)
    out = np.zeros(6)
    aligned(cross.real.copy(), cross.imag.copy(), offset, qx, qy, lens, out)
    np.testing.assert_allclose(out, naive, rtol=1e-6)


def test_contrast_is_free_of_shot_noise() -> None:
    rng = np.random.default_rng(1)
    total = np.full((64, 64), 1e4)
    flat, sigma = contrast(rng.poisson(50.0, (64, 64)).astype(float), total)
    assert flat < 4 * sigma
    wave = 50 * (1 + 0.5 * np.sin(np.arange(64) * 0.8))[None, :] * np.ones((64, 1))
    value, sigma = contrast(rng.poisson(wave).astype(float), total)
    assert value == pytest.approx(wave.var() / wave.mean() ** 2, abs=4 * sigma)


def test_a_missing_pixel_is_left_out_and_many_are_refused() -> None:
    values, disc = read(column(offset={"C10": 80e-9}), 1.5e-10)
    values[3, 4] = np.nan
    data = spectra(values[..., :-2], 1.5e-10)
    assert data is not None
    assert far(data, disc).value[0] == pytest.approx(80e-9, abs=8e-9)
    values[:4] = np.nan
    assert spectra(values[..., :-2], 1.5e-10) is None


def test_the_plan_focuses_a_column_with_cross_talk() -> None:
    stem = column(seed=6, misalignment=0.5, drift=0.0)
    start = stem.truth()["aberrations"]
    best, _ = attainable(start, LAMBDA, 25e-3)
    summary = Loop(stem).run(plan())
    end = stem.truth()["aberrations"]
    assert summary["succeeded"], summary["message"]
    assert strehl(start, LAMBDA, 25e-3) < 0.05
    assert strehl(end, LAMBDA, 25e-3) > 0.9 * best
    assert summary["world"] == "waves"
    assert summary["read_back_confirmed"]
    assert summary["applied_m"]["C10"] == pytest.approx(stem.read_back()["C10"], abs=1e-15)


def test_with_noise_for_an_image_it_says_that_it_failed_and_leaves_the_knobs() -> None:
    stem = column(seed=6, misalignment=0.5)
    rng = np.random.default_rng(0)
    loop = Loop(stem, lambda v: rng.poisson(np.broadcast_to(v.mean((0, 1)), v.shape)).astype(v.dtype))
    summary = loop.run(plan())
    assert summary["succeeded"] is False
    assert summary["message"].startswith("failed: ")
    assert stem.read_back()["C10"] == 0.0


def test_a_failure_in_the_middle_puts_the_knobs_back() -> None:
    """The image turns to noise after the first correction."""
    stem = column(seed=6, misalignment=0.5)
    rng, scans = np.random.default_rng(0), []

    def spoil(values: np.ndarray) -> np.ndarray:
        scans.append(1)
        return values if len(scans) == 1 else rng.poisson(30.0, values.shape).astype(values.dtype)

    summary = Loop(stem, spoil).run(plan())
    assert summary["succeeded"] is False
    assert len(scans) == 2
    assert stem.read_back()["C10"] == pytest.approx(0.0, abs=1e-18)


def context(inputs: tuple[str, ...] = (TOPIC,), info: InstrumentInfo | None = None) -> PlanContext:
    made = info or column(carbon=0.0, tile=4).describe()

    def none(name: str, parameters: Any) -> Any:
        raise AssertionError(name)

    return PlanContext(np.random.default_rng(0), made, none, inputs)


def answers(estimates: list[tuple[float, ...]]) -> tuple[list[Any], dict[str, Any]]:
    """Feed the plan made-up readings; return its steps and its summary."""
    steps, generator, answer = [], plan().run(context()), None
    while True:
        try:
            step = generator.send(answer)
        except StopIteration as end:
            return steps, end.value
        steps.append(step)
        answer = Result() if isinstance(step, Unblank | Scan | SetAberrations) else None
        if isinstance(step, Reduce):
            answer = estimates.pop(0)


def told(c10: float, sigma: float, significance: float = 100.0, contrast: float = 1.0) -> tuple[float, ...]:
    value = np.array([c10, 0.0, 0.0]) * 1e-9
    return Seen("waves", Estimate(significance, value, np.full(3, sigma * 1e-9)), (contrast, 0.01)).flat()


def test_only_what_exceeds_twice_its_error_is_corrected() -> None:
    steps, summary = answers(
        [told(50, 1), told(3, 1), told(1.5, 1.0), told(0, 1, contrast=0.5), told(0, 1, contrast=0.4)]
    )
    turned = [step.values for step in steps if isinstance(step, SetAberrations)]
    assert turned[0] == {"C10": pytest.approx(-50e-9)}
    assert turned[1] == {"C10": pytest.approx(-3e-9)}  # 1.5 ± 1.0 after it is left alone
    assert turned[2:] == [{"C10": 5e-9}, {"C10": -1e-8}, {"C10": 5e-9}]
    assert summary["succeeded"] is True


def test_it_claims_nothing_that_the_dark_field_does_not_confirm() -> None:
    _, summary = answers([told(10, 1), told(0, 1), told(0, 1, contrast=0.5), told(0, 1, contrast=1.2)])
    assert summary["succeeded"] is False
    assert "beside focus" in summary["message"]


def test_it_says_when_it_never_comes_to_rest() -> None:
    _, summary = answers([told(10, 1)] + [told(4, 0.5)] * 6)
    assert summary["succeeded"] is False
    assert "not stationary" in summary["message"]


def test_large_errors_are_no_success() -> None:
    _, summary = answers([told(10, 1), told(0, 3)])
    assert summary["succeeded"] is False
    assert "error" in summary["message"]


def test_a_refused_command_ends_it_in_words() -> None:
    generator = plan().run(context())
    assert isinstance(next(generator), Unblank)
    assert isinstance(generator.send(Result()), Scan)
    with pytest.raises(StopIteration) as end:
        generator.throw(RefusedError("dose", "area_dose", "1e20 e/m^2"))
    assert end.value.value["succeeded"] is False
    assert "dose" in end.value.value["message"]


def test_it_names_what_it_lacks() -> None:
    with pytest.raises(PlanError, match="bright_field_pixels"):
        next(plan().run(context(inputs=("haadf",))))
    info = column(carbon=0.0, tile=4).describe()
    knobless = msgspec.structs.replace(info, limits=msgspec.structs.replace(info.limits, knobs={}))
    with pytest.raises(StopIteration) as end:
        next(plan().run(context(info=knobless)))
    assert "no knob C10" in end.value.value["message"]
    bare = msgspec.structs.replace(info, calibrations=())
    with pytest.raises(StopIteration) as end:
        next(plan().run(context(info=bare)))
    assert "pattern_centre" in end.value.value["message"]


def test_the_same_answers_give_the_same_steps() -> None:
    script = [told(50, 1), told(0, 1), told(0, 1), told(0, 1, contrast=0.5), told(0, 1, contrast=0.4)]
    first, second = answers(list(script))[0], answers(list(script))[0]
    plain = [s for s in first if not isinstance(s, Reduce | Checkpoint)]
    assert plain == [s for s in second if not isinstance(s, Reduce | Checkpoint)]


def test_the_transform_is_a_selection_of_pixels() -> None:
    stem = column()
    taken = stem.scan(Scan(Region(0, 0, 1e-9, 1e-9), (2, 8), 1e-4))
    with pytest.raises(CalibrationError, match="pattern_centre"):
        BrightFieldPixels().outputs(taken.spec)
    transform = BrightFieldPixels(context=Context(calibrations=CalibrationSet(stem.describe().calibrations)))
    spec = transform.outputs(taken.spec)["pixels"]
    room = np.zeros(16 * (taken.spec.frame_bytes + 64) + 4096, np.uint8)
    buffer = FrameBuffer.over(room, taken.spec, 16)
    next(taken.frames)
    buffer.seal(taken.frames.send(buffer), index=0, generation=1)
    block = FrameBlock.parse(room, taken.spec)
    made = transform.process(block)["pixels"]
    assert made.shape == (16, *spec.frame_shape)
    disc = Disc.on((64, 64), (32.0, 32.0), 3.5e-3, 25e-3)
    np.testing.assert_array_equal(made[:, :-2], block.data[:, disc.rows, disc.columns])
    np.testing.assert_array_equal(made[:, -2], block.data[:, disc.dark].sum(axis=1))
    np.testing.assert_array_equal(made[:, -1], block.data.sum(axis=(1, 2)))


def test_it_keeps_the_contract_of_a_plan_on_a_column() -> None:
    """Killed after every step and begun anew; the answers are maps of something that is no image."""
    assert check_plan(Autofocus, info=column(carbon=0.0, tile=4).describe()) == []
