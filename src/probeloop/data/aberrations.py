"""Aberrations of a probe-forming lens, in one notation, and the way to and from the others.

chi = (2 pi / lambda) sum alpha^(n+1) / (n+1) [C_nma cos(m phi) + C_nmb sin(m phi)], psi = A exp(-i chi);
C10 > 0 is overfocus (CONVENTIONS.md 6). Notation of Krivanek, Dellby and Lupini, Ultramicroscopy 78 (1999) 1.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import ProbeloopError
from .scan import Length

# CODATA 2018 (exact but for the electron mass): J s, C, m/s, kg
PLANCK, CHARGE, LIGHT, ELECTRON_MASS = 6.62607015e-34, 1.602176634e-19, 299792458.0, 9.1093837015e-31

Array = NDArray[np.float64]


class Aberrations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Coefficients C_nm up to the fifth order [m]; a goes with cos(m phi), b with sin(m phi)."""

    C10: Length = 0.0
    C12a: Length = 0.0
    C12b: Length = 0.0
    C21a: Length = 0.0
    C21b: Length = 0.0
    C23a: Length = 0.0
    C23b: Length = 0.0
    C30: Length = 0.0
    C32a: Length = 0.0
    C32b: Length = 0.0
    C34a: Length = 0.0
    C34b: Length = 0.0
    C41a: Length = 0.0
    C41b: Length = 0.0
    C43a: Length = 0.0
    C43b: Length = 0.0
    C45a: Length = 0.0
    C45b: Length = 0.0
    C50: Length = 0.0
    C52a: Length = 0.0
    C52b: Length = 0.0
    C54a: Length = 0.0
    C54b: Length = 0.0
    C56a: Length = 0.0
    C56b: Length = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return every coefficient that is not zero, by name [m]."""
        return {name: value for name in NAMES if (value := getattr(self, name))}

    def plus(self, changes: Mapping[str, float]) -> Aberrations:
        """Return a copy with `changes` [m] added; raises ProbeloopError for an unknown name."""
        unknown = sorted(set(changes) - set(NAMES))
        if unknown:
            raise ProbeloopError(f"no aberration is named {', '.join(unknown)}", f"known: {', '.join(NAMES)}")
        return msgspec.structs.replace(self, **{k: getattr(self, k) + v for k, v in changes.items()})

    def minus(self, other: Aberrations) -> Aberrations:
        """Return the difference, coefficient by coefficient [m]."""
        return Aberrations(**{name: getattr(self, name) - getattr(other, name) for name in NAMES})


NAMES: tuple[str, ...] = Aberrations.__struct_fields__


def order_of(name: str) -> tuple[int, int, str]:
    """Return (n, m, "a" | "b" | "") of a coefficient's name."""
    return int(name[1]), int(name[2]), name[3:]


def wavelength(voltage: float) -> float:
    """Return the relativistic wavelength of an electron [m] accelerated by `voltage` [V]."""
    energy = CHARGE * voltage
    return PLANCK * LIGHT / math.sqrt(energy * (energy + 2 * ELECTRON_MASS * LIGHT**2))


def interaction(voltage: float) -> float:
    """Return the interaction constant sigma = 2 pi m e lambda / h^2 [rad/(V m)], m relativistic."""
    mass = ELECTRON_MASS + CHARGE * voltage / LIGHT**2
    return 2 * math.pi * mass * CHARGE * wavelength(voltage) / PLANCK**2


