"""The spectrum of energy losses of a thin specimen: pure functions.

Single scattering adds the losses of collective modes, each with a given mean number of losses, and those of inner
shells, areal density times cross-section. Multiple scattering follows from it exactly, for losses are independent:
the spectrum is exp(s - t) in the space of its Fourier transform, t the mean number of losses (Fourier-log, Egerton,
Electron Energy-Loss Spectroscopy in the Electron Microscope, 3rd ed. (2011), section 4.1). Cross-sections are the
asymptotic Bethe formula with a power law for the oscillator strength (Egerton 3.2.2 and 3.6.1): right in onset and
class of shape, within a factor of about 2 in strength.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[np.float64]
Mode = tuple[float, float, float]  # energy [eV], full width [eV], mean number of losses

_RYDBERG, _BOHR = 13.605693, 5.29177211e-11
_REST = 510998.95  # of the electron [eV]
_FWHM = 2 * math.sqrt(2 * math.log(2))


@dataclass(frozen=True)
class Line:
    """A peak at the edge: energy above the onset [eV], full width [eV], oscillator strength of an atom."""

    above: float
    width: float
    strength: float


@dataclass(frozen=True)
class Edge:
    """Losses to an inner shell. onset [eV]. strength: oscillators of the continuum. fall: df/dE goes as E^-fall.

    rise: over which the continuum sets in [eV]: sharp for K, delayed for M4,5.
    """

    onset: float
    strength: float
    fall: float
    rise: float
    lines: tuple[Line, ...] = ()


def _k(onset: float, z: int, *lines: Line) -> Edge:
    return Edge(onset, 2.1 - z / 27, 3.8, 1.5, lines)  # oscillators of a K shell: Egerton, eq. 3.118


# Onsets [eV]: Ahn and Krivanek, EELS Atlas (Gatan, 1983). Fine structure: Ti L2,3 with t2g and eg in an octahedral
# field and O K of SrTiO3 as in Muller et al., Nature 430 (2004) 657; C K with pi* and sigma*.
EDGES: dict[str, tuple[Edge, ...]] = {
    "C": (_k(284.0, 6, Line(1.2, 1.5, 0.05), Line(8.0, 6.0, 0.25)),),
    "N": (_k(401.0, 7),),
    "O": (_k(532.0, 8, Line(0.8, 1.4, 0.05), Line(5.5, 2.5, 0.10), Line(12.5, 4.0, 0.12)),),
    "Si": (Edge(99.0, 5.0, 3.5, 8.0),),
    "S": (Edge(165.0, 5.0, 3.5, 10.0),),
    "Ti": (
        Edge(456.0, 3.5, 3.8, 8.0,
             (Line(1.6, 0.9, 0.25), Line(3.8, 1.2, 0.45), Line(7.0, 1.3, 0.25), Line(9.2, 1.6, 0.30))),
        Edge(35.0, 4.0, 2.8, 4.0, (Line(11.0, 8.0, 2.0),)),
    ),
    "Sr": (
        Edge(1940.0, 4.0, 3.6, 6.0, (Line(2.0, 3.5, 0.25),)),
        Edge(2007.0, 2.0, 3.6, 6.0, (Line(2.0, 3.5, 0.12),)),
        Edge(133.0, 7.0, 3.0, 45.0),
        Edge(269.0, 2.0, 3.4, 6.0),
    ),
    "Mo": (Edge(228.0, 8.0, 3.2, 60.0), Edge(2520.0, 5.0, 3.6, 8.0, (Line(3.0, 3.0, 1.0),))),
    "Au": (Edge(2206.0, 10.0, 3.4, 120.0),),
    "Pb": (Edge(2484.0, 10.0, 3.4, 120.0),),
}  # fmt: skip


def free_path(density: float, voltage: float, convergence: float, collection: float) -> float:
    """Return the mean free path of inelastic scattering [m] (Iakoubovskii et al., Microsc. Res. Tech. 71 (2008) 626).

    density [g/cm³]; voltage [V]; convergence and collection: half angles [rad].
    """
    energy = voltage / 1e3
    relativistic = (1 + energy / 1022) / (1 + energy / 511) ** 2
    narrow, wide = 5.5 * density**0.3 / (relativistic * energy), 20.0
    a, b = convergence * 1e3, collection * 1e3
    both, apart = a * a + b * b, abs(a * a - b * b)
    ratio = (both + apart + 2 * narrow**2) / (both + apart + 2 * wide**2) * (wide / narrow) ** 2
    return float(1e-9 * 200 * relativistic * energy / (11 * density**0.3 * math.log(ratio)))


def plasmon(energies: Array, mode: Mode) -> Array:
    """Return the losses to a mode at `energies` [eV] from 0 in equal steps, (N,), summing to its strength (Drude)."""
    energy, width, strength = mode
    square = energies**2
    shape = energies * width * energy**2 / ((square - energy**2) ** 2 + square * width**2)
    return np.asarray(strength * shape / shape.sum())


def edge_density(energies: Array, edge: Edge, voltage: float, collection: float, shift: float = 0.0) -> Array:
    """Return the differential cross-section of one atom [m²/eV] at `energies` [eV], (N,).

    collection: half angle [rad]. shift: of the whole edge [eV].
    """
    onset = edge.onset + shift
    gamma = 1 + voltage / _REST
    kinetic = 0.5 * _REST * (1 - 1 / gamma**2)  # m v^2 / 2
    out = np.zeros_like(energies)
    above = energies > 0.7 * onset
    e = energies[above]
    angle = e / (2 * gamma * kinetic)
    bethe = 4 * np.pi * (_BOHR * _RYDBERG) ** 2 / (e * kinetic) * np.log1p((collection / angle) ** 2)
    rising = 0.5 * (1 + erf((e - onset) / 0.6)) * -np.expm1(-np.maximum(e - onset, 0) / edge.rise)
    oscillators = edge.strength * (edge.fall - 1) / onset * (e / onset) ** -edge.fall * rising
    for line in edge.lines:
        half = line.width / 2
        oscillators += line.strength / np.pi * half / ((e - onset - line.above) ** 2 + half**2) * (e > onset - 3)
    out[above] = bethe * oscillators
    return out


def single_scattering(
    energies: Array, modes: Sequence[Mode], elements: Mapping[str, float], shifts: Mapping[str, float],
    voltage: float, collection: float,
) -> Array:  # fmt: skip
    """Return the mean number of losses in each channel of `energies` [eV], from 0 in equal steps, (N,).

    elements: areal density [1/m²]; one without edges here adds none. shifts: of an element's highest listed edge,
    its first [eV].
    """
    total = np.zeros_like(energies)
    for mode in modes:
        total += plasmon(energies, mode)
    step = energies[1] - energies[0]
    for element, density in elements.items():
        for i, edge in enumerate(EDGES.get(element, ())):
            if edge.onset < energies[-1] and density > 0:
                shift = shifts.get(element, 0.0) if i == 0 else 0.0
                total += density * step * edge_density(energies, edge, voltage, collection, shift)
    return total


def multiple_scattering(single: Array) -> Array:
    """Return the distribution of the total loss, (N,): channel 0 holds the electrons without any.

    single: mean number of losses in each channel, channel 0 at zero loss. Losses beyond the last channel leave it.
    """
    size = sf.next_fast_len(2 * single.size, real=True)
    spectrum = np.exp(sf.rfft(single, size) - single.sum())
    return np.asarray(np.maximum(sf.irfft(spectrum, size)[: single.size], 0.0))


def spread(losses: Array, step: float, offset: float, channels: int, width: float) -> Array:
    """Return what a spectrometer sees, (channels,): channel i holds energies about offset + i step [eV].

    losses: (N,), channel j at j step [eV]. width: full width of the zero-loss peak [eV].
    """
    sigma = width / _FWHM
    reach = math.ceil(5 * sigma / step) + 2
    first = math.floor(offset / step)  # in channels
    at = (np.arange(-reach, reach + 1) + (offset / step - first)) * step
    edges = np.append(at - step / 2, at[-1] + step / 2)
    kernel = np.diff(0.5 * (1 + erf(edges / (math.sqrt(2) * sigma))))
    wanted = np.zeros(channels + 2 * reach)
    index = first - reach + np.arange(wanted.size)
    held = (index >= 0) & (index < losses.size)
    wanted[held] = losses[index[held]]
    # seen(i) = sum over m of kernel(m) losses(first + i - m)
    return np.maximum(np.convolve(wanted, kernel, mode="valid"), 0.0)
