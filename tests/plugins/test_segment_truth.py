"""Pictures with truth: the walls are where the picture has them, and no two uses share a seed or a generator."""

from __future__ import annotations

import ast
from itertools import combinations
from pathlib import Path

import numpy as np
import probeloop.plugins.segment as package
import pytest
from probeloop.plugins.segment.foreign import SHIFTS, foreign
from probeloop.plugins.segment.lamellae import KINDS, lamellae
from probeloop.plugins.segment.picture import SEEDS, crossing, depth, generator, near
from probeloop.plugins.segment.prepare import fault, levelled, padded, prepared

from probeloop.api import SettingsError

HOME = Path(package.__file__).parent


def functions(name: str) -> dict[str, str]:
    """Return the functions of a module and their sources."""
    tree = ast.parse((HOME / f"{name}.py").read_text())
    return {node.name: ast.dump(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_no_two_uses_share_a_seed() -> None:
    for one, other in combinations(SEEDS.values(), 2):
        assert set(one[:: 2**30]).isdisjoint(other[:: 2**30])
        assert one.stop <= other.start or other.stop <= one.start
    drawn = {use: generator(use, 7, 3).integers(0, 2**60) for use in SEEDS}
    assert len(set(drawn.values())) == 3


def test_the_second_generator_is_not_the_first() -> None:
    first, second = functions("lamellae"), functions("foreign")
    assert set(first).isdisjoint(second)
    imports = (HOME / "foreign.py").read_text()
    assert "lamellae import" not in imports
    assert not {"waves", "pink", "depth", "crossing"} & {n.id for n in ast.walk(ast.parse(imports))
                                                         if isinstance(n, ast.Name)}  # fmt: skip


def test_training_never_draws_from_the_scoring_generator() -> None:
    for name in ("training", "calibration"):
        source = (HOME / f"{name}.py").read_text()
        assert "foreign" not in source
        assert '"scoring"' not in source
    assert '"training"' not in (HOME / "quality.py").read_text()
    assert "OWN" not in (HOME / "quality.py").read_text()  # nor are the members' own ranges scored


def test_no_range_of_a_member_reaches_the_shifts_of_the_scoring() -> None:
    """Those are noise of half the contrast and more, a second apex, ringing, inverted contrast."""
    from probeloop.plugins.segment.schedule import OWN

    assert min(ranges.snr[0] for ranges in OWN) >= 4.0
    for ranges in OWN:
        made = [lamellae(generator("training", 2, i), 64, ranges=ranges) for i in range(6)]
        assert min(each.snr for each in made) > 2.5
        assert all(np.isfinite(each.values).all() for each in made)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_comes_again_from_its_seed_and_no_other(kind: str) -> None:
    one, again = (lamellae(generator("scoring", 1, 4), 64, kind) for _ in range(2))
    other = lamellae(generator("scoring", 2, 4), 64, kind)
    assert np.array_equal(one.values, again.values)
    assert np.array_equal(one.line, again.line)
    assert not np.array_equal(one.values, other.values)
    assert one.values.shape == (64, 64)
    assert np.isfinite(one.values).all()
    assert not (one.line & one.unseen).any()


def test_grain_boundaries_are_dark_lines() -> None:
    """The picture bends up at a dark line, where the truth is, and not some pixels beside it."""
    seen = 0
    for number in range(12):
        picture = lamellae(generator("scoring", 3, number), 96, "grains")
        if picture.line.sum() < 60 or picture.snr < 15:
            continue
        seen += 1
        x = prepared(picture.values)
        beside = near(picture.line, 7) & ~near(picture.line, 5)
        assert x[picture.line].mean() < x[beside].mean() - 0.3
    assert seen >= 3


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_second_generator_keeps_its_words(shift: str) -> None:
    picture = foreign(generator("scoring", 1, SHIFTS.index(shift)), 64, shift)
    again = foreign(generator("scoring", 1, SHIFTS.index(shift)), 64, shift)
    assert np.array_equal(picture.values, again.values)
    assert np.isfinite(picture.values).all()
    assert (picture.line | picture.unseen).any()
    if shift == "noisy":
        assert picture.snr < 2.5


def test_distance_and_crossing_of_a_straight_wall() -> None:
    y, x = np.mgrid[0:40, 0:40].astype(float)
    level = 0.3 * ((x - 20.2) * np.cos(0.4) + (y - 17.7) * np.sin(0.4))
    assert np.abs(depth(level) - level / 0.3).max() < 1e-9
    assert np.abs(level[crossing(level)] / 0.3).max() <= 0.51
    assert crossing(level).any(axis=1).all()


def test_lines_are_levelled_and_walls_along_them_stay() -> None:
    rng = np.random.default_rng(0)
    steps = np.zeros((60, 80))
    steps[30:] = 1.0  # a horizontal wall
    offsets = 0.3 * rng.normal(size=(60, 1))
    there = np.ones(steps.shape, bool)
    made = levelled(steps + offsets, there)
    assert np.std(np.diff(made[:28, 0])) < 0.5 * np.std(np.diff(offsets[:28, 0]))
    assert made[32:].mean() - made[:28].mean() > 0.7


def test_what_the_network_sees_ignores_gain_offset_and_one_glitch() -> None:
    picture = lamellae(generator("scoring", 5, 1), 96, "grains").values
    plain = prepared(picture)
    assert np.abs(prepared(3e-12 * picture - 4e-11) - plain).max() < 1e-3
    spoilt = picture.copy()
    spoilt[10, 10] = 1e6
    far = np.ones(picture.shape, bool)
    far[:60, :60] = False
    assert np.abs(prepared(spoilt) - plain)[far].max() < 0.1
    assert np.abs(plain).max() <= 3.0


def test_missing_pixels_are_no_walls() -> None:
    picture = lamellae(generator("scoring", 5, 2), 96, "grains").values
    gap = picture.copy()
    gap[40:43] = np.nan
    made = prepared(gap)
    assert (made[40:43] == 0).all()
    assert np.isfinite(made).all()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((32, 32), 2.5), "constant"),
        (np.full((32, 32), np.nan), "every pixel is NaN"),
        (np.minimum(np.random.default_rng(0).normal(size=(32, 32)), 0.1), "saturated"),
        (np.ones((1, 32)), "no lines"),
    ],
)
def test_a_map_that_cannot_be_segmented_is_told(values: np.ndarray, said: str) -> None:
    assert said in fault(values)
    with pytest.raises(SettingsError, match=said):
        prepared(values)


@pytest.mark.parametrize("shape", [(3, 5), (17, 64), (64, 64), (130, 33)])
def test_padding_reaches_the_stride_and_mirrors(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    made = padded(values)
    assert all(size % 4 == 0 and size >= 16 for size in made.shape)
    assert np.array_equal(made[: shape[0], : shape[1]], values)
    if made.shape[0] > shape[0]:
        assert np.array_equal(made[shape[0], : shape[1]], values[-1])
