"""Annular detectors: one number a pixel instead of a pattern.

`bf`, `abf`, `adf` integrate the elastic far field over their annulus. `haadf` asks the scatterer for its share of
thermal diffuse scattering where it knows one (`haadf(probe, x, y)`), because the far field of a thin object stands
still at high angles; without that it integrates too, and its channel says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Channel, DriverError, StreamSpec

from .noise import Stream, draw_counts
from .physics import Geometry

_EDGE = 2 / 3  # of the camera's half width: what lies beyond is cut off by the band limit
_THERMAL = "thermal diffuse scattering"
_ELASTIC = "elastic scattering"


@runtime_checkable
class ThermalDiffuse(Protocol):
    """A scatterer with a model of thermal diffuse scattering."""

    def haadf(self, probe: Any, x: float, y: float, frame: int = 0) -> float:
        """Return the share of the electrons that reaches the high-angle detector. x, y: place of the probe [m]."""
        ...


def default_annuli(geometry: Geometry) -> dict[str, tuple[float, float]]:
    """Return inner and outer angle of each channel [rad]: multiples of the convergence angle (CONVENTIONS.md 2)."""
    alpha, edge = geometry.convergence, band_edge(geometry)
    wanted = {"bf": (0.0, 1.0), "abf": (0.5, 1.0), "adf": (1.2, 2.4), "haadf": (2.4, np.inf)}
    angles = {name: (low * alpha, min(high * alpha, edge)) for name, (low, high) in wanted.items()}
    return {name: pair for name, pair in angles.items() if pair[0] < pair[1]}


def band_edge(geometry: Geometry) -> float:
    """Return the largest scattering angle that the simulation holds [rad]."""
    return _EDGE * geometry.angle * geometry.pixels / 2


class Annuli:
    """Annular detectors, a `Receiver` (exposure.py): values (1,) or (1, k) of counted electrons."""

    blind_is_zero = True

    def __init__(self, geometry: Geometry, wanted: Sequence[str], annuli: Mapping[str, tuple[float, float]]) -> None:
        """wanted: channels, of those in `annuli` [rad]. Raises DriverError for one that is not there or too wide."""
        edge = band_edge(geometry)
        unknown = sorted(set(wanted) - set(annuli))
        if unknown:
            raise DriverError(f"no detector {', '.join(unknown)}", f"channels: {', '.join(annuli)}")
        for name in wanted:
            if annuli[name][1] > edge * (1 + 1e-9):
                raise DriverError(
                    f"{name} reaches to {annuli[name][1] * 1e3:g} mrad, beyond what is simulated",
                    f"at most {edge * 1e3:.3g} mrad; a larger pixel_angle or more pixels",
                )
        self.names = tuple(wanted)
        k = np.fft.fftfreq(geometry.pixels, 1 / geometry.pixels) * geometry.angle
        radius = np.hypot(k[:, None], k).ravel()
        self._cells = [np.flatnonzero((radius >= a) & (radius < b)) for a, b in (annuli[n] for n in self.names)]

    def channels(self, scatterer: Any) -> tuple[Channel, ...]:
        """Return what each value is."""
        thermal = isinstance(scatterer, ThermalDiffuse)
        return tuple(Channel(n, _THERMAL if n == "haadf" and thermal else _ELASTIC, "e") for n in self.names)

    def spec(self, camera: StreamSpec, scatterer: Any) -> StreamSpec:
        """Return what the values are on the scan of `camera`."""
        return msgspec.structs.replace(
            camera, name="scan", kind="values", dtype="<f4", sig=(), channels=self.channels(scatterer), units="e"
        )

    def take(
        self, scatterer: Any, probe: Any, place: tuple[float, float], electrons: float, seconds: float,
        stream: Stream, out: NDArray[np.float32],
    ) -> bool:  # fmt: skip
        """Write the counts of every channel into `out` (1,) or (1, k); counters never saturate."""
        thermal = isinstance(scatterer, ThermalDiffuse)
        means = np.zeros(len(self.names), np.float32)
        if set(self.names) != {"haadf"} or not thermal:
            wave = scatterer.far_field(probe, *place, int(stream[1]))
            intensity = (wave.real**2 + wave.imag**2).ravel()
            means[:] = [intensity[cells].sum() for cells in self._cells]
        if thermal and "haadf" in self.names:
            means[self.names.index("haadf")] = scatterer.haadf(probe, *place, int(stream[1]))
        drawn = np.empty_like(means)
        draw_counts(means * np.float32(electrons), *stream, drawn)
        out.reshape(-1)[:] = drawn
        return False
