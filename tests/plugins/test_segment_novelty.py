"""What sums up a frame, and the pictures that its score was chosen on, which are not those that it is judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from probeloop.plugins.segment.commands import train
from probeloop.plugins.segment.foreign import SHIFTS
from probeloop.plugins.segment.lamellae import lamellae
from probeloop.plugins.segment.network import build
from probeloop.plugins.segment.picture import generator
from probeloop.plugins.segment.prepare import prepared
from probeloop.plugins.segment.proxies import PROXIES, proxy
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
    assert len(card.familiar.apart) == 4 * 40
    assert len(card.error) > 90
    with pytest.raises(SettingsError, match="cycles"):
        train({"calibrate": str(path), "cycles": 3})
