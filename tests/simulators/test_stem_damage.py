"""Damage: the rates of knock-on and radiolysis, thresholds, and later frames that show what was done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.simulators.stem import StemSettings, StemSimulator
from probeloop.simulators.stem.damage import ELEMENTS, Change, Damage, cross_section, largest_transfer
from probeloop.simulators.stem.dose import DoseMap
from probeloop.simulators.stem.sample import transmission
from scipy.integrate import quad

from probeloop.data.aberrations import interaction
from probeloop.data.commands import Blank, Scan
from probeloop.data.frame import FrameBuffer
from probeloop.data.scan import Region

SMALL: dict[str, Any] = {
    "pixels": 32, "pixel_angle": 8.0, "tile": 8, "carbon": 1.0, "crystal": 0.4, "pace": None, "settling": 0.0,
    "drift": 0.0,
}  # fmt: skip
SCAN = Scan(Region(0, 0, 1.5e-9, 1.5e-9), (8, 8), 1e-3)
BARN = 1e-28  # [m²]
ATOMS, WIDTH = 60_000, 20e-9


def frames(stem: StemSimulator, scan: Scan = SCAN, capacity: int = 64) -> np.ndarray:
    acquisition = stem.scan(scan)
    next(acquisition.frames)
    made = []
    while True:
        buffer = FrameBuffer.allocate(acquisition.spec, capacity)
        try:
            n = acquisition.frames.send(buffer)
        except StopIteration:
            return np.concatenate(made)
        made.append(buffer.data[:n].copy())


class Nobody:
    """Takes changes and counts them."""

    left = came = 0

    def change(self, change: Change) -> None:
        self.left += sum(map(len, change.left.values()))
        self.came += sum(map(len, change.came.values()))


def irradiated(kind: Any, voltage: float, steps: list[float], critical: float = 1e24) -> tuple[list[Any], Nobody]:
    """Return (displaced C, crystallinity) after each even dose [e/m²] in `steps`."""
    places = np.random.default_rng(0).uniform(-WIDTH / 2, WIDTH / 2, (ATOMS, 2))
    dose, target = DoseMap(WIDTH, 2.5e-12, 25e-3), Nobody()
    damage = Damage(kind, {"C": places}, target, dose, voltage, critical, seed=4)
    found = []
    for step in steps:
        dose.electrons += step * 0.25e-9**2
        damage.age()
        found.append((damage.displaced["C"], damage.crystallinity))
    return found, target


@pytest.mark.parametrize(("element", "voltage"), [("C", 200e3), ("S", 100e3), ("O", 300e3), ("Mo", 1000e3)])
def test_the_cross_section_is_the_integral_of_mckinley_and_feshbach(element: str, voltage: float) -> None:
    z, _, threshold = ELEMENTS[element]
    beta = np.sqrt(1 - 1 / (1 + voltage / 510998.95) ** 2)
    most = largest_transfer(element, voltage)

    def density(energy: float) -> float:
        part = energy / most
        spin = np.pi * z / 137.035999 * beta * (np.sqrt(part) - part)
        rutherford = np.pi * (z * 2.8179403e-15) ** 2 * (1 - beta**2) / beta**4 * most / energy**2
        return float(rutherford * (1 - beta**2 * part + spin))

    expected = quad(lambda energy: density(energy) / BARN, threshold, most)[0]
    assert cross_section(element, voltage) / BARN == pytest.approx(expected, rel=1e-6)


def test_it_is_right_in_size_and_zero_below_threshold() -> None:
    assert largest_transfer("C", 80e3) == pytest.approx(15.8, abs=0.1)  # Meyer et al. (2012): graphene lives at 80 kV
    assert cross_section("C", 80e3) == 0.0
    assert 10 < cross_section("C", 200e3) / BARN < 20
    assert cross_section("C", 200e3, 17.0) > cross_section("C", 200e3)
    assert cross_section("S", 60e3) == 0.0
    assert cross_section("S", 100e3) > 0.0  # the threshold of S in MoS2 is near 90 kV
    assert cross_section("O", 200e3) == cross_section("Ti", 300e3) == 0.0


def test_knock_on_counts_as_cross_section_times_dose() -> None:
    sigma = cross_section("C", 200e3)
    steps = [0.01 / sigma, 0.02 / sigma, 0.3 / sigma]
    found, target = irradiated("knock_on", 200e3, steps)
    for (displaced, intact), exponent in zip(found, np.cumsum(steps) * sigma, strict=True):
        expected = ATOMS * -np.expm1(-exponent)
        assert displaced == pytest.approx(expected, abs=4 * np.sqrt(expected))
        assert intact == 1.0
    assert (target.left, target.came) == (found[-1][0], 0)


def test_below_threshold_no_dose_displaces_an_atom() -> None:
    found, target = irradiated("knock_on", 80e3, [1e32])
    assert found == [(0, 1.0)]
    assert target.left == 0


def test_radiolysis_decays_with_the_critical_dose() -> None:
    found, target = irradiated("radiolysis", 80e3, [0.5e24, 0.5e24, 1e24])
    for (displaced, intact), exponent in zip(found, (0.5, 1.0, 2.0), strict=True):
        assert displaced == 0
        assert intact == pytest.approx(np.exp(-exponent), abs=4 * 0.5 / np.sqrt(ATOMS))
    assert target.left == target.came == round(ATOMS * (1 - found[-1][1]))


def test_later_frames_show_the_damage_and_off_means_off() -> None:
    whole, hurt = (StemSimulator(StemSettings(**SMALL, damage=kind, critical_dose=1e26)) for kind in ("none", "both"))
    first = [frames(stem) for stem in (whole, hurt)]
    np.testing.assert_array_equal(first[0][:16], first[1][:16])  # what is new is seen by the next frames
    later = [frames(stem) for stem in (whole, hurt)]
    assert np.abs(later[0].astype(int) - later[1]).sum() > 0.01 * later[0].sum()
    assert "displaced" not in whole.truth()
    truth = hurt.truth()
    assert truth["displaced"]["C"] > 0 == truth["displaced"]["Sr"]
    assert truth["crystallinity"] < 1.0
    place = truth["vacancies"][0, :2]
    assert np.abs(place).max() < 1e-9


def test_the_patches_are_what_building_it_anew_would_give() -> None:
    stem = StemSimulator(StemSettings(**SMALL, damage="both", critical_dose=1e26))
    before = stem._mounted._potential.astype(np.float64)
    frames(stem)
    after, displaced = stem._mounted._potential, stem.truth()["displaced"]["C"]
    assert displaced > 0
    lost = (before - after).sum() * stem.geometry.pixel**2
    one = 2.5 * 47.8776e-30  # [V m³], from f(0) of carbon
    assert lost / one == pytest.approx(displaced, rel=0.15)  # the outer tail is cut
    anew = transmission(after, interaction(200e3))
    planes = stem._exposer.specimen
    assert planes is not None
    difference = np.abs(planes.re + 1j * planes.im - anew)
    change = np.abs(anew - transmission(before.astype(np.float32), interaction(200e3))).max()
    assert difference.max() < 0.02 * change


def test_the_same_bits_with_two_threads_and_with_any_buffer() -> None:
    made = []
    for threads, capacity in ((1, 64), (2, 64), (1, 7)):
        stem = StemSimulator(StemSettings(**SMALL, damage="both", critical_dose=1e26, threads=threads))
        made.append(np.concatenate([frames(stem, capacity=capacity) for _ in range(2)]))
        stem.close()
    np.testing.assert_array_equal(made[0], made[1])
    np.testing.assert_array_equal(made[0], made[2])


def test_a_blanked_beam_does_nothing() -> None:
    stem = StemSimulator(StemSettings(**SMALL, damage="both", critical_dose=1e26))
    stem.blank(Blank())
    assert frames(stem).sum() == 0
    truth = stem.truth()
    assert truth["dose_map"].sum() == sum(truth["displaced"].values()) == 0
    assert truth["crystallinity"] == 1.0
