"""What is concluded from few measurements: a link, where they fail, what they do to each other, what is not told."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.plugins.explore_dkl.calibration import calibrate
from probeloop.plugins.explore_dkl.history import history
from probeloop.plugins.explore_dkl.link import LEAST, RECORD, Record, evidence
from probeloop.plugins.explore_dkl.surrogate import HeldOut, make
from probeloop.plugins.explore_dkl.validity import oddness, probability_valid
from scipy import ndimage

Y, X = np.mgrid[:24, :24]
PLACES = np.stack([Y.ravel(), X.ravel()], axis=1).astype(float)


def recorded(values: np.ndarray, predicted: np.ndarray) -> float:
    record = Record()
    for value, said in zip(values, predicted, strict=True):
        record.tell(float(value), float(said))
    return record.deviations


def test_a_record_without_a_link_has_mean_0_and_deviation_1_also_when_greedy_predictions_are_all_high() -> None:
    rng = np.random.default_rng(0)
    made = [recorded(rng.normal(size=40), 1.0 + rng.normal(size=40)) for _ in range(400)]
    assert abs(np.mean(made)) < 0.2
    assert 0.85 < np.std(made) < 1.15
    assert np.mean(np.array(made) > RECORD) <= 0.005


def test_a_record_of_good_predictions_stands_out_even_where_only_high_values_are_measured() -> None:
    rng = np.random.default_rng(1)
    values = np.append(rng.normal(size=12), 2.0 + 0.5 * rng.normal(size=20))
    assert recorded(values, np.append(np.zeros(12), np.full(20, 2.0))) > RECORD
    assert np.isnan(Record().deviations)


def test_a_link_needs_a_gain_beside_the_record_and_more_than_the_place_tells() -> None:
    rng = np.random.default_rng(2)
    record = Record()
    for i in range(40):
        record.tell(float(i), float(i))  # a drift foretells itself
    n = 40
    constant = np.zeros(n)
    unsure = HeldOut(0.3 + 2.0 * rng.normal(size=n), constant)
    assert evidence(unsure).low < 0 < evidence(unsure).gain
    assert not evidence(unsure).seen
    seen = evidence(unsure, None, record)
    assert seen.seen
    assert "predictions went with" in str(seen)
    assert not evidence(HeldOut(constant - 0.1, constant), None, record).seen
    assert not evidence(unsure, HeldOut(unsure.score + 0.1, constant), record).seen
    assert "the place alone" in str(evidence(unsure, HeldOut(unsure.score + 0.1, constant), record))
    assert not evidence(HeldOut(np.ones(LEAST - 1), np.zeros(LEAST - 1)), None, record).seen


def test_failures_make_their_surroundings_their_kind_and_what_is_as_odd_unlikely() -> None:
    measured = np.array([25, 26, 49, 50, 300, 310, 390, 500])
    valid = np.array([False] * 4 + [True] * 4)
    near = PLACES / 3.0
    made = probability_valid([near], measured, valid)
    assert made[51] < 0.3
    assert made[301] > 0.6
    assert made[11 * 24 + 2] == pytest.approx(5 / 10, abs=0.1)  # far from all: the overall share
    other = np.zeros((len(PLACES), 1))
    other[measured[:4]] = other[575] = 1.0
    assert probability_valid([near, other / 0.3], measured, valid)[575] < 0.3
    assert (probability_valid([near], measured, np.ones(8, bool)) == 1).all()
    assert (probability_valid([near], measured, np.zeros(8, bool)) < 0.5).all()


def test_the_mode_is_where_label_less_probability_pulls_as_much_as_the_prior() -> None:
    rng = np.random.default_rng(3)
    space = rng.normal(size=(60, 2))
    measured, valid = np.arange(30), rng.random(30) < 0.6
    made = probability_valid([space], measured, valid, [1.5])
    kernel = 2.25 * np.exp(-0.5 * ((space[:, None] - space[None, :30]) ** 2).sum(2))
    prior = np.log((valid.sum() + 1) / (31 - valid.sum()))
    logits = prior + kernel @ (valid - made[:30])
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), made, atol=1e-6)


def test_odd_places_have_the_highest_rank() -> None:
    rows = np.random.default_rng(4).normal(size=(500, 6))
    rows[[3, 77]] *= 20
    assert set(np.argsort(oddness(rows)[:, 0])[-2:].tolist()) == {3, 77}
    assert oddness(rows).min() == 0
    assert oddness(rows).max() == 1


def test_a_history_counts_what_was_measured_before_and_near() -> None:
    made = history(np.array([[0.0, 0.0], [0.0, 1.0], [30.0, 0.0], [0.0, 0.0]]), 2.0)
    assert made.shape == (4, 3)
    np.testing.assert_allclose(made[:, 1], [0, np.exp(-1 / 8), 0, 1 + np.exp(-1 / 8)], atol=1e-12)
    assert (np.diff(made[1]) > 0).all()  # a wider reach takes in more


def test_what_measurements_do_to_each_other_is_learned_and_taken_off() -> None:
    pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
    rng = np.random.default_rng(5)
    feature = ndimage.gaussian_filter(rng.normal(size=(24, 24)), 2.0).ravel()
    truth = 1.0 / (1.0 + np.exp(-3 * feature / feature.std()))
    cells = np.concatenate([rng.choice(576, 24, replace=False), np.argsort(-truth)[:24]])  # then in clusters
    past = history(PLACES[cells], 1.5)
    y = truth[cells] - 0.15 * past[:, 1] + 0.01 * rng.normal(size=48)
    rows = np.stack([feature, rng.normal(size=576)], axis=1)
    off = {}
    for name, told in (("with", past), ("without", None)):
        model = make("pca_gp", rows)
        model.fit(rows[cells], y, np.full(48, 0.01), told)
        off[name] = float(np.abs(model.predict(rows)[0] - truth).mean())
    assert off["with"] < 0.5 * off["without"]


def test_what_the_image_does_not_tell_is_part_of_the_uncertainty_and_measuring_is_not() -> None:
    pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
    inside: dict[str, list[float]] = {"place": [], "measuring": []}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(600, 2))
        rule = np.sin(1.5 * rows[:, 0])
        cells = rng.choice(600, 60, replace=False)
        rest = np.setdiff1d(np.arange(600), cells)
        for whose, values in inside.items():
            own = 0.15 * rng.normal(size=600)
            truth = rule + own if whose == "place" else rule
            error = 0.02 if whose == "place" else 0.15
            model = make("pca_gp", rows)
            model.fit(rows[cells], truth[cells] + error * rng.normal(size=60), np.full(60, error))
            mean, sigma = model.predict(rows)
            values.append(float((np.abs(truth - mean)[rest] < 1.645 * sigma[rest]).mean()))
    assert 0.82 < np.mean(inside["place"]) < 0.97
    assert 0.82 < np.mean(inside["measuring"]) < 1.0


def test_the_uncertainty_of_dull_and_of_interesting_places_is_set_by_their_own_errors() -> None:
    rng = np.random.default_rng(6)
    predicted = np.repeat([-2.0, 1.0], 40)
    sigma = np.where(predicted < 0, 0.1, 0.6)
    values = predicted + sigma * rng.normal(size=80) + 0.1 * rng.normal(size=80)
    made, others = calibrate(values, predicted, np.full(80, 0.3**2), np.full(80, 0.1**2))
    low, high = made(np.array([-2.0, 1.0])) * 0.3
    assert low == pytest.approx(0.1, rel=0.4)
    assert high == pytest.approx(0.6, rel=0.3)
    assert made(np.array([-30.0, 30.0])) == pytest.approx(1.0, abs=1e-9)  # nothing is known there
    assert others.shape == (80,)
    few, _ = calibrate(values[-2:], predicted[-2:], np.full(2, 0.3**2), np.full(2, 0.1**2))
    assert 0.6 < float(few(np.array([1.0]))[0]) < 2.0  # two say little


def test_an_observation_is_judged_by_a_factor_that_the_others_ask_for() -> None:
    values, predicted = np.array([0.0, 0.0, 9.0]), np.array([0.0, 0.05, 5.0])
    made, others = calibrate(values, predicted, np.full(3, 0.2**2), np.full(3, 0.01**2))
    assert float(made(np.array([5.0]))[0]) > 2  # its own surprise counts for the map
    assert others[2] == pytest.approx(1.0, abs=0.06)  # and not for what is said of it
