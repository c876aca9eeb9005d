"""The plug-in with the shipped weights: finds walls, gives lines as they come, and stays up whatever it is given."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from probeloop.plugins.segment import Segment
from probeloop.plugins.segment.ensemble import Ensemble
from probeloop.plugins.segment.foreign import foreign
from probeloop.plugins.segment.lamellae import lamellae
from probeloop.plugins.segment.picture import generator
from probeloop.plugins.segment.prepare import logarithm
from probeloop.plugins.segment.scores import Matched, matched
from probeloop.plugins.segment.weights import SHIPPED, read_card

from probeloop.api import Axis, Channel, DropInError, SettingsError, StreamSpec

torch = pytest.importorskip("torch", reason="no torch: pip install 'probeloop[ml]'")
pytest.importorskip("safetensors", reason="no safetensors: pip install 'probeloop[ml]'")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def spec(ny: int, nx: int, **changes: Any) -> StreamSpec:
    nav = (Axis("y", ny, 1e-8, 0.0, "m"), Axis("x", nx, 1e-8, 0.0, "m"))
    given: dict[str, Any] = {"name": "amplitude", "kind": "values", "dtype": "<f4", "nav": nav, "units": "m"}
    return StreamSpec(**(given | changes))


def begun(ny: int, nx: int, parameters: Any = None, **changes: Any) -> Segment:
    plugin = Segment(parameters)
    plugin.outputs(spec(ny, nx, **changes))
    plugin.begin(spec(ny, nx, **changes))
    return plugin


def picture(number: int = 0, size: int = 96) -> np.ndarray:
    return lamellae(generator("scoring", 11, number), size, "grains").values


def test_the_shipped_weights_say_what_they_are() -> None:
    card = read_card(SHIPPED)
    assert (card.members, card.filters) == (5, 16)
    assert card.trained["generator"] == "lamellae"
    assert card.trained["calibration"]["boundary_f1"] > 0.85
    assert SHIPPED.stat().st_size <= 10e6


def test_the_shipped_ensemble_finds_walls_that_it_has_not_seen() -> None:
    pytest.importorskip("skimage", reason="no scikit-image: pip install 'probeloop[ml]'")
    ensemble, total = Ensemble.from_file(), Matched()
    for number in range(10):
        made = lamellae(generator("scoring", 2, number))
        total += matched(ensemble.predict(made.values).mean, made, ensemble.card.threshold)
    assert total.f1 > 0.8
    assert total.localisation < 1.0


def test_it_tells_a_picture_of_noise_from_a_familiar_one() -> None:
    ensemble = Ensemble.from_file()
    familiar = [ensemble.predict(lamellae(generator("scoring", 3, i)).values).frame for i in range(5)]
    strange = [
        ensemble.predict(foreign(generator("scoring", 3, 50 + i), shift="noisy").values).frame for i in range(5)
    ]
    assert np.median(strange) > 1 > np.median(familiar)


def test_a_scan_gives_walls_line_by_line() -> None:
    values, plugin = picture(), begun(96, 96)
    map_ = np.full((96, 96), np.nan, np.float32)
    assert plugin.update(map_, np.isfinite(map_)) is None
    map_[:40] = values[:40]
    half = plugin.update(map_, np.isfinite(map_))
    assert half is not None
    assert np.isfinite(half["mean"][0, :40]).all()
    assert np.isnan(half["mean"][0, 40:]).all()
    map_[40:] = values[40:]
    whole = plugin.update(map_, np.isfinite(map_))
    assert whole is not None
    for name in ("mean", "variance", "doubt"):
        assert whole[name].shape == (1, 96, 96)
        assert whole[name].dtype == np.float32
        assert (whole[name] >= 0).all()
    assert (whole["mean"] <= 1).all()
    assert np.corrcoef(half["mean"][0, :32].ravel(), whole["mean"][0, :32].ravel())[0, 1] > 0.9
    score, share, valid = whole["frame"][0]
    assert valid == 1
    assert score > 0
    assert 0 < share < 0.5


def test_a_channel_is_chosen_by_name() -> None:
    values = np.stack([np.zeros((96, 96)), picture()], axis=-1).astype(np.float32)
    channels = (Channel("height", "height", "m"), Channel("amplitude", "amplitude", "m"))
    plugin = begun(96, 96, Segment.Parameters(channel="amplitude"), channels=channels)
    made, alone = plugin.update(values), begun(96, 96).update(values[..., 1])
    assert made is not None
    assert alone is not None
    assert np.array_equal(made["mean"], alone["mean"])
    with pytest.raises(SettingsError, match=r"height \| amplitude"):
        begun(96, 96, Segment.Parameters(channel="phase"), channels=channels)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.full((96, 96), 3.0), "constant"),
        (np.minimum(picture(), np.percentile(picture(), 50)), "saturated"),
    ],
)
def test_a_bad_frame_is_told_and_the_last_walls_stay(bad: np.ndarray, said: str) -> None:
    plugin = begun(96, 96)
    good = plugin.update(picture())
    assert good is not None
    held = plugin.update(bad)
    assert said in plugin.notice
    assert held is not None
    assert np.array_equal(held["mean"], good["mean"])
    assert held["frame"][0, 2] == 0
    again = plugin.update(picture(1))
    assert again is not None
    assert again["frame"][0, 2] == 1


def test_a_lost_line_is_no_wall_and_the_rest_is_segmented() -> None:
    values = picture()
    lost = values.copy()
    lost[50] = np.nan
    made, whole = begun(96, 96).update(lost), begun(96, 96).update(values)
    assert made is not None
    assert whole is not None
    assert np.isnan(made["mean"][0, 50]).all()
    assert np.isfinite(np.delete(made["mean"][0], 50, axis=0)).all()
    assert np.abs(made["mean"][0, :40] - whole["mean"][0, :40]).mean() < 0.02


@pytest.mark.parametrize("shape", [(3, 3), (5, 33), (18, 7)])
def test_a_map_smaller_than_the_stride(shape: tuple[int, int]) -> None:
    made = begun(*shape).update(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    assert made is not None
    assert made["mean"].shape == (1, *shape)
    assert np.isfinite(made["mean"]).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nav": (Axis("y", 32, 4e-8, 0.0, "m"), Axis("x", 32, 1e-8, 0.0, "m"))}, "about square pixels"),
        ({"nav": (Axis("y", 32, 0.0, 0.0, "m"), Axis("x", 32, 1e-8, 0.0, "m"))}, "finite size"),
        ({"nav": (Axis("x", 32, 1e-8, 0.0, "m"),)}, "a 2D map of real numbers"),
        ({"dtype": "<c8"}, "a 2D map of real numbers"),
        ({"sig": (Axis("ky", 8), Axis("kx", 8)), "kind": "frames"}, "a 2D map of real numbers"),
    ],
)
def test_what_is_no_map_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        begun(32, 32, **changes)


def test_pixels_of_unknown_size_are_taken() -> None:
    axes = (Axis("y", 32), Axis("x", 32))
    assert set(Segment().outputs(spec(32, 32, nav=axes))) == {"mean", "variance", "doubt", "frame"}


def test_weights_that_are_not_there_are_named() -> None:
    with pytest.raises(DropInError, match="no weights at /nowhere"):
        begun(32, 32, Segment.Parameters(weights="/nowhere/w.safetensors"))


def test_the_same_map_gives_the_same_walls() -> None:
    one, other = begun(96, 96).update(picture()), begun(96, 96).update(picture())
    assert one is not None
    assert other is not None
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.bench
def test_the_live_ensemble_stays_below_600_mb() -> None:
    """The plug-in with the shipped weights, lines as they come, and whole maps up to 512 x 512."""
    program = """
