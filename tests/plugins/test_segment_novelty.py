"""What sums up a frame, and the pictures that its score was chosen on, which are not those that it is judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from probeloop.plugins.segment import novelty
from probeloop.plugins.segment.commands import train
from probeloop.plugins.segment.foreign import SHIFTS
from probeloop.plugins.segment.lamellae import lamellae
from probeloop.plugins.segment.network import build
from probeloop.plugins.segment.picture import generator
from probeloop.plugins.segment.prepare import prepared
from probeloop.plugins.segment.proxies import PROXIES, proxy
from probeloop.plugins.segment.scores import auroc as ranked
from probeloop.plugins.segment.traits import traits
from probeloop.plugins.segment.weights import Card, read_card, save

from probeloop.api import SettingsError


def stripes(size: int = 96, period: float = 24.0, angle: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture of dark walls and the probability of wall."""
    y, x = np.mgrid[0:size, 0:size]
    phase = np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period
    away = np.abs(np.sin(phase)) * period / np.pi
    noise = 0.05 * np.random.default_rng(0).normal(size=(size, size))
    return (1 - np.exp(-(away**2) / 4) + noise).astype(np.float32), np.exp(-(away**2) / 3).astype(np.float32)


def summed_up(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    small = np.full(mean.shape, 1e-3, np.float32)
    return traits(prepared(values), mean, small, small)


def test_traits_are_finite_whatever_the_frame_and_always_as_many() -> None:
    values, mean = stripes()
    usual = summed_up(values, mean)
    for one, other in (
        (values, np.zeros_like(mean)),
        (np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32), np.ones((3, 5), np.float32)),
        (np.random.default_rng(2).normal(size=(96, 96)).astype(np.float32), np.zeros_like(mean)),
    ):
        made = summed_up(one, other)
        assert made.shape == usual.shape
        assert np.isfinite(made).all()


def test_traits_see_what_is_bright_what_is_bent_and_what_comes_twice() -> None:
    values, mean = stripes()
    usual = summed_up(values, mean)
    across = slice(31, 46)  # the profile at right angles to walls
    assert usual[across][7] == usual[across].min()
    assert summed_up(-values, mean)[across][7] > 0 > usual[across][7]
    assert usual[57] > 0.9  # walls run one way
    y, x = np.mgrid[0:96, 0:96]
    round_ = np.exp(-((np.hypot(y - 48, x - 48) - 30) ** 2) / 3).astype(np.float32)
    noise = 0.05 * np.random.default_rng(4).normal(size=(96, 96)).astype(np.float32)
    assert summed_up(1 - round_ + noise, round_)[57] < 0.1
    noise = np.random.default_rng(3).normal(size=(96, 96)).astype(np.float32)
    twice = noise + 0.5 * np.roll(noise, (3, 6), axis=(0, 1))
    nothing = np.zeros((96, 96), np.float32)
    once, again = (traits(each, nothing, nothing, nothing)[84] for each in (noise, twice))
    assert again > 1.5 * once  # the highest place of the cepstrum


@pytest.mark.parametrize("kind", PROXIES)
def test_a_proxy_is_a_familiar_picture_with_something_wrong(kind: str) -> None:
    made = proxy(generator("calibration", 5, 1), kind, 64)
    assert made.shape == (64, 64)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert not np.allclose(made, lamellae(generator("calibration", 5, 1), 64).values)
    assert np.array_equal(made, proxy(generator("calibration", 5, 1), kind, 64))


def test_no_proxy_is_a_shift_that_the_score_is_judged_by() -> None:
    assert not set(PROXIES) & set(SHIFTS)


def drawn(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Return traits (count, 12) of familiar frames, or of others that lie `shift` deviations off in one of them."""
    made = np.random.default_rng(seed).normal(size=(count, 12)) * np.arange(1, 13)
    made[:, 3] += 4.0 * shift
    return made


def scores(traits: np.ndarray, familiar: novelty.Familiar) -> np.ndarray:
    return np.array([novelty.score(one, familiar) for one in traits])


def test_what_is_wrong_with_some_pictures_is_seen_in_others() -> None:
    known, odd, wrong = drawn(400, 0), drawn(60, 1, 2.5), drawn(60, 2, 2.5)
    plain, taught = novelty.fitted(known), novelty.fitted(known, wrong=wrong)
    usual = drawn(300, 3)
    assert auroc(taught, usual, odd) > auroc(plain, usual, odd) + 0.05
    for familiar in (plain, taught):
        assert 0.005 < (scores(usual, familiar) > 1).mean() < 0.08
    again = novelty.fitted(drawn(300, 4) * 3 + 5, before=taught)  # of networks whose traits have another scale
    assert auroc(again, usual * 3 + 5, odd * 3 + 5) == pytest.approx(auroc(taught, usual, odd), abs=0.03)
    assert novelty.fitted(known, before=plain).direction == b""


def test_maps_that_were_learned_from_are_familiar_whatever_was_wrong_with_them() -> None:
    known, odd = drawn(400, 0), drawn(60, 1, 6.0)
    before = novelty.fitted(known, wrong=drawn(60, 2, 6.0))
    assert np.median(scores(odd, before)) > 1
    after = novelty.fitted(known, odd[:40], before=before)
    assert after.learned == 40
    assert np.median(scores(odd[40:], after)) < 1
    assert np.median(scores(drawn(60, 5, -6.0), after)) > 0.9 * np.median(scores(drawn(60, 5, -6.0), before))


def auroc(familiar: novelty.Familiar, usual: np.ndarray, odd: np.ndarray) -> float:
    both = np.concatenate([scores(usual, familiar), scores(odd, familiar)])
    return ranked(both, np.arange(len(both)) >= len(usual))


def test_a_file_of_weights_is_calibrated_anew(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
    pytest.importorskip("safetensors", reason="no safetensors: pip install 'probeloop[ml]'")
    pytest.importorskip("skimage", reason="no scikit-image: pip install 'probeloop[ml]'")
    torch.manual_seed(0)
    path = tmp_path / "w.safetensors"
    save(path, [build(4).state_dict() for _ in range(2)], Card(4, 2))
    assert read_card(path).familiar is None
    made = train({"calibrate": str(path), "held_out": 8, "seed": 2})
    card = read_card(path)
    assert made["out"] == str(path)
    assert card.trained["calibration"]["frames"] == 8
    assert card.familiar is not None
    assert len(card.familiar.apart) == 4 * 80
    assert card.familiar.pull > 0
    assert len(card.error) > 90
    with pytest.raises(SettingsError, match="cycles"):
        train({"calibrate": str(path), "cycles": 3})
