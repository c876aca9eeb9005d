"""Scores of a segmentation on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.plugins.segment import doubt, novelty
from probeloop.plugins.segment.picture import Picture
from probeloop.plugins.segment.scores import auroc, calibration_error, entropy, interval, matched
from probeloop.plugins.segment.weights import Card

pytest.importorskip("skimage", reason="no scikit-image: pip install 'probeloop[ml]'")


def column(at: int, size: int = 40) -> np.ndarray:
    made = np.zeros((size, size), bool)
    made[:, at] = True
    return made


def picture(line: np.ndarray, unseen: np.ndarray | None = None) -> Picture:
    hidden = np.zeros(line.shape, bool) if unseen is None else unseen
    return Picture(np.zeros(line.shape, np.float32), line, hidden, 1.0, 10.0, "test")


@pytest.mark.parametrize(("at", "f1", "away"), [(20, 1.0, 0.0), (21, 1.0, 1.0), (22, 0.0, 0.0)])
def test_a_line_counts_within_a_pixel_and_a_half(at: int, f1: float, away: float) -> None:
    made = matched(column(at).astype(np.float32), picture(column(20)), 0.5)
    assert made.f1 == pytest.approx(f1)
    assert made.localisation == pytest.approx(away)


def test_a_line_found_twice_counts_once() -> None:
    twice = column(19) | column(21)
    made = matched(twice.astype(np.float32), picture(column(20)), 0.5)
    assert made.recall == 1.0
    assert made.precision == pytest.approx(0.5)


def test_what_noise_hides_is_neither_missed_nor_false() -> None:
    truth = picture(column(10), column(30))
    assert matched(column(10).astype(np.float32), truth, 0.5).f1 == 1.0
    assert matched((column(10) | column(30)).astype(np.float32), truth, 0.5).f1 == 1.0
    assert matched((column(10) | column(24)).astype(np.float32), truth, 0.5).precision == 0.5


def test_nothing_found_and_nothing_there() -> None:
    nothing = np.zeros((40, 40), np.float32)
    assert matched(nothing, picture(column(20)), 0.5).f1 == 0.0
    assert matched(column(5).astype(np.float32), picture(nothing > 0), 0.5).precision == 0.0


def test_ranking_and_calibration() -> None:
    wrong = np.array([False, False, True, True])
    assert auroc(np.array([0.1, 0.2, 0.3, 0.4]), wrong) == 1.0
    assert auroc(np.array([0.1, 0.3, 0.2, 0.4]), wrong) == 0.75
    assert auroc(np.ones(4), wrong) == 0.5
    assert np.isnan(auroc(np.ones(4), np.zeros(4, bool)))
    rng = np.random.default_rng(0)
    said = rng.random(200_000)
    assert calibration_error(said, rng.random(said.size) < said) < 0.01
    assert calibration_error(said, rng.random(said.size) < said / 2) == pytest.approx(0.25, abs=0.01)
    assert entropy(np.array([0.5]))[0] == pytest.approx(np.log(2))
    low, high = interval(rng.normal(1.0, 1.0, 400), 0)
    assert low < 1.0 < high
    assert high - low == pytest.approx(4 * 0.05, abs=0.05)


def test_a_frame_unlike_the_others_stands_out() -> None:
    rng = np.random.default_rng(1)
    mix = rng.normal(size=(6, 6))
    known = rng.normal(size=(400, 6)) @ mix + 5.0
    mean, whitening, white, limit = novelty.fitted(known)
    rows = (tuple(map(tuple, each)) for each in (whitening, white))
    card = Card(16, 1, frame_mean=tuple(mean), frame_whitening=next(rows), frame_known=next(rows), frame_limit=limit)
    fresh = np.array([novelty.score(each, card) for each in rng.normal(size=(400, 6)) @ mix + 5.0])
    assert (fresh > 1).mean() < 0.04
    assert novelty.score(mean + 10 * np.linalg.norm(mix), card) > 1.5
    assert np.isnan(novelty.score(mean, Card(16, 1)))


def test_the_error_estimate_goes_by_margin_and_spread() -> None:
    mean = np.array([0.5, 0.9, 0.9, 0.1], np.float32)
    spread = np.array([0.0, 0.0, 3.0, 0.0], np.float32)
    margin = doubt.margin(mean, spread, 0.5)
    assert margin == pytest.approx([0.0, np.log(9), np.log(9) / 4, np.log(9)], abs=1e-5)
    rng = np.random.default_rng(2)
    far = rng.exponential(2.0, 40_000)
    weights = doubt.fitted(far, rng.random(far.size) < 1 / (1 + np.exp(1.5 * far)))
    assert weights == pytest.approx((0.0, -1.5), abs=0.1)
    made = doubt.estimated(mean, spread, 0.5, weights)
    assert made[0] == pytest.approx(0.5, abs=0.03)
    assert made[0] > made[2] > made[1]
    assert np.isnan(doubt.estimated(mean, spread, 0.5, ())).all()