import resource, numpy as np
from probeloop.api import Axis, StreamSpec
from probeloop.plugins.segment import Segment
for size in (256, 512):
    axes = (Axis("y", size, 1e-8, 0.0, "m"), Axis("x", size, 1e-8, 0.0, "m"))
    spec = StreamSpec("amplitude", "values", "<f4", nav=axes)
    plugin = Segment()
    plugin.outputs(spec)
    plugin.begin(spec)
    values = np.random.default_rng(0).normal(size=(size, size)).cumsum(axis=1).astype(np.float32)
    for lines in (size // 4, size // 2, size, size):
        map_ = values.copy()
        map_[lines:] = np.nan
        assert plugin.update(map_, np.isfinite(map_)) is not None
    plugin.close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100)
    assert int(out.stdout) < 600


def test_a_ratio_shows_walls_of_weak_domains_as_well_as_those_of_strong_ones() -> None:
    values = np.abs(picture()) + 1.0
    weak = values * np.where(np.arange(96) < 48, 1.0, 0.05)
    there = np.ones(weak.shape, bool)
    made = logarithm(weak, there)
    assert np.std(made[:, 56:]) > 0.3 * np.std(made[:, :40])
    assert np.std(weak[:, 56:]) < 0.1 * np.std(weak[:, :40])
    hidden = there.copy()
    hidden[3] = False
    assert np.isnan(logarithm(weak, hidden)[3]).all()
    assert begun(96, 96, Segment.Parameters(contrast="ratio")).update(weak) is not None


def test_a_map_unlike_the_training_ones_is_told() -> None:
    plugin = begun(96, 96)
    rng = np.random.default_rng(0)
    strange = plugin.update(rng.standard_normal((96, 96)))
    assert strange is not None
    assert (strange["frame"][0, 0] > 1) == bool(plugin.notice)
    assert strange["frame"][0, 0] > 1
    assert "unlike" in plugin.notice
