"""Deep kernel, PCA-GP, (x, y)-GP and the best feature: against naive algebra, on bad numbers; what a step costs."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.explore_dkl.link import better, evidence
from probeloop.plugins.explore_dkl.patches import cut, features
from probeloop.plugins.explore_dkl.surrogate import HeldOut, Name, make
from scipy import ndimage

torch = pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")

SHAPE = (28, 28)
N = SHAPE[0] * SHAPE[1]


def world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and a value that rises where the image rises to the right."""
    image = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2.0)
    rising = np.maximum(np.gradient(image)[1], 0.0)
    return image, rising / rising.max()


IMAGE, VALUE = world(1)
PATCHES = cut({"a": IMAGE}, SHAPE, 6).rows
PLACES = np.stack(np.divmod(np.arange(N), SHAPE[1]), axis=1).astype(float)
SIMPLE = features({"a": IMAGE}, SHAPE, 6)[0]
ROWS: dict[Name, np.ndarray] = {"deep_kernel": PATCHES, "pca_gp": PATCHES, "xy_gp": PLACES, "best_feature": SIMPLE}


def observed(n: int, seed: int = 0, noise: float = 0.03) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return n cells, their values and standard errors."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(N, n, replace=False)
    return cells, VALUE.ravel()[cells] + noise * rng.normal(size=n), np.full(n, noise)


def fitted(name: Name, n: int = 60, seed: int = 0, **options: Any) -> Any:
    model = make(name, ROWS[name], seed, **options)
    cells, y, sigma = observed(n, seed)
    model.fit(ROWS[name][cells], y, sigma)
    return model


@pytest.mark.parametrize("name", ["pca_gp", "xy_gp"])
def test_prediction_and_covariance_are_those_of_the_textbook(name: Name) -> None:
    model = fitted(name, 30)
    cells, y, sigma = observed(30)
    k, target = model._kernels, model._target
    z = model._reduction(ROWS[name])
    length, strength = k.length_scales()[0].numpy(), float(k.variance()[0, 0])

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        r = np.sqrt(5) * np.linalg.norm(a[:, None] / length - b[None] / length, axis=2)
        return strength * (1 + r + r**2 / 3) * np.exp(-r)

    mu = float(k.mean[0, 0, 0])
    noise = k.noises(torch.from_numpy(sigma / target.slope(target.forward(y)))[None])[0].numpy()
    inverse = np.linalg.inv(kernel(z[cells], z[cells]) + np.diag(noise))
    cross = kernel(z, z[cells])
    mean = mu + cross @ inverse @ (target.forward(y) - mu)
    posterior = kernel(z, z) - cross @ inverse @ cross.T
    found, deviation = model.predict(ROWS[name])
    np.testing.assert_allclose(found, target.back(mean), atol=1e-6)
    unit = model.calibration(mean) * target.slope(mean)
    posterior += np.eye(N) * float(noise[0] - (sigma / target.slope(target.forward(y)))[0] ** 2)  # what is not told
    np.testing.assert_allclose(deviation, unit * np.sqrt(np.diag(posterior)), rtol=1e-4, atol=1e-5)
    covariance = model.covariance(ROWS[name], ROWS[name][17])
    np.testing.assert_allclose(covariance, unit * unit[17] * posterior[:, 17], atol=1e-5)
    without = [i for i in range(30) if i != 4]
    left = np.linalg.inv(kernel(z[cells], z[cells])[np.ix_(without, without)] + np.diag(noise[without]))
    row = kernel(z[cells[4:5]], z[cells[without]])[0]
    alone = mu + row @ left @ (target.forward(y)[without] - mu)
    assert model._alone()[0][4] == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("name", ["deep_kernel", "pca_gp"])
def test_the_hidden_rule_is_learned_and_the_uncertainty_is_honest(name: Name) -> None:
    model = fitted(name, 80)
    assert model.fault == ""
    mean, sigma = model.predict(ROWS[name])
    rest = np.setdiff1d(np.arange(N), observed(80)[0])
    truth = VALUE.ravel()[rest]
    assert np.corrcoef(mean[rest], truth)[0, 1] > 0.9
    inside = np.abs(mean[rest] - truth) < 1.645 * sigma[rest]
    assert 0.75 < inside.mean() <= 1.0
    assert evidence(model.held_out()).seen


def test_draws_have_the_mean_and_the_deviation_of_the_prediction() -> None:
    model, rng = fitted("pca_gp", 40), np.random.default_rng(3)
    draws = np.stack([model.sample(PATCHES, rng) for _ in range(200)])
    mean, sigma = model.predict(PATCHES)
    assert np.abs(draws.mean(0) - mean).max() < 0.35 * sigma.max()
    ratio = draws.std(0) / sigma
    assert 0.8 < np.median(ratio) < 1.2


def test_members_differ_and_what_they_have_not_seen_tells_how_good_they_are() -> None:
    model = fitted("deep_kernel", 40, members=3)
    means = model._look(PATCHES)["mean"]
    assert means.std(axis=0).max() > 0.01
    held = model.held_out()
    assert np.isfinite(held.score).all()
    assert better(held, HeldOut(held.constant, held.constant))
    assert not better(HeldOut(held.constant, held.constant), held)


def test_nothing_is_claimed_where_value_and_image_have_nothing_in_common() -> None:
    claims = 0
    for seed in range(5):
        rng = np.random.default_rng(100 + seed)
        cells = rng.choice(N, 48, replace=False)
        model = make("deep_kernel", PATCHES, seed)
        model.fit(PATCHES[cells], rng.normal(size=48), np.full(48, np.nan))
        claims += evidence(model.held_out()).seen
    assert claims == 0


