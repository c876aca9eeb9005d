"""Changes a potential and its transmission function in place, a small patch at a time.

Atoms are taken out and put in with the very kernels that the whole field was made of (bilinear on the grid). Because
the band limit is linear, the transmission function needs only the band-limited difference of exp(i sigma V) within
the patch added to it, and not a transform of the whole field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba as nb
import numpy as np
import scipy.fft as sf
from numpy.typing import NDArray

from .damage import Change
from .physics import Planes, band_limit
from .sample import atom_kernel

_REACH = 0.45e-9  # half width of an atom's kernel [m]


class PatchedPlanes:
    """A specimen of slices whose atoms can be changed (`damage.Target`).

    potentials: (N, N) projected potential of each slice [V m], changed in place. planes: their transmission
    functions, changed in place. pixel [m]. interaction: [rad/(V m)].
    """

    def __init__(
        self, potentials: Sequence[NDArray[np.float32]], planes: Sequence[Planes], pixel: float, interaction: float
    ) -> None:
        self._potentials, self._planes = list(potentials), list(planes)
        self._pixel, self._interaction = pixel, np.float32(interaction)
        self._half = round(_REACH / pixel)
        self._kernels: dict[str, NDArray[np.float32]] = {}
        self._limits: dict[int, NDArray[np.float32]] = {}

    def change(self, change: Change) -> None:
        """Take atoms out and put atoms in."""
        places = [p for part in (change.left, change.came) for p in part.values()]
        if not places:
            return
        together = np.concatenate(places)
        for plane in np.unique(together[:, 2]).astype(int):
            self._change(plane, change, together[together[:, 2] == plane][:, :2])

    def _change(self, plane: int, change: Change, places: NDArray[np.float64]) -> None:
        potential, n = self._potentials[plane], self._potentials[plane].shape[0]
        at = places / self._pixel + n // 2
        low = np.floor(at.min(axis=0)).astype(int) - self._half - 2
        high = np.ceil(at.max(axis=0)).astype(int) + self._half + 3
        size = sf.next_fast_len(int((high - low).max()))
        rows = (low[1] + np.arange(size)) % n
        columns = (low[0] + np.arange(size)) % n
        patch = np.ix_(rows, columns)
        before = potential[patch]
        after = before.copy()
        for sign, part in ((-1.0, change.left), (1.0, change.came)):
            for element, atoms in part.items():
                mine = atoms[atoms[:, 2] == plane][:, :2] / self._pixel + n // 2 - low
                _add_atoms(after, mine, np.float32(sign), self._kernel(element))
        potential[patch] = after
        step = np.exp(1j * self._interaction * after) - np.exp(1j * self._interaction * before)
        step = sf.ifft2(sf.fft2(step.astype(np.complex64)) * self._limit(size))
        self._planes[plane].re[patch] += step.real
        self._planes[plane].im[patch] += step.imag

    def _kernel(self, element: str) -> NDArray[np.float32]:
        if element not in self._kernels:
            self._kernels[element] = atom_kernel(element, self._half, self._pixel)
        return self._kernels[element]

    def _limit(self, size: int) -> NDArray[np.float32]:
        if size not in self._limits:
            self._limits[size] = band_limit(size)
        return self._limits[size]


@nb.njit(nogil=True, cache=True)
def _add_atoms(patch: Any, at: Any, sign: Any, kernel: Any) -> None:
    """Add sign times the kernel (2 h + 1, 2 h + 1) at (x, y) [px], bilinearly, to the patch."""
    half = kernel.shape[0] // 2
    for i in range(at.shape[0]):
        x0, y0 = int(np.floor(at[i, 0])), int(np.floor(at[i, 1]))
        fx, fy = at[i, 0] - x0, at[i, 1] - y0
        for dy in range(2):
            for dx in range(2):
                weight = np.float32(sign * (fx if dx else 1 - fx) * (fy if dy else 1 - fy))
                for y in range(kernel.shape[0]):
                    row = y0 + dy + y - half
                    if row < 0 or row >= patch.shape[0]:
                        continue
                    for x in range(kernel.shape[1]):
                        column = x0 + dx + x - half
                        if 0 <= column < patch.shape[1]:
                            patch[row, column] += weight * kernel[y, x]
