"""The forward experiment, structure to property: spectra on what a segmentation finds in an overview.

After Liu, Kelley, Funakubo, Kalinin and Ziatdinov, Adv. Sci. 9 (2022) 2203957: a scan, the objects in it, places on
them, a short way through these, a spectrum at each. The positions are the specimen's: where the overview is looked at
again every so many spectra, the gate is told how far the specimen has moved, and goes there.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from probeloop.api import (
    BEPS,
    EDS,
    EELS,
    IV,
    AcquireSpectrum,
    Checkpoint,
    Diffraction,
    DriverError,
    ForceCurve,
    InstrumentInfo,
    Observation,
    Observe,
    Plan,
    PlanContext,
    PlanError,
    PlanSteps,
    Reduce,
    RefusedError,
    Region,
    Result,
    Scan,
    Settings,
    quantity,
)

from ..explore.area import dwell, ready
from .overview import at_places, region_of
from .points import KINDS, Point, Sample
from .reference import Reference
from .route import shortest
from .survey import Survey, Surveyed, unpacked
from .tally import Tally

SpectrumKind = BEPS | IV | ForceCurve | EELS | EDS | Diffraction
ENDS = ("budget", "abort", "stop")
MOST_FAILURES = 5  # one after the other
Side = Annotated[int, msgspec.Meta(ge=4, le=4096)]
_CHANGES = (BEPS, IV)  # what leaves a place other than it was


class Forward(Plan):
    """Overview, objects, a short way through places on them, a spectrum at each, and the spectra by kind of place."""

    class Parameters(Settings):
        """What to measure where.

        topic: map of the probability of a wall. variance: topic of its variance, "" = none. threshold, shortest: see
        the plug-in objects. sample: "walls" = every `stride`-th pixel of each wall, and junctions; "junctions" =
        these first; "balanced" = as many on walls, junctions and `beside` them on either side. most: points. region,
        shape, dwell_time: of the overview, None = the instrument's. spectrum: None = the rig's first kind, else one
        that suits the instrument. scalarizer: its name in the rig; "" = the rig's only one, if any. register_every:
        spectra between two looks at a part of `register_side` pixels of the map of register_topic ("" = topic), 0 =
        none. tolerance: how badly known a place may be, in pixels of the overview.
        """

        topic: str = "segment.mean"
        variance: str = ""
        threshold: Annotated[float, quantity("", ge=0.0, le=1.0)] = 0.5
        shortest: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 6
        sample: Sample = "walls"
        stride: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
        beside: Annotated[float, quantity("nm", ge=0.01, le=1e6)] = 50.0
        most: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 200
        region: Region | None = None
        shape: tuple[Side, Side] = (256, 256)
        dwell_time: Annotated[float, quantity("s", gt=0, le=3600)] | None = None
        spectrum: SpectrumKind | None = None
        scalarizer: str = ""
        register_every: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
        register_topic: str = ""
        register_side: Side = 64
        tolerance: Annotated[float, quantity("px", ge=0.1, le=1000)] = 5.0

    def inputs(self) -> tuple[str, ...]:
        """Return the topics that are looked at."""
        p = self.parameters
        return tuple(dict.fromkeys(each for each in (p.topic, p.variance, p.register_topic) if each))

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Measure; return what came of it, also when the budget ends it early."""
        p = self.parameters
        tally = Tally()
        summary: dict[str, Any] = {"topic": p.topic, "sample": p.sample}
        try:
            yield from ready(ctx.info)
            region = region_of(ctx.info, p.region, whole=not p.register_every)
            overview: Result = yield Scan(
                region, p.shape, dwell(ctx.info, p.dwell_time), frame=self._frame, position_tolerance=1.0
            )
            summary |= {"overview_generation": overview.generation, "shape": p.shape}
            found = yield from self._survey(ctx, overview, region)
            summary |= found.summary()
            yield Checkpoint(0.05, found.words())
            if not found.points:
                return {**summary, **tally.summary(), "succeeded": True, "message": f"{found.words()}: no points"}
            places = yield from self._routed(found, summary)
            if "AcquireSpectrum" not in ctx.info.commands:
                none = f"{found.words()}; {ctx.info.name} takes no spectra here: the map and the points are all"
                return {**summary, **tally.summary(), "points": _rows(places), "succeeded": True, "message": none}
            yield from self._measure(ctx, overview, region, places, tally)
        except RefusedError as error:
            return {**summary, **tally.summary(), "succeeded": tally.done > 0 and error.limit in ENDS,
                    "message": f"{tally.words()}; {error}"}  # fmt: skip
        return {**summary, **tally.summary(), "succeeded": tally.done > 0, "message": tally.words()}

    @property
    def _frame(self) -> Literal["scan", "specimen"]:
        return "specimen" if self.parameters.register_every else "scan"

    def _survey(self, ctx: PlanContext, overview: Result, region: Region) -> Generator[Any, Any, Surveyed]:
        """Find objects and points, and how uncertain the map is at these."""
        p = self.parameters
        missing = [topic for topic in self.inputs() if topic not in ctx.inputs]
        if missing:
            raise PlanError(
                f"forward looks at {', '.join(missing)}, which is not there", "name a plug-in that makes it"
            )
        survey = self._surveyor(
            p.shape, (region.width / p.shape[1], region.height / p.shape[0]),
            ctx.info.footprint if isinstance(self._kind(ctx), _CHANGES) else 0.0,
        )  # fmt: skip
        values: tuple[float, ...] = yield Reduce(overview, p.topic, survey)
        found = unpacked(values)
        if p.variance and found.points:
            there: tuple[float, ...] = yield Reduce(overview, p.variance, survey.at(found.points))
            found = msgspec.structs.replace(found, variance=there)
        return msgspec.structs.replace(found, places=at_places(region, found.points))

    def _surveyor(self, shape: tuple[int, int], step: tuple[float, float], apart: float) -> Survey:
        p = self.parameters
        return Survey(shape, step, p.threshold, p.shortest, p.sample, p.stride, p.beside * 1e-9, p.most, apart)

    def places_on(self, image: Any, step: tuple[float, float], apart: float = 0.0) -> list[tuple[float, float]]:
        """Return where this plan would measure on a map (ny, nx) of probabilities, (x, y) [m] from its middle.

        step: of a pixel (x, y) [m]. apart: least distance of two places [m]. Not yet in the order of the way. Raises
        PlanError for what is no map of lines.
        """
        ny, nx = np.shape(image)
        return [(point.x, point.y) for point in unpacked(self._surveyor((ny, nx), step, apart)(image)).points]

    def _routed(self, found: Surveyed, summary: dict[str, Any]) -> Generator[Any, Any, list[_Place]]:
        """Put the points in the order of a short way; say what it gains."""
        p = self.parameters
        first = [i for i, point in enumerate(found.points) if p.sample == "junctions" and point.kind == 0]
        parts = [part for part in (first, [i for i in range(len(found.points)) if i not in set(first)]) if part]
        order: list[int] = []
        length = greedy = 0.0
        for part in parts:
            start = found.places[order[-1]] if order else None
            way = shortest(np.array([found.places[i] for i in part]), start)
            order += [part[i] for i in way.order.tolist()]
            length, greedy = length + way.length, greedy + way.greedy
        gain = 1 - length / greedy if greedy else 0.0
        summary["route"] = {"length": length, "greedy": greedy, "gain": gain}
        yield Checkpoint(0.06, f"{len(order)} points, a way {gain:.0%} shorter than to the nearest each time")
        return [
            _Place(found.points[i], found.places[i], found.variance[i] if found.variance else None) for i in order
        ]

    def _measure(
        self, ctx: PlanContext, overview: Result, region: Region, places: list[_Place], tally: Tally
    ) -> Generator[Any, Any, None]:
        p = self.parameters
        scalarizer, kind = self._scalarizer(ctx), self._kind(ctx)
        pixel = max(region.width / p.shape[1], region.height / p.shape[0])
        reference: Reference | None = None
        if p.register_every:
            reference = yield from Reference.taken(
                overview, region, p.shape, p.register_topic or p.topic, p.register_side, dwell(ctx.info, p.dwell_time)
            )
            tally.registered(0, (yield from reference.look(p.tolerance / 2)))
        failures = 0
        for i, place in enumerate(places):
            if reference is not None and i and i % p.register_every == 0:
                tally.registered(i, (yield from reference.look()))
            command = AcquireSpectrum(
                place.position, kind, frame=self._frame, position_tolerance=min(1.0, p.tolerance * pixel)
            )
            try:
                result: Result = yield command
            except RefusedError as error:
                if error.limit in ENDS:
                    raise
                tally.refused(str(error))
                continue
            except DriverError as error:
                failures += 1
                tally.failed(str(error))
                if failures >= MOST_FAILURES:
                    raise
                continue
            failures = 0
            observed: tuple[Observation, ...] = ()
            if scalarizer:
                observed = yield Observe(result, scalarizer)
            tally.add(place.point, place.position, place.variance, result, observed)
            yield Checkpoint(0.06 + 0.94 * (i + 1) / len(places), tally.words())

    def _kind(self, ctx: PlanContext) -> SpectrumKind:
        chosen: SpectrumKind | None = self.parameters.spectrum or next(iter(ctx.spectra.values()), None)
        return chosen or usual_spectrum(ctx.info)

    def _scalarizer(self, ctx: PlanContext) -> str:
        name: str = self.parameters.scalarizer
        if not name and len(ctx.scalarizers) == 1:
            return ctx.scalarizers[0]
        if name and name not in ctx.scalarizers:
            known = ", ".join(ctx.scalarizers) or "none"
            raise PlanError(f"forward: no scalarizer is called {name!r}", f"the rig has: {known}")
        return name


class _Place(msgspec.Struct, frozen=True):
    point: Point
    position: tuple[float, float]
    variance: float | None


def _rows(places: list[_Place]) -> list[dict[str, Any]]:
    """Return the places as plain data, in the order of the way."""
    return [
        {"position": list(each.position), "kind": KINDS[each.point.kind], "probability": each.point.probability,
         "variance": each.variance}
        for each in places
    ]  # fmt: skip


def usual_spectrum(info: InstrumentInfo) -> SpectrumKind:
    """Return the kind of spectrum that suits the instrument."""
    if info.modality == "stem":
        return EELS(exposure=0.02)
    if info.modality == "stm":
        low, high = info.limits.bias or (-1.0, 1.0)
        return IV(start=max(low, -1.0), stop=min(high, 1.0), n=101)
    return BEPS()