def test_a_property_of_the_place_alone_is_no_link_to_structure() -> None:
    rng = np.random.default_rng(2)
    cells = rng.choice(N, 60, replace=False)
    y = np.sin(PLACES[cells, 0] / 5) + 0.02 * rng.normal(size=60)
    patch, place = make("pca_gp", PATCHES), make("xy_gp", PLACES)
    patch.fit(PATCHES[cells], y, np.zeros(60))
    place.fit(PLACES[cells], y, np.zeros(60))
    made = evidence(patch.held_out(), place.held_out())
    assert not made.seen
    assert "no structure-property link seen" in str(made)


@pytest.mark.parametrize("name", list(ROWS))
@pytest.mark.parametrize("case", ["constant", "few", "nan", "outlier", "huge", "tiny", "repeated"])
def test_bad_numbers_are_a_fault_in_words_or_a_finite_prediction(name: Name, case: str) -> None:
    cells, y, sigma = observed(24)
    if case == "constant":
        y = np.full(24, 4.2)
    elif case == "few":
        cells, y, sigma = cells[:2], y[:2], sigma[:2]
    elif case == "nan":
        y[3] = np.nan
    elif case == "outlier":
        y[3] = 1e9
    elif case in ("huge", "tiny"):
        y, sigma = (y * 1e12, sigma * 1e12) if case == "huge" else (y * 1e-15, sigma * 1e-15)
    else:
        cells, sigma = np.repeat(cells[:6], 4), np.zeros(24)
        y = np.repeat(y[:6], 4)
    model = make(name, ROWS[name], 0)
    model.fit(ROWS[name][cells], y, sigma)
    assert bool(model.fault) == (case in ("constant", "few", "nan"))
    mean, deviation = model.predict(ROWS[name])
    if case != "nan":
        assert np.isfinite(mean).all()
        assert np.isfinite(deviation).all()
        assert (deviation >= 0).all()
    if case in ("huge", "tiny"):
        unit = 1e12 if case == "huge" else 1e-15
        assert np.ptp(mean) < 3 * unit


def test_an_outlier_leaves_the_rule_visible() -> None:
    cells, y, sigma = observed(80)
    y[5] = 1e4
    model = make("pca_gp", PATCHES)
    model.fit(PATCHES[cells], y, sigma)
    rest = np.setdiff1d(np.arange(N), cells)
    mean = model.predict(PATCHES)[0]
    order = np.argsort(np.argsort(mean[rest]))
    assert np.corrcoef(order, np.argsort(np.argsort(VALUE.ravel()[rest])))[0, 1] > 0.5


def test_the_same_calls_give_the_same_numbers_and_leave_torch_as_it_was() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state().clone()
    first, again, other = (fitted("deep_kernel", 30, seed).predict(PATCHES)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_an_update_is_as_good_as_a_fit_and_much_cheaper() -> None:
    cells, y, sigma = observed(70)
    model = make("deep_kernel", PATCHES, 0)
    model.fit(PATCHES[cells[:60]], y[:60], sigma[:60])
    start = time.process_time()
    model.update(PATCHES[cells], y, sigma)
    updated = time.process_time() - start
    rest = np.setdiff1d(np.arange(N), cells)
    found = model.predict(PATCHES)[0][rest]
    start = time.process_time()
    model.fit(PATCHES[cells], y, sigma)
    whole = time.process_time() - start
    assert np.corrcoef(found, VALUE.ravel()[rest])[0, 1] > 0.9
    assert updated < 0.6 * whole


def test_a_fit_that_diverges_or_is_singular_says_so_and_predicts_nothing_wild(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from probeloop.plugins.explore_dkl import gaussian, processes

    for error in (gaussian.Diverged("the loss is nan at step 3"), gaussian.Singular("the covariance is singular")):

        def fail(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(gaussian.Kernels, "learn", fail)
        model = fitted("deep_kernel", 20)
        assert str(error) in model.fault
        assert model.held_out() is None
        assert np.ptp(model.predict(PATCHES)[0]) == 0
    assert processes.LEAST == 3


def test_a_singular_matrix_gets_jitter_and_one_that_is_no_covariance_is_refused() -> None:
    from probeloop.plugins.explore_dkl.gaussian import Singular, cholesky

    ones = torch.ones(1, 5, 5, dtype=torch.float64)
    factor = cholesky(ones)
    assert torch.allclose(factor @ factor.mT, ones, atol=1e-3)
    with pytest.raises(Singular):
        cholesky(-ones)
    with pytest.raises(Singular):
        cholesky(ones * float("nan"))


def test_length_scales_at_their_bounds_are_told() -> None:
    from probeloop.plugins.explore_dkl.gaussian import LENGTH, Kernels, Shape

    kernels = Kernels(Shape(2), 0, np.zeros((4, 2)))
    assert kernels.at_bound() == ""
    kernels.length = torch.full_like(kernels.length, 9.0)
    assert "no feature matters" in kernels.at_bound()
    kernels.length = torch.full_like(kernels.length, -9.0)
    assert "stands alone" in kernels.at_bound()
    assert LENGTH[0] < float(kernels.length_scales().min()) * 1.01


@pytest.mark.bench
def test_memory_stays_below_800_mb_with_4096_candidates_and_500_observations() -> None:
    program = (
        "import resource\nfrom probeloop.plugins.explore_dkl.cost import steps_cpu_s\n"
        "print(*steps_cpu_s(500), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=110, check=True)
    assert float(done.stdout.split()[-1]) <= 800


@pytest.mark.bench
def test_a_step_takes_at_most_a_second_of_one_processor() -> None:
    from probeloop.plugins.explore_dkl.cost import step_cpu_s

    assert max(step_cpu_s().values()) <= 1.0
