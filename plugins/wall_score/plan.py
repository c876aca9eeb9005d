"""One scan, and how well maps of walls agree with what the phase, and the height, of that scan say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    Checkpoint,
    Plan,
    PlanContext,
    PlanError,
    PlanSteps,
    Reduce,
    Region,
    Result,
    Scan,
    Settings,
    quantity,
)

from .score import AREAS, SHIFTS, Agreement, above_chance, agreement, best_lines

_BITS = 48  # of a mask in a number, which a float holds exactly
_HEIGHT_AREA = 0.05  # of the field: what counts as a ridge of the height
Side = Annotated[int, msgspec.Meta(ge=16, le=4096)]


class WallScore(Plan):
    """Recall, precision and chance of maps of walls at fixed areas, against the scan's own phase and height.

    Amplitude and phase come from one lock-in and a ferroelastic wall need not turn the phase: a check of consistency,
    no truth. The height is measured independently, and shows walls only where they have a relief.
    """

    class Parameters(Settings):
        """What is scored.

        maps: topics by the name that the score calls them, the first one in detail. reference: a topic of 0 and 1,
        lines one pixel wide. height: topic of ridges in the height, "" = none. shape, region, dwell_time: of a scan,
        None = the instrument's.
        """

        maps: dict[str, str] = msgspec.field(default_factory=lambda: {"ridges": "ridges.mean"})
        reference: str = "walls.antiparallel"
        height: str = ""
        shape: tuple[Side, Side] = (256, 256)
        region: Region | None = None
        dwell_time: Annotated[float, quantity("s", gt=0, le=3600)] | None = None

        def problems(self) -> Sequence[str]:
            """Without a map there is nothing to score."""
            return [] if self.maps else ["maps: name at least one topic"]

    def inputs(self) -> tuple[str, ...]:
        """Return the topics that are looked at."""
        p = self.parameters
        return tuple(dict.fromkeys([*p.maps.values(), p.reference, *([p.height] if p.height else [])]))

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Scan, and score each map."""
        p = self.parameters
        missing = [topic for topic in self.inputs() if topic not in ctx.inputs]
        if missing:
            raise PlanError(f"wall_score looks at {', '.join(missing)}, which is not there", "name its plug-in")
        (x0, y0), (x1, y1) = ctx.info.limits.region
        region = p.region or Region((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        low, high = ctx.info.limits.dwell_time
        seen: Result = yield Scan(region, p.shape, p.dwell_time or min(max(1e-3, low), high))
        marks: tuple[float, ...] = yield Reduce(seen, p.reference, Marks(p.shape))
        ridges: tuple[float, ...] = ()
        if p.height:
            ridges = yield Reduce(seen, p.height, Marks(p.shape, _HEIGHT_AREA))
        found: dict[str, tuple[Agreement, ...]] = {}
        by_height: dict[str, float] = {}
        for i, (name, topic) in enumerate(p.maps.items()):
            told = yield Reduce(seen, topic, Scored(marks, p.shape))
            found[name] = agreements(told)
            if ridges:
                told = yield Reduce(seen, topic, Scored(ridges, p.shape))
                by_height[name] = above_chance(agreements(told))
            yield Checkpoint((i + 1) / len(p.maps), f"{name}: {_words(found[name])}")
        first = next(iter(p.maps))
        walls: dict[str, Any] = {
            "map": first,
            "reference_pixels": int(bits(marks, p.shape).sum()),
            "at": {f"{100 * area:g}": _plain(each) for area, each in zip(AREAS, found[first], strict=True)},
            "auc": {name: _number(above_chance(each)) for name, each in found.items()},
            "precision_at_5": {name: _number(each[1].precision) for name, each in found.items()},
        }
        if p.height:
            walls["auc_height"] = {name: _number(value) for name, value in by_height.items()}
        if not walls["reference_pixels"]:
            message = "the phase turns nowhere: there is nothing to compare with"
        else:
            message = "recall above chance: " + ", ".join(f"{n} {_words(each)}" for n, each in found.items())
        return {"succeeded": True, "message": message, "generation": seen.generation, "walls": walls}


class Marks(msgspec.Struct, frozen=True):
    """Packs the lines of a map of `shape` (ny, nx): its pixels above a half, or its best lines over `area` of it."""

    shape: tuple[int, int]
    area: float = 0.0

    def __call__(self, image: Any) -> tuple[float, ...]:
        """Return the pixels of the lines, 48 of them in a number."""
        values = checked(image, self.shape)
        lines = best_lines(values, self.area)[0] if self.area else np.nan_to_num(values) > 0.5
        return packed(lines)


class Scored(msgspec.Struct, frozen=True):
    """Scores a map of `shape` (ny, nx) against packed lines."""

    reference: tuple[float, ...]
    shape: tuple[int, int]
    shifts: int = SHIFTS

    def __call__(self, image: Any) -> tuple[float, ...]:
        """Return area, recall, precision and chance at each of the areas."""
        values, lines = checked(image, self.shape), bits(self.reference, self.shape)
        made: list[float] = []
        for area in AREAS:
            each = agreement(values, lines, area, shifts=self.shifts)
            made += [each.area, each.recall, each.precision, each.chance]
        return tuple(made)


def checked(image: Any, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return a map as real numbers; raises PlanError when it is of another shape."""
    values = np.asarray(np.abs(image) if np.iscomplexobj(image) else image, np.float64)
    if values.shape != tuple(shape):
        raise PlanError(
            f"a map has {values.shape} pixels, the scan {tuple(shape)}", "name topics of one number a pixel"
        )
    return values


def packed(lines: NDArray[np.bool_]) -> tuple[float, ...]:
    """Return a mask as numbers of 48 bits."""
    flat = lines.ravel()
    full = np.zeros(-(-flat.size // _BITS) * _BITS, bool)
    full[: flat.size] = flat
    weights = 2.0 ** np.arange(_BITS)
    return tuple((full.reshape(-1, _BITS) @ weights).tolist())


def bits(numbers: Sequence[float], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask (ny, nx) that was packed."""
    whole = np.asarray(numbers, np.float64).astype(np.int64)
    flat = (whole[:, None] >> np.arange(_BITS)) & 1
    made: NDArray[np.bool_] = flat.ravel()[: shape[0] * shape[1]].reshape(shape).astype(bool)
    return made


def agreements(told: Sequence[float]) -> tuple[Agreement, ...]:
    """Read what `Scored` returned."""
    rows = np.asarray(told, np.float64).reshape(len(AREAS), 4).tolist()
    return tuple(Agreement(*row) for row in rows)


def _words(found: tuple[Agreement, ...]) -> str:
    value = above_chance(found)
    return f"{value:.2f}" if np.isfinite(value) else "none"


def _plain(each: Agreement) -> dict[str, float | None]:
    return {
        "area": _number(each.area), "recall": _number(each.recall), "precision": _number(each.precision),
        "chance": _number(each.chance),
    }  # fmt: skip


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
