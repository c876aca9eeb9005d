"""What a tip, its feedback loop and its scanner make of a surface."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from probeloop.simulators.spm.commands import bench
from probeloop.simulators.spm.kernels import (
    DEFLECTION,
    ERROR,
    PIEZO,
    STATE,
    STEP,
    SURFACE,
    TOUCHING,
    Z,
    _follow,
    dilated,
    piezo_step,
)
from probeloop.simulators.spm.scanner import Scanner
from probeloop.simulators.spm.tip import Tip
from scipy import ndimage
from spm_words import at, drawn, made, whole

from probeloop.data.commands import ForceCurve, MoveProbe, Scan, SetFeedback
from probeloop.data.errors import DriverError
from probeloop.data.scan import Region


def errors_after_a_step(integral: float, steps: int = 400, proportional: float = 0.0) -> NDArray[np.float64]:
    """Let the surface rise by 10 nm at once; return the loop's error [m] after each step of the controller."""
    state = np.zeros(STATE)
    state[Z], state[TOUCHING], state[SURFACE] = -20e-9, 1.0, 10e-9
    state[2] = state[Z]
    made_ = []
    for _ in range(steps):
        _follow(10e-9, 1, state, 1.0, 20e-9, proportional, integral, piezo_step())
        made_.append(state[ERROR])
    return np.array(made_)


def test_low_gain_lags_and_a_good_one_settles_with_its_own_time_constant() -> None:
    for integral in (200.0, 800.0):
        errors = errors_after_a_step(integral)
        time = -1 / np.polyfit(np.arange(20, 100) * STEP, np.log(errors[20:100]), 1)[0]
        assert time == pytest.approx(1 / integral, rel=0.25)
    assert abs(errors_after_a_step(1500.0)[-1]) < 1e-11


def test_too_high_a_gain_rings_near_the_resonance_of_the_piezo_and_grows() -> None:
    rings, calm = errors_after_a_step(9000.0), errors_after_a_step(1500.0)
    assert np.count_nonzero(np.diff(np.sign(calm))) < 6
    late = rings[200:]
    assert np.ptp(late) > 10e-9
    frequency = np.count_nonzero(np.diff(np.sign(late - late.mean()))) / 2 / (late.size * STEP)
    assert frequency == pytest.approx(PIEZO / (2 * np.pi), rel=0.35)
    assert np.ptp(rings[300:]) > np.ptp(errors_after_a_step(5000.0)[300:])


def test_gains_show_in_a_scan_of_a_grating() -> None:
    bend = {}
    for integral in (150.0, 1500.0, 9000.0):
        spm = made(surface="grating")
        spm.set_feedback(SetFeedback("on", integral=integral))
        values, spec = drawn(spm, whole(spm, (4, 256)))
        assert spec.numpy_dtype == np.float32
        bend[integral] = values[..., 2].std()
    assert bend[1500.0] < 0.3 * bend[150.0]
    assert bend[9000.0] > 5 * bend[1500.0]


def test_the_loop_is_faster_than_a_slow_line_and_slower_than_a_fast_one() -> None:
    lag = []
    for dwell in (5e-5, 2e-3):
        spm = made(surface="grating")
        values, _ = drawn(spm, whole(spm, (4, 256), dwell))
        lag.append(np.abs(values[..., 0] - values[..., 1]).mean())  # forth and back are late on different sides
    assert lag[0] > 4 * lag[1]


def test_a_tip_stops_nowhere_below_the_surface_and_a_blunter_one_higher() -> None:
    surface = 20e-9 * np.random.default_rng(0).random((96, 96))
    sharp, blunt = dilated(surface, 2e-9, 5e-9), dilated(surface, 2e-9, 50e-9)
    assert (sharp >= surface).all()
    assert (blunt >= sharp).all()
    assert blunt.mean() > sharp.mean() + 1e-9
    np.testing.assert_array_equal(dilated(np.full((16, 16), 3e-9), 2e-9, 20e-9), 3e-9)


def test_dilation_by_rows_and_columns_is_dilation_by_the_paraboloid() -> None:
    surface = 10e-9 * np.random.default_rng(1).random((48, 48))
    side = np.arange(-12, 13) * 2e-9
    drop = -(side[:, None] ** 2 + side**2) / (2 * 20e-9)
    naive = ndimage.grey_dilation(surface, structure=drop, mode="constant", cval=-1.0)
    np.testing.assert_allclose(dilated(surface, 2e-9, 20e-9), naive, atol=1e-20)


def test_a_double_tip_shows_everything_twice() -> None:
    bump = np.zeros((128, 128))
    bump[64, 64] = 15e-9
    felt = Tip(bump, 2e-9, 5e-9, 60e-9).felt
    assert felt[64, 64] == 15e-9
    assert felt[64, 34] == pytest.approx(12e-9)
    assert felt[64, 94] == 0.0


