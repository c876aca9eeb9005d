"""Spectra at places that a policy chooses, on the map that an overview scan shows."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    BEPS,
    EDS,
    EELS,
    IV,
    AcquireSpectrum,
    Checkpoint,
    Diffraction,
    ForceCurve,
    InstrumentInfo,
    Observation,
    Observe,
    Outputs,
    Plan,
    PlanContext,
    PlanError,
    PlanSteps,
    Policy,
    Position,
    Propose,
    Reduce,
    RefusedError,
    Region,
    Result,
    Scan,
    Settings,
    quantity,
)

from .area import dwell, ready, scan_area

SpectrumKind = BEPS | IV | ForceCurve | EELS | EDS | Diffraction
ENDS = ("budget", "abort", "stop")
Side = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class Explore(Plan):
    """Overview scan, then `count` spectra where the policy `order` suggests."""

    class Parameters(Settings):
        """What to measure.

        order: a policy's name. batch: suggestions at a time. shape, region, dwell_time: of the map, None = the
        instrument's. spectrum: None = the rig's first kind, else one that suits the instrument. scalarizer: its name
        in the rig; "" = the rig's only one, if any. images: topics whose map the policy is shown. settings: of the
        policy.
        """

        order: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,63}$")] = "random"
        count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100
        batch: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
        overview: bool = True
        shape: tuple[Side, Side] | None = None
        region: Region | None = None
        dwell_time: Annotated[float, quantity("s", gt=0, le=3600)] | None = None
        spectrum: SpectrumKind | None = None
        scalarizer: str = ""
        images: tuple[str, ...] = ()
        settings: dict[str, Any] = {}

        def problems(self) -> Sequence[str]:
            """An image can only come from the overview."""
            return ["images: there are none without the overview"] if self.images and not self.overview else []

    def inputs(self) -> tuple[str, ...]:
        """Return the topics the policy is shown."""
        return tuple(self.parameters.images)

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Measure; return what came of it, also when the budget ends it early."""
        wanted = self.parameters
        if "AcquireSpectrum" not in ctx.info.commands:
            raise PlanError(f"{ctx.info.name} takes no spectra", "explore needs AcquireSpectrum; overview does not")
        region, shape = scan_area(ctx.info, wanted.region, wanted.shape)
        log = _Log(region.positions(shape), wanted.count)
        summary: dict[str, Any] = {"order": wanted.order, "shape": shape, "overview_generation": None}
        try:
            policy = ctx.make_policy(wanted.order, wanted.settings)
            images: Outputs = {}
            yield from ready(ctx.info)
            if wanted.overview:
                overview: Result = yield Scan(region, shape, dwell(ctx.info, wanted.dwell_time))
                summary["overview_generation"] = overview.generation
                images = yield from self._images(overview, shape)
            policy.context_images(log.candidates, shape, images)
            yield from self._measure(ctx, policy, log)
        except RefusedError as error:
            if error.limit not in ENDS:
                raise
            return {**summary, **log.summary(str(error))}
        return {**summary, **log.summary("")}

    def _images(self, overview: Result, shape: tuple[int, int]) -> Generator[Any, Any, dict[str, NDArray[Any]]]:
        images = {}
        for topic in self.parameters.images:
            values = yield Reduce(overview, topic, one_value_a_pixel)
            images[topic] = np.asarray(values).reshape(shape)
        return images

    def _measure(self, ctx: PlanContext, policy: Policy, log: _Log) -> Generator[Any, Any, None]:
        scalarizer = self._scalarizer(ctx)
        kind = self.parameters.spectrum or next(iter(ctx.spectra.values()), None) or usual_spectrum(ctx.info)
        while log.measured < log.wanted:
            n = min(self.parameters.batch, log.wanted - log.measured)
            suggested = tuple(policy.suggest(n))
            chosen: tuple[Position, ...] = yield Propose(suggested)
            if not suggested and not chosen:
                return
            for position in chosen:
                result: Result = yield AcquireSpectrum(position, kind)
                if scalarizer:
                    observations = yield Observe(result, scalarizer)
                else:
                    observations = (Observation(position=position, value=0.0, valid=False, reason="no scalarizer"),)
                log.add(position, observations, bool(scalarizer))
                policy.tell(observations)
                yield Checkpoint(log.measured / log.wanted, log.line())

    def _scalarizer(self, ctx: PlanContext) -> str:
        name: str = self.parameters.scalarizer
        if not name and len(ctx.scalarizers) == 1:
            return ctx.scalarizers[0]
        if name and name not in ctx.scalarizers:
            known = ", ".join(ctx.scalarizers) or "none"
            raise PlanError(f"explore: no scalarizer is called {name!r}", f"the rig has: {known}")
        if not name and self.parameters.order not in ("raster", "random"):
            raise PlanError(
                f"explore: {self.parameters.order} needs values to follow", 'name one of the rig\'s in "scalarizer"'
            )
        return name


class _Log:
    """What was measured. candidates: (N, 2) (x, y) [m]."""

    def __init__(self, candidates: NDArray[np.float64], wanted: int) -> None:
        self.candidates = candidates
        self.wanted = min(wanted, len(candidates))
        self.measured = self.invalid = 0
        self.best: Observation | None = None
        self._cells: set[int] = set()
        self._told: dict[tuple[str, int, int], Observation] = {}

    def add(self, position: Position, observations: Sequence[Observation], judged: bool) -> None:
        """Count a measurement at `position`."""
        self.measured += 1
        self._cells.add(int(np.argmin(np.sum((self.candidates - position) ** 2, axis=1))))
        if not judged:
            return
        self._told |= {(each.topic, each.generation, each.index): each for each in observations}
        if any(each.again for each in observations):  # values of before are worth nothing now
            good = {generation for (_, generation, _), each in self._told.items() if each.valid}
            self.invalid, self.best = len({generation for _, generation, _ in self._told} - good), None
            observations = tuple(self._told.values())
        else:
            self.invalid += not any(each.valid for each in observations)
        for each in observations:
            if each.valid and (self.best is None or each.value > self.best.value):
                self.best = each

    def line(self) -> str:
        """Return how far it is, for the operator."""
        best = f", best {self.best.value:.4g}" if self.best is not None else ""
        return f"{self.measured} of {self.wanted} spectra{best}"

    def summary(self, ended: str) -> dict[str, Any]:
        """Return what the plan returns. ended: why it is over early, or ""."""
        best = self.best
        return {
            "succeeded": self.measured > 0,
            "message": self.line() + (f"; {ended}" if ended else ""),
            "spectra_measured": self.measured,
            "spectra_wanted": self.wanted,
            "distinct_cells": len(self._cells),
            "invalid": self.invalid,
            "best": None
            if best is None
            else {
                "value": best.value,
                "sigma": best.sigma,
                "position": list(best.position),
                "topic": best.topic,
                "index": best.index,
            },
        }


def one_value_a_pixel(image: NDArray[Any]) -> tuple[float, ...]:
    """Return the mean over the frame axes of every pixel, flat."""
    values = np.abs(image) if np.iscomplexobj(image) else image
    return tuple(float(v) for v in values.reshape(*values.shape[:2], -1).mean(axis=2).ravel())


def usual_spectrum(info: InstrumentInfo) -> SpectrumKind:
    """Return the kind of spectrum that suits the instrument."""
    if info.modality == "stem":
        return Diffraction(exposure=dwell(info, None))
    if info.modality == "stm":
        low, high = info.limits.bias or (-1.0, 1.0)
        return IV(start=max(low, -1.0), stop=min(high, 1.0), n=101)
    return BEPS()
