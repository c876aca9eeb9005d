"""Where the probe is at every scan index.

`scan_index` is the flat index of a pixel in the map, y * nx + x, whatever the order of the visits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from .units import quantity

if TYPE_CHECKING:  # the supervisor, which looks at no array, does without numpy
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

Length = Annotated[float, quantity("m", ge=-1.0, le=1.0)]
Size = Annotated[float, quantity("m", gt=0.0, le=1.0)]
Angle = Annotated[float, quantity("rad", ge=-7.0, le=7.0)]
Position = tuple[Length, Length]
Order = Literal["raster", "serpentine"]


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rotated rectangle in the SCAN frame: centre, full size [m] and rotation [rad] about its centre."""

    centre_x: Length
    centre_y: Length
    width: Size
    height: Size
    rotation: Angle = 0.0

    def corners(self) -> NDArray[np.float64]:
        """Return the four corners, (4, 2) (x, y) [m]."""
        import numpy as np

        half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [self.width / 2, self.height / 2]
        return self._turn(half)

    def _turn(self, offset: NDArray[Any]) -> NDArray[np.float64]:
        import numpy as np

        c, s = np.cos(self.rotation), np.sin(self.rotation)
        x = self.centre_x + c * offset[..., 0] - s * offset[..., 1]
        y = self.centre_y + s * offset[..., 0] + c * offset[..., 1]
        return np.stack([x, y], axis=-1)

    def holds(self, positions: ArrayLike) -> NDArray[np.bool_]:
        """Return which of the positions (N, 2) (x, y) [m] are inside, its edge included, (N,)."""
        import numpy as np

        dx, dy = (np.asarray(positions, np.float64).reshape(-1, 2) - [self.centre_x, self.centre_y]).T
        c, s = np.cos(self.rotation), np.sin(self.rotation)
        half = np.array([self.width, self.height]) / 2 * (1 + 1e-9)
        inside: NDArray[np.bool_] = (np.abs(c * dx + s * dy) <= half[0]) & (np.abs(c * dy - s * dx) <= half[1])
        return inside

    def positions(self, shape: tuple[int, int], scan_index: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Return the pixel centres (x, y) of `scan_index` (default all) for a map of (ny, nx), (N, 2) [m]."""
        import numpy as np

        ny, nx = shape
        index = np.arange(ny * nx) if scan_index is None else np.asarray(scan_index)
        iy, ix = np.divmod(index, nx)
        offset = np.stack([(ix - (nx - 1) / 2) * self.width / nx, (iy - (ny - 1) / 2) * self.height / ny], axis=-1)
        return self._turn(offset)


def visit_order(shape: tuple[int, int], order: Order) -> NDArray[np.int64]:
    """Return the scan indices in the order of the visits, (ny * nx,) int64."""
    import numpy as np

    index = np.arange(shape[0] * shape[1], dtype=np.int64).reshape(shape)
    if order == "serpentine":
        index[1::2] = index[1::2, ::-1]
    return index.ravel()
