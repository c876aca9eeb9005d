"""The plug-in: columns of atoms in the picture so far, as a table with errors and with numbers that stay."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Context, Outputs, Settings, StreamSpec, map_input, quantity

from .columns import KNOWN, THRESHOLD, Fitted, Numbers, maxima, refined, spacing_of
from .transform import Segment

FIELDS = (
    ("position", "(2,)<f8"), ("position_sigma", "<f8"), ("id", "<i4"), ("intensity", "<f8"),
    ("intensity_sigma", "<f8"), ("ground", "<f8"), ("width", "<f8"), ("probability", "<f4"), ("variance", "<f4"),
)  # fmt: skip


class Columns(Segment):
    """Columns of atoms in an annular dark-field picture: their places, brightnesses, and the errors of both.

    The table has one row a column. position: (x, y) [m] in the SCAN frame, of a Gaussian fitted in the picture;
    position_sigma: its standard error along one axis [m]. id: the same from picture to picture for as long as a
    column moves by less than `tolerance`. intensity: of the Gaussian above the ground, with its standard error, in
    the picture's units. width: standard deviation [m]. probability, variance: of the networks, there. What could not
    be fitted is NaN, its position that of the networks.
    """

    class Parameters(Segment.Parameters):
        """See the plug-in segment; weights: those for columns.

        threshold: probability at the maximum of a column. tolerance: how far a column may move between two pictures,
        in parts of the spacing. memory: scans in which it may be missing.
        """

        weights: str = "columns"
        threshold: Annotated[float, quantity("", ge=0.0, le=1.0)] = THRESHOLD
        tolerance: Annotated[float, quantity("", ge=0.01, le=0.5)] = 0.3
        memory: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 2

    def __init__(self, parameters: Settings | None = None, context: Context | None = None) -> None:
        super().__init__(parameters, context)
        self._numbers = Numbers(self.parameters.memory)
        self._table: NDArray[Any] | None = None

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return what `segment` returns, and `table`; raises as it does, and without a scale in metres."""
        found = map_input(
            spec, self.parameters.channel, wanted="a 2D map of real numbers, such as a dark field", real=True,
            metres=True,
        )  # fmt: skip
        y, x = found.axes
        self._origin = np.array([y.offset, x.offset])
        self._step = np.array([float(y.scale or 1), float(x.scale or 1)])
        return {**super().outputs(spec), "table": StreamSpec("table", "table", fields=FIELDS)}

    def begin(self, spec: StreamSpec) -> None:
        """Another scan; the columns of the last ones are remembered."""
        super().begin(spec)
        self._numbers.memory = self.parameters.memory
        self._numbers.begin()
        self._table = None

    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Return the maps of `segment` and the table of columns of `data`, (ny, nx) or (ny, nx, k)."""
        made = super().update(data, mask)
        if made is None:
            return None
        if self._table is None or made["frame"][0, 2] == 1:  # else the picture was refused, and the last table stays
            mean, variance = made["mean"][0], made["variance"][0]
            picture = np.asarray(self._input.of(data), np.float64).reshape(mean.shape)
            at = maxima(mean, self.parameters.threshold)
            found = refined(np.where(np.isfinite(mean), picture, np.nan), at, KNOWN)
            numbers = self._numbers.number(self._places(found.at), self._reach(found.at))
            self._table = self._rows(found, at, numbers, mean, variance)
        return {**made, "table": self._table}

    def _places(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (y, x) [m] of (row, column) [px]."""
        made: NDArray[np.float64] = at * self._step + self._origin
        return made

    def _reach(self, at: NDArray[np.float64]) -> float:
        spacing = spacing_of(at)
        pixel = float(np.abs(self._step).max())
        return float(self.parameters.tolerance * spacing * pixel) if np.isfinite(spacing) else pixel

    def _rows(
        self, found: Fitted, at: NDArray[np.float64], numbers: NDArray[np.int64], mean: NDArray[Any],
        variance: NDArray[Any],
    ) -> NDArray[Any]:  # fmt: skip
        pixel = float(np.sqrt(np.abs(self._step).prod()))
        rows = np.zeros(len(found.at), np.dtype(list(FIELDS)))
        there = tuple(np.rint(at).astype(np.int64).T)
        rows["position"] = self._places(found.at)[:, ::-1]
        rows["position_sigma"], rows["width"] = found.at_sigma * pixel, found.width * pixel
        rows["id"] = numbers
        rows["intensity"], rows["intensity_sigma"] = found.intensity, found.intensity_sigma
        rows["ground"] = found.ground
        rows["probability"], rows["variance"] = mean[there], variance[there]
        return rows


__all__ = ["Columns"]
