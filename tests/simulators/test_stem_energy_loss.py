"""The spectrometer: edges where they belong, plasmons by thickness, counting, and the boundary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from probeloop.simulators.stem import StemSettings, StemSimulator
from probeloop.simulators.stem.composition import Bicrystal, Composition
from probeloop.simulators.stem.energy_loss import (
    EDGES,
    edge_density,
    free_path,
    multiple_scattering,
    plasmon,
    spread,
)
from probeloop.simulators.stem.sample import SampleSettings
from probeloop.simulators.stem.spectrometer import EnergyLoss, SpectrometerSettings

from probeloop.data.commands import EELS, AcquireSpectrum, Blank, Diffraction, SetSpectrometer, Unblank
from probeloop.data.driver import Acquisition
from probeloop.data.errors import DriverError
from probeloop.data.frame import FrameBuffer, FrameFlag

SMALL: dict[str, Any] = {
    "pixels": 32, "pixel_angle": 8.0, "tile": 8, "carbon": 0.2, "crystal": 0.4, "pace": None, "settling": 0.0,
    "drift": 0.0,
}  # fmt: skip
VOLTS, ALPHA, BETA = 200e3, 25e-3, 35e-3


class Film:
    """One element, one mode."""

    def __init__(self, elements: dict[str, float], modes: list[tuple[float, float, float]]) -> None:
        self._elements, self._modes = elements, modes

    def elements(self, x: float, y: float) -> dict[str, float]:
        return self._elements

    def thickness(self, x: float, y: float) -> float:
        return 1e-8

    def modes(self, x: float, y: float) -> list[tuple[float, float, float]]:
        return self._modes


def seen(composition: Composition | None, at: tuple[float, float] = (0.0, 0.0), **settings: Any) -> Any:
    """Return energies [eV] and the share of the electrons in each channel."""
    spectrometer = EnergyLoss(SpectrometerSettings(**settings), VOLTS, 1)
    return spectrometer.axis().values(), spectrometer.expected(composition, *at)


def one(acquisition: Acquisition) -> tuple[np.ndarray, FrameBuffer]:
    next(acquisition.frames)
    buffer = FrameBuffer.allocate(acquisition.spec, 1)
    assert acquisition.frames.send(buffer) == 1
    with pytest.raises(StopIteration):
        acquisition.frames.send(FrameBuffer.allocate(acquisition.spec, 1))
    return buffer.data[0].astype(float), buffer


@pytest.mark.parametrize(
    ("element", "onset", "offset"),
    [("C", 284.0, 250.0), ("N", 401.0, 370.0), ("O", 532.0, 500.0), ("Ti", 456.0, 430.0), ("Sr", 1940.0, 1900.0),
     ("S", 165.0, 140.0), ("Mo", 228.0, 200.0), ("Pb", 2484.0, 2450.0)],
)  # fmt: skip
def test_an_edge_is_where_its_element_has_it(element: str, onset: float, offset: float) -> None:
    """Nothing before it, and from it on the losses of that shell."""
    energies, with_edge = seen(Film({element: 1e21}, []), energy_offset=offset, dispersion=0.1, energy_spread=0.3)
    _, without = seen(Film({}, []), energy_offset=offset, dispersion=0.1, energy_spread=0.3)
    added = with_edge - without
    before = added[(energies > onset - 8) & (energies < onset - 4)].mean()
    after = added[(energies > onset + 4) & (energies < onset + 12)].mean()
    assert after > 1.4 * before
    rising = np.gradient(np.convolve(added, np.ones(9) / 9, "same"))[20:-20]
    near = np.abs(energies[20:-20] - onset) < 6
    assert energies[20:-20][near][np.argmax(rising[near])] == pytest.approx(onset, abs=3.5)


def test_cross_sections_have_the_right_size() -> None:
    """Within a factor of two of SIGMAK (Egerton): C K at 200 kV, 10 mrad, a window of 50 eV: about 4e-25 m²."""
    energies = np.arange(0, 1000.0)
    window = (energies >= 284) & (energies < 334)
    sigma = edge_density(energies, EDGES["C"][0], VOLTS, 10e-3)[window].sum()
    assert 2e-25 < sigma < 9e-25


def test_the_areas_of_plasmon_and_zero_loss_are_as_thick_as_it_is() -> None:
    """ln(all / zero loss) = t / lambda; one loss over none = t / lambda, two over one its half."""
    for thickness in (0.1, 0.7, 1.8):
        energies, share = seen(
            Film({}, [(30.0, 3.0, thickness)]), dispersion=0.1, energy_spread=0.5, point_spread=0.0
        )
        zero = share[np.abs(energies) < 3].sum()
        assert np.log(share.sum() / zero) == pytest.approx(thickness, abs=0.02)
        assert share.sum() == pytest.approx(1.0, abs=0.01)
        single = share[(energies > 20) & (energies < 43)].sum()
        assert single / zero == pytest.approx(thickness, rel=0.12)
    double = share[(energies > 52) & (energies < 68)].max() / share[(energies > 25) & (energies < 35)].max()
    assert double == pytest.approx(1.8 / 2 / np.sqrt(2), rel=0.45)  # and wider


def test_multiple_scattering_of_one_sharp_mode_is_poisson() -> None:
    single = np.zeros(200)
    single[25] = 0.8
    found = multiple_scattering(single)
    expected = [np.exp(-0.8) * 0.8**n / f for n, f in enumerate((1, 1, 2, 6, 24))]
    np.testing.assert_allclose(found[[0, 25, 50, 75, 100]], expected, rtol=1e-10)
    losses = np.arange(3000) * 0.1
    assert plasmon(losses, (24.0, 4.0, 0.3)).sum() == pytest.approx(0.3)
    assert losses[np.argmax(plasmon(losses, (24.0, 4.0, 0.3)))] == pytest.approx(24.0, abs=0.3)


@pytest.mark.parametrize("offset", [-20.0, -19.87, -3.33])
def test_the_zero_loss_peak_is_at_zero_and_as_wide_as_the_beam(offset: float) -> None:
    losses = np.zeros(600)
    losses[0] = 1.0
    share = spread(losses, 0.1, offset, 400, 0.7)
    energies = offset + 0.1 * np.arange(400)
    assert share.sum() == pytest.approx(1.0, abs=1e-6)
    assert (share * energies).sum() == pytest.approx(0.0, abs=1e-3)
    sigma = np.sqrt((share * energies**2).sum())
    assert 2.3548 * sigma == pytest.approx(0.7, rel=0.02)


def test_the_mean_free_path_is_that_of_the_literature() -> None:
    """Iakoubovskii et al. (2008): about 160 nm for carbon, some 100 nm for heavier ones, at 200 kV."""
    assert free_path(2.0, 200e3, 1e-3, 20e-3) == pytest.approx(155e-9, rel=0.1)
    assert free_path(5.12, 200e3, ALPHA, BETA) < free_path(2.0, 200e3, ALPHA, BETA)


def test_the_bicrystal_is_strontium_titanate_on_carbon() -> None:
    sample = SampleSettings(thickness=20e-9, carbon=3e-9)
    crystal = Bicrystal(sample, 20e-9, VOLTS, ALPHA, BETA)
    elements = crystal.elements(5e-9, 0.0)
    assert elements["O"] == pytest.approx(3 * elements["Ti"]) == pytest.approx(3 * elements["Sr"])
    assert crystal.thickness(0, 0) == pytest.approx(23e-9, rel=0.02)
    total = sum(mode[2] for mode in crystal.modes(0, 0))
    assert total == pytest.approx(0.22, abs=0.08)
    energies, share = seen(crystal, (5e-9, 0.0), energy_offset=400.0, dispersion=0.1)
    titanium = share[(energies > 456) & (energies < 468)].max() / share[(energies > 445) & (energies < 452)].mean()
    oxygen = share[(energies > 532) & (energies < 540)].max() / share[(energies > 520) & (energies < 528)].mean()
    assert titanium > 1.5
    assert oxygen > 1.1


def test_the_titanium_edge_shifts_at_the_boundary() -> None:
    sample = SampleSettings(thickness=20e-9, carbon=3e-9)
    crystal = Bicrystal(sample, 20e-9, VOLTS, ALPHA, BETA)
    along = np.array([-np.sin(sample.boundary), np.cos(sample.boundary)])

    def titanium(distance: float) -> float:
        place = distance * np.array([np.cos(sample.boundary), np.sin(sample.boundary)]) + 1e-9 * along
        energies, share = seen(crystal, tuple(place), energy_offset=440.0, dispersion=0.05, energy_spread=0.3)
        lines = (energies > 453) & (energies < 461.5)
        return float(energies[lines][np.argmax(share[lines])])

    assert titanium(0.0) == pytest.approx(titanium(3e-9) - 1.2, abs=0.15)
    assert titanium(-3e-9) == pytest.approx(titanium(3e-9), abs=0.01)
    assert crystal.elements(*(2e-9 * along))["Sr"] < crystal.elements(5e-9, 0.0)["Sr"]


def test_a_spectrum_is_one_block_of_counts_on_its_axis() -> None:
    stem = StemSimulator(StemSettings(**SMALL))
    command = AcquireSpectrum((1e-9, 0.5e-9), EELS(1e-3, 4))
    acquisition = stem.acquire_spectrum(command)
    assert (acquisition.topic, acquisition.spec.kind, acquisition.spec.nav) == ("spectrum", "spectra", ())
    axis = acquisition.spec.sig[0]
    assert (axis.scale, axis.offset, axis.units) == (0.3, -20.0, "eV")
    counts, buffer = one(acquisition)
    electrons = 50e-12 * 4e-3 / 1.602176634e-19
    assert buffer.dose[0] == pytest.approx(electrons)
    assert buffer.position[0].tolist() == [1e-9, 0.5e-9]
    assert stem.clock.now_ns() == 4_000_000
    net = counts.sum() - 4 * 20 * axis.size
    assert net == pytest.approx(2.0 * electrons, rel=0.02)
    assert abs(axis.values()[np.argmax(counts)]) <= 0.3
    truth = stem.truth()
    assert truth["dose_map"].sum() * truth["dose_cell"] ** 2 == pytest.approx(electrons)
    other, _ = one(stem.acquire_spectrum(command))
    assert (other != counts).any()


def test_counts_are_poisson_and_repeat_from_the_seed() -> None:
    spectrometer = EnergyLoss(
        SpectrometerSettings(read_noise=0.0, dark_current=0.0, dark_level=0.0, gain=1.0), VOLTS, 3
    )
    share = np.full(2000, 1 / 2000)
    counts, full = spectrometer.counts(share, 80_000.0, 1e-3, 1, 7)
    assert not full
    assert counts.mean() == pytest.approx(40, abs=4 * np.sqrt(40 / 2000))
    assert counts.var() == pytest.approx(40, rel=0.13)
    np.testing.assert_array_equal(counts, spectrometer.counts(share, 80_000.0, 1e-3, 1, 7)[0])
    dark, _ = EnergyLoss(SpectrometerSettings(), VOLTS, 3).counts(share, 0.0, 2.0, 4, 7)
    assert dark.mean() == pytest.approx(4 * 20 + 5 * 2.0, abs=0.5)
    assert dark.var() == pytest.approx(4 * 2.0**2 + 10, rel=0.15)


def test_axis_and_slit_are_set_and_read_back() -> None:
    stem = StemSimulator(StemSettings(**SMALL, beam_current=500.0))
    assert stem.set_spectrometer(SetSpectrometer(420.0, 0.1)) == stem.clock.now_ns()
    back = stem.read_back()
    assert (back["energy_offset"], back["dispersion"], back["slit"]) == (420.0, 0.1, 0.0)
    assert stem.acquire_spectrum(AcquireSpectrum((0, 0), EELS(1e-3))).spec.sig[0].offset == 420.0
    assert stem.acquire_spectrum(AcquireSpectrum((0, 0), EELS(1e-3, offset=-10.0))).spec.sig[0].offset == -10.0
    stem.set_spectrometer(SetSpectrometer(-51.2, 0.05, 5.0))
    counts, _ = one(stem.acquire_spectrum(AcquireSpectrum((0, 0), EELS(1e-3))))
    assert counts[900:1100].max() > 100
    assert counts[:900].max() < 40  # dark alone outside of the slit
    with pytest.raises(DriverError, match="dispersion 5 is out of range"):
        stem.set_spectrometer(SetSpectrometer(dispersion=5.0, energy_offset=1.0))
    assert stem.read_back()["energy_offset"] == -51.2
    with pytest.raises(DriverError, match="Diffraction"):
        stem.acquire_spectrum(AcquireSpectrum((0, 0), Diffraction(1e-3)))


def test_too_bright_a_zero_loss_fills_its_channels_and_a_blanked_beam_none() -> None:
    stem = StemSimulator(StemSettings(**SMALL, beam_current=1000.0))
    command = AcquireSpectrum((0, 0), EELS(0.01))
    counts, buffer = one(stem.acquire_spectrum(command))
    assert buffer.flags[0] & FrameFlag.SATURATED
    assert counts.max() == pytest.approx(1_048_575, abs=40)
    stem.blank(Blank())
    dark, buffer = one(stem.acquire_spectrum(command))
    assert dark.max() < 40
    assert buffer.dose[0] == 0.0
    stem.unblank(Unblank())