def test_trace_and_retrace_bow_to_opposite_sides() -> None:
    flat = Scanner(1, 0.0, 0.0, 0.0)
    bowed = Scanner(1, 0.0, 0.0, 0.01)
    places = np.stack([np.linspace(-4e-7, 4e-7, 101), np.zeros(101)], axis=1)
    still, line = flat.line(places, 0.0, 1.0), bowed.line(places, 0.0, 1.0)
    np.testing.assert_array_equal(still[0], still[1])
    np.testing.assert_allclose(still[0], places.T, atol=1e-20)
    apart = line[1, 0] - line[0, 0]
    assert apart[50] == pytest.approx(2 * 0.01 * 8e-7, rel=0.01)
    assert (apart > 0).all()
    assert abs(apart[0]) < 0.05 * apart[50]
    pictures = []
    for hysteresis in (0.0, 0.02):
        spm = made(surface="grating", hysteresis=hysteresis)
        values, _ = drawn(spm, whole(spm, (4, 512), 2e-3))
        pictures.append(np.abs(values[..., 0] - values[..., 1]).mean())
    assert pictures[1] > 4 * pictures[0]


def test_drift_moves_the_picture_by_what_truth_says() -> None:
    spm = made(seed=3, drift=1e-10)
    command = Scan(Region(0.0, 0.0, 4e-7, 4e-7), (96, 96), 1e-3)
    begun = spm.clock.now_ns() * 1e-9
    first = drawn(spm, command)[0][..., 2].real
    between = spm.clock.now_ns() * 1e-9
    second = drawn(spm, command)[0][..., 2].real
    drift = spm.truth()["drift"]
    moved = (drift(between + 9.0) - drift(begun + 9.0)) / (4e-7 / 96)
    assert np.hypot(*moved) > 0.3
    product = np.conj(np.fft.fft2(first - first.mean())) * np.fft.fft2(second - second.mean())
    peak = np.fft.fftshift(np.fft.ifft2(product).real)
    row, column = np.unravel_index(np.argmax(peak), peak.shape)
    found = []
    for line, i in ((peak[:, column], row), (peak[row], column)):
        a, b, c = line[i - 1 : i + 2]
        found.append(i - 48 + (a - c) / (2 * (a - 2 * b + c)))
    assert found[1] == pytest.approx(moved[0], abs=0.35)
    assert found[0] == pytest.approx(moved[1], abs=0.35)


def test_drift_starts_fast_and_creep_ends_in_the_logarithm_of_time() -> None:
    scanner = Scanner(2, 1e-10, 0.02, 0.0)
    assert np.hypot(*scanner.velocity) == pytest.approx(1e-10)
    np.testing.assert_allclose(scanner.drift(0.0), 0.0, atol=1e-20)
    scanner.moved(np.array([5e-7, 0.0]), 10.0)
    left = [scanner.missing(10.0 + t)[0] for t in (0.0, 1.0, 10.0, 100.0, 2000.0)]
    assert left[0] == pytest.approx(0.02 * 5e-7)
    assert left[1] > left[2] > left[3] > left[4] == 0.0
    assert left[1] - left[2] == pytest.approx(left[2] - left[3], rel=0.1)  # as much in every decade


def test_a_crash_blunts_the_tip() -> None:
    spm = made(surface="particles", double_tip=0.0)
    before = spm.truth()["tip"]["radius"]
    spm.set_feedback(SetFeedback("hold"))
    spm.feedback.state[Z] -= 300e-9  # the held tip is driven into the surface
    spm.move_probe(MoveProbe((5e-8, 0.0)))
    tip = spm.truth()["tip"]
    assert (tip["crashes"], tip["radius"] > 2 * before) == (1, True)
    assert (spm.truth()["felt"] >= spm.truth()["surface"]).all()
    assert (spm.sense()["deflection"] or 0.0) > spm.describe().limits.alarms["deflection"].high


def test_a_held_tip_bends_as_the_surface_goes() -> None:
    spm = made(surface="grating")
    spm.set_feedback(SetFeedback("hold"))
    command = whole(spm, (2, 200))
    values, _ = drawn(spm, command)
    assert np.ptp(values[..., 0]) < 1e-9  # z stands still
    felt = at(spm.truth(), "felt", command.region.positions(command.shape).reshape(2, 200, 2))
    bend = values[..., 2]
    touching = bend > 2e-9
    assert np.corrcoef(bend[touching], felt[touching])[0, 1] > 0.98
    assert spm.feedback.state[DEFLECTION] >= 0.0


@pytest.mark.parametrize("depth", [None, 4e-8])
def test_a_force_curve_snaps_in_presses_and_tears_off(depth: float | None) -> None:
    from spm_words import spectrum

    spm = made(surface="particles")
    kind = ForceCurve(n=512, depth=depth, trigger_force=None if depth else 100e-9)
    curve, spec, _ = spectrum(spm, (0.0, 0.0), kind)
    z = spec.sig[0].values()
    into, out = curve
    adhesion = 2 * np.pi * 20e-9 * 0.06
    assert abs(into[z < -5e-9].mean()) < 0.2e-9
    assert out.min() == pytest.approx(-adhesion, rel=0.3)
    assert into.min() > 0.8 * out.min()
    assert into[-1] == pytest.approx(out[-1], abs=3e-9)
    slope = np.polyfit(z[-60:], into[-60:], 1)[0]
    assert 0.8 * 3.0 < slope < 3.0  # the spring, and a contact that gives a little
    if depth is None:
        assert into[-1] == pytest.approx(100e-9, rel=0.05)
    with pytest.raises(DriverError, match="allowed: above 0, to 150 nm"):
        spectrum(spm, (0.0, 0.0), ForceCurve(n=512, depth=1e-6))


def test_the_bench_counts_lines() -> None:
    made = bench({"seconds": 0.2})
    assert made["lines_per_second"] > 100
    assert made["ok"] == (made["lines_per_second"] >= 3000)
