"""What a stream carries: axes, channels and the frozen description that travels beside it.

The split between scan axes (`nav`) and detector axes (`sig`) is part of the data.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .errors import WireError

if TYPE_CHECKING:  # the supervisor, which looks at no array, does without numpy
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["frames", "values", "spectra", "image", "table", "ragged"]
Origin = Literal["experiment", "simulation", "replay"]
Sync = Literal["pixel", "line", "frame", "none"]
_MOST = 2**40  # pixels of a map, bytes of a frame


class Axis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A uniform axis: value(i) = offset + scale * i, at pixel centres.

    scale, offset: in `units` (SI inside); scale None = uncalibrated, never 1.
    """

    name: str
    size: int
    scale: float | None = None
    offset: float = 0.0
    units: str = ""

    def values(self) -> NDArray[np.float64]:
        """Return the coordinate of every pixel, (size,) float64 [units], or pixel numbers if uncalibrated."""
        import numpy as np

        scale = 1.0 if self.scale is None else self.scale
        return np.asarray(self.offset + np.arange(self.size) * scale, np.float64)


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several quantities measured at once. direction and pass_: CONVENTIONS.md 4."""

    name: str
    quantity: str = ""
    units: str = ""
    direction: Literal["trace", "retrace", "none"] = "none"
    pass_: Literal["1", "2", "lift"] = "1"


class StreamSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a reader must know before the first block of a generation.

    kind, payload of a block of N frames:
      frames   (N, *channels, *sig)            image    (1, *sig), float or complex, NaN = not measured
      values   (N,) or (N, k) for k channels   table    (N,) structured by `fields`
      spectra  (N, *channels, E)               ragged   N byte strings behind N + 1 uint32 offsets
    nav: scan axes, slow to fast. aux: named arrays along a sig axis, such as bias[step].
    origin: whether a real instrument, a simulator or a replay made it. can_wait: the source obeys credits.
    exposure_ns, stamp: CONVENTIONS.md 3. scan_pattern: order of the visits, see data/scan.py.
    """

    name: str
    kind: Kind
    dtype: str = "<f4"
    nav: tuple[Axis, ...] = ()
    sig: tuple[Axis, ...] = ()
    channels: tuple[Channel, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    aux: dict[str, tuple[float, ...]] = {}
    units: str = ""
    origin: Origin = "experiment"
    sync: Sync = "pixel"
    stamp: Literal["hardware", "arrival"] = "arrival"
    exposure_ns: int = 0
    can_wait: bool = False
    may_be_nan: bool = False
    position_kind: Literal["commanded", "measured"] = "commanded"

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of one element (structured for a table, bytes for ragged)."""
        import numpy as np

        if self.kind == "table":
            return np.dtype([(name, code) for name, code in self.fields])
        return np.dtype(np.uint8) if self.kind == "ragged" else np.dtype(self.dtype)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame: channels first where there are several, then the detector axes."""
        if self.kind in ("table", "ragged"):
            return ()
        lead = (len(self.channels),) if len(self.channels) > 1 else ()
        return lead + tuple(axis.size for axis in self.sig)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame (1 for ragged, whose items vary)."""
        return math.prod(self.frame_shape) * self.numpy_dtype.itemsize

    @property
    def nav_shape(self) -> tuple[int, ...]:
        """Shape of the map that the scan axes span."""
        return tuple(axis.size for axis in self.nav)

    def problems(self) -> list[str]:
        """Return in words everything that makes this no description of a stream."""
        found = [f"axis {a.name!r} has {a.size} pixels" for a in self.nav + self.sig if a.size < 1]
        try:
            dtype = self.numpy_dtype
        except (TypeError, ValueError, SyntaxError, OverflowError, MemoryError) as error:
            return [*found, f"no dtype: {error}"]
        kinds = "biufcSU" if self.kind == "table" else "biufc"
        parts = [dtype[name] for name in dtype.names] if dtype.names else [dtype]
        if dtype.itemsize == 0 or any(part.base.kind not in kinds for part in parts):
            found.append(f"{dtype} is no dtype of plain numbers")
        if math.prod(self.nav_shape) > _MOST or math.prod(self.frame_shape) * dtype.itemsize > _MOST:
            found.append("larger than any memory")
        return found

    def encode(self) -> bytes:
        """Return the spec as msgpack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes | memoryview) -> StreamSpec:
        """Read what `encode` wrote; raises WireError for anything else."""
        try:
            spec = msgspec.msgpack.decode(data, type=cls)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise WireError(f"no stream description: {error}") from error
        problems = spec.problems()
        if problems:
            raise WireError(f"no stream description: {'; '.join(problems)}")
        return spec
