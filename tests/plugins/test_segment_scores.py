"""Scores of a segmentation on cases whose answer is known."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from probeloop.plugins.segment import doubt, novelty
from probeloop.plugins.segment.picture import Picture
from probeloop.plugins.segment.scores import auroc, calibration_error, entropy, interval, lines, matched
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


def test_a_faint_end_belongs_to_a_line_that_is_sure_somewhere() -> None:
    probability = np.zeros((40, 40), np.float32)
    probability[5:20, 19:22] = (0.5, 0.9, 0.5)
    probability[20:35, 19:22] = (0.1, 0.3, 0.1)
    probability[5:35, 30] = 0.3  # sure nowhere
    found = lines(probability, 0.5, 0.2)
    assert found[7:33, 20].all()
    assert not found[:, 25:].any()
    assert not lines(probability, 0.5)[22:].any()
    assert found.sum(axis=1).max() == 1


@pytest.mark.parametrize("angle", [0.0, 0.4, 0.8, 1.2, np.pi / 2, 2.2, 2.8])
def test_two_close_lines_stay_two(angle: float) -> None:
    y, x = np.mgrid[0:60, 0:60] - 29.6
    away = x * np.cos(angle) + y * np.sin(angle)
    probability = 0.35 + 0.6 * (np.exp(-((away - 2.5) ** 2) / 2) + np.exp(-((away + 2.5) ** 2) / 2))
    inside = np.hypot(x, y) < 24
    found = lines(np.where(inside, probability, 0.0), 0.6, 0.3) & (np.hypot(x, y) < 20)
    assert np.abs(np.abs(away[found]) - 2.5).max() < 1.0
    for side in (away > 0, away < 0):
        assert (found & side).sum() > 20


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
    familiar = novelty.fitted(known)
    fresh = np.array([novelty.score(each, familiar) for each in rng.normal(size=(400, 6)) @ mix + 5.0])
    assert (fresh > 1).mean() < 0.04
    far = known.mean(axis=0) + 4 * np.linalg.norm(mix)
    assert novelty.score(far, familiar) > 1.5
    assert np.isnan(novelty.score(far, None))
    assert np.isnan(novelty.score(far[:5], familiar))
    both = novelty.fitted(known, far + 0.1 * rng.normal(size=(8, 6)))
    assert both.limit == familiar.limit
    assert novelty.score(far, both) < 0.7  # what was learned from is familiar
    card = Card(16, 1, familiar=both)
    assert msgspec.json.decode(msgspec.json.encode(card), type=Card) == card


def test_the_error_estimate_learns_what_the_clues_say_and_only_where_frames_are_familiar() -> None:
    rng = np.random.default_rng(2)
    known = rng.normal(size=(doubt.CLUES, 40_000))
    known[doubt.MEAN] = rng.random(40_000)
    line = known[0] - 1.5 * known[1] * known[2] - 1.0
    weights = doubt.fitted(known, rng.random(40_000) < 1 / (1 + np.exp(-line)))
    made = doubt.estimated(known[:, None], weights, 0.3)[0]
    inner = (np.abs(known) < 2).all(axis=0)
    assert made[inner] == pytest.approx(1 / (1 + np.exp(-line[inner])), abs=0.12)
    strange = doubt.estimated(known[:, None], weights, 2.0)[0]
    assert np.abs(strange[:, None] - strange.mean()).max() < 0.1  # the entropy says nothing here
    assert np.array_equal(strange, doubt.estimated(known[:, None], weights, np.nan)[0])
    assert np.isnan(doubt.estimated(known[:, None], (), 0.3)).all()


def test_the_clues_of_a_pixel() -> None:
    mean = np.full((40, 40), 0.02, np.float32)
    mean[:, 20] = 0.9
    flat = np.zeros((40, 40), np.float32)
    away, unsure, *_ = doubt.clues(flat, mean, flat, flat, 0.5)
    assert away[5, 20] == pytest.approx(np.log(9), abs=1e-4)
    assert unsure == pytest.approx(np.exp(-away))
    spread = np.ones((40, 40), np.float32)
    assert doubt.clues(flat, mean, spread, flat, 0.5)[0, 5, 20] == pytest.approx(np.log(9) / 2, abs=1e-4)
    nothing = doubt.clues(flat, np.zeros((40, 40), np.float32), flat, flat, 0.5)
    assert np.isfinite(nothing).all()
    weights = doubt.fitted(np.random.default_rng(0).normal(size=(doubt.CLUES, 500)), np.arange(500) % 5 == 0)
    large = np.tile(mean, (3, 1))
    whole = doubt.of_map(large, large, large, large, 0.5, weights, 0.2)
    assert whole.shape == large.shape
    assert np.isfinite(whole).all()