def chi(aberrations: Aberrations, kx: Any, ky: Any, wavelength: float) -> Array:
    """Return the aberration function [rad] at spatial frequencies kx, ky [1/m], broadcast together."""
    omega = wavelength * (np.asarray(kx, np.float64) + 1j * np.asarray(ky, np.float64))
    square = omega.real**2 + omega.imag**2
    total = np.zeros(omega.shape)
    powers: dict[int, Any] = {0: np.ones_like(omega)}
    for name, value in aberrations.as_dict().items():
        n, m, part = order_of(name)
        if m not in powers:
            powers[m] = omega**m
        angular = powers[m].imag if part == "b" else powers[m].real
        total += value / (n + 1) * square ** ((n + 1 - m) // 2) * angular
    return 2 * np.pi / wavelength * total


def blur_radius(aberrations: Aberrations, convergence: float) -> float:
    """Return the largest geometric displacement |grad chi| lambda / 2 pi within the aperture [m]."""
    angle = np.linspace(0, 2 * np.pi, 73)
    radius = convergence * np.linspace(0.2, 1.0, 9)[:, None]
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    step = 1e-4 * convergence
    dx = chi(aberrations, x + step, y, 1.0) - chi(aberrations, x - step, y, 1.0)
    dy = chi(aberrations, x, y + step, 1.0) - chi(aberrations, x, y - step, 1.0)
    return float(np.hypot(dx, dy).max() / (4 * np.pi * step))


def strehl(aberrations: Aberrations, wavelength: float, convergence: float) -> float:
    """Return the probe's highest intensity over that of the perfect probe, 0 to 1 (wherever the peak lies)."""
    blur = blur_radius(aberrations, convergence)
    n = int(2 ** math.ceil(math.log2(max(48.0, 8 * blur * convergence / wavelength))))
    n = min(n, 2048)
    k = (np.arange(n) - (n - 1) / 2) * 2 * convergence / wavelength / n
    inside = k[:, None] ** 2 + k**2 <= (convergence / wavelength) ** 2
    pupil = np.where(inside, np.exp(-1j * chi(aberrations, k[None, :], k[:, None], wavelength)), 0)
    size = 4 * n if n <= 256 else n
    padded = np.fft.fft2(pupil, s=(size, size))
    return float((np.abs(padded).max() / np.count_nonzero(inside)) ** 2)


# Factor of each CEOS (Haider) coefficient in ours: 3 B2, 4 S3, 5 B4 ... as tabulated side by side in
# Dr. Probe's documentation, "control file aberration indexing", er-c.org/barthel/drprobe (2019).
_CEOS = {
    "C1": ("C10", 1), "A1": ("C12", 1), "B2": ("C21", 3), "A2": ("C23", 1), "C3": ("C30", 1),
    "S3": ("C32", 4), "A3": ("C34", 1), "B4": ("C41", 5), "D4": ("C43", 5), "A4": ("C45", 1),
    "C5": ("C50", 1), "S5": ("C52", 6), "R5": ("C54", 6), "A5": ("C56", 1),
}  # fmt: skip


def to_ceos(aberrations: Aberrations) -> dict[str, complex]:
    """Return the CEOS coefficients (C1, A1, B2 ...) [m], each as amplitude * exp(i m phi_axis)."""
    pairs = _pairs(aberrations)
    return {name: pairs[ours] / factor for name, (ours, factor) in _CEOS.items() if pairs[ours]}


def from_ceos(values: Mapping[str, complex]) -> Aberrations:
    """Read CEOS coefficients [m]; raises ProbeloopError for an unknown name."""
    return _of_pairs({_known(name, _CEOS)[0]: value * _known(name, _CEOS)[1] for name, value in values.items()})


def to_polar(aberrations: Aberrations) -> dict[str, float]:
    """Return abTEM's notation: C_nm [Å] and phi_nm [rad], C_nm cos(m (phi - phi_nm)), "C12", "phi12" ...

    abTEM's docs, "Contrast transfer function": C_nm in Å, and C10 = -defocus.
    """
    found: dict[str, float] = {}
    for name, value in _pairs(aberrations).items():
        n, m = int(name[1]), int(name[2])
        if not value:
            continue
        found[f"C{n}{m}"] = abs(value) * 1e10 if m else value.real * 1e10
        if m:
            found[f"phi{n}{m}"] = cmath.phase(value) / m
    return found


def from_polar(values: Mapping[str, float]) -> Aberrations:
    """Read abTEM's notation (see `to_polar`); raises ProbeloopError for an unknown name."""
    pairs: dict[str, complex] = {}
    for name, value in values.items():
        if name.startswith("phi"):
            if f"C{name[3:]}" not in values:
                raise ProbeloopError(f"{name} without C{name[3:]}", "give both")
            continue
        m = int(name[2]) if name in _PAIRS else -1
        if m < 0:
            raise ProbeloopError(f"no aberration is named {name!r}", f"known: {', '.join(_PAIRS)}")
        pairs[name] = value * 1e-10 * cmath.exp(1j * m * values.get(f"phi{name[1:]}", 0.0))
    return _of_pairs(pairs)


def nion_control(name: str) -> str:
    """Return what Nion calls a coefficient; signs, factors and axes are ours (x right, y down on the camera).

    nionswift-usim 5.4.2, RonchigramCameraSimulator.py: chi = C10 r^2/2 + C12.x (x^2-y^2)/2 + C12.y xy + ...

    >>> nion_control("C10"), nion_control("C12a"), nion_control("C23b")
    ('C10', 'C12.x', 'C23.y')
    """
    return name[:3] + {"a": ".x", "b": ".y", "": ""}[name[3:]]


def to_nion(aberrations: Aberrations) -> dict[str, float]:
    """Return Nion's controls [m] of the coefficients that are not zero."""
    return {nion_control(name): value for name, value in aberrations.as_dict().items()}


def from_nion(values: Mapping[str, float]) -> Aberrations:
    """Read Nion's controls (see `to_nion`); raises ProbeloopError for an unknown name."""
    plain = {k.replace(".x", "a").replace(".y", "b"): v for k, v in values.items()}
    return Aberrations().plus(plain)


_PAIRS = tuple(dict.fromkeys(name[:3] for name in NAMES))


def _pairs(aberrations: Aberrations) -> dict[str, complex]:
    """Return each C_nm as a + ib."""
    return {
        name: complex(getattr(aberrations, f"{name}a"), getattr(aberrations, f"{name}b"))
        if f"{name}a" in NAMES
        else complex(getattr(aberrations, name))
        for name in _PAIRS
    }


def _of_pairs(pairs: Mapping[str, complex]) -> Aberrations:
    found: dict[str, float] = {}
    for name, value in pairs.items():
        if f"{name}a" in NAMES:
            found |= {f"{name}a": value.real, f"{name}b": value.imag}
        else:
            found[name] = value.real
    return Aberrations(**found)


def _known(name: str, table: Mapping[str, tuple[str, int]]) -> tuple[str, int]:
    if name not in table:
        raise ProbeloopError(f"no aberration is named {name!r}", f"known: {', '.join(table)}")
    return table[name]
