"""What a simulator says of a spectrum before it is measured is what it then measures, but for noise."""

from __future__ import annotations

import numpy as np
import pytest
from probeloop.simulators.stem.instrument import StemSimulator
from probeloop.simulators.stem.settings import StemSettings
from probeloop.simulators.stem.specimen import StructureSettings, build
from spm_words import made, spectrum

from probeloop.api import BEPS, EELS, IV, AcquireSpectrum, DriverError, FrameBuffer, Unblank


def test_a_loop() -> None:
    spm = made(seed=3, noise=1e-13, broken_share=0.0)
    places = np.array([(-4e-8, 3e-8), (1.1e-7, -5e-8)])
    before = spm.truth()["polarisation"]
    spec, expected = spm.expected_spectra(BEPS(), places)
    assert expected.shape == (2, *spec.frame_shape)
    assert not spm.truth()["spectra"]
    np.testing.assert_array_equal(spm.truth()["polarisation"], before)
    got, measured_spec, _ = spectrum(spm, (-4e-8, 3e-8))
    assert measured_spec.aux == spec.aux
    np.testing.assert_allclose(got, expected[0], atol=3e-12 * np.abs(expected[0]).max() / 1e-10)
    assert np.abs(expected[0] - expected[1]).max() > 0.02 * np.abs(expected).max()
    with pytest.raises(DriverError):
        spm.expected_spectra(IV(start=-1.0, stop=1.0, n=3), places)
    spm.close()


def test_an_energy_loss_spectrum() -> None:
    stem = StemSimulator(
        StemSettings(pixels=32, tile=8, pixel_angle=9.0, pace=None, drift=0.0, misalignment=0.0, beam_current=500.0)
    )
    try:
        stem.unblank(Unblank())
        kind = EELS(exposure=0.5, offset=-5.0, dispersion=0.1)
        before = stem.read_back()
        spec, expected = stem.expected_spectra(kind, np.array([(0.0, 0.0), (3e-10, 1e-10)]))
        assert stem.read_back() == before  # nothing was set
        acquisition = stem.acquire_spectrum(AcquireSpectrum((0.0, 0.0), kind))
        next(acquisition.frames)
        buffer = FrameBuffer.allocate(acquisition.spec, 1)
        assert acquisition.frames.send(buffer) == 1
        got = buffer.data[0].astype(float)
        assert spec.sig[-1].offset == -5.0
        noise = np.sqrt(2.0 * expected[0] + 8.0)
        assert np.abs((got - expected[0]) / noise).mean() < 1.2
    finally:
        stem.close()


def test_squares_of_an_array_that_are_not_all_alike_do_not_touch_and_narrow_gaps_are_bright() -> None:
    made = build("plasmonic", StructureSettings(side=4.0, gap=1.5, disorder=1.0, film=0.0, thickness=0.4), 30e-9, 2)
    modes = made.truth["modes"]
    assert made.atoms is not None
    metal = made.atoms.places
    assert modes.metal(metal[:, 0], metal[:, 1]).all()
    i, j = np.meshgrid(np.arange(-2, 3), np.arange(-2, 3))
    x, y, half = modes.square(i, j)
    nx, _, nhalf = modes.square(i + 1, j)
    gaps = (nx - nhalf) - (x + half)
    assert 0.05e-9 < gaps.min() < 0.8e-9
    assert gaps.max() > 2.0e-9
    weight = modes.weights((x + half + nx - nhalf) / 2, y)[..., -1]
    order = np.argsort(gaps.ravel())
    assert (np.diff(weight.ravel()[order]) <= 1e-12).all()
    assert modes.modes[-1].name == "gap"
    alike = build("plasmonic", StructureSettings(side=4.0, gap=1.5, film=0.0, thickness=0.4), 12e-9, 2).truth["modes"]
    x0, _, half0 = alike.square(np.arange(-1, 2), np.zeros(3, int))
    np.testing.assert_allclose(np.diff(x0), 5.5e-9)
    np.testing.assert_allclose(half0, 2e-9)
