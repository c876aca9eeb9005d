"""The inverse experiment, property to structure: the spectra say which structures to measure next.

After Liu, Kelley, Vasudevan, Ziatdinov and Kalinin, Nat. Mach. Intell. 4 (2022) 341: an overview, a few spectra, and
then each where a model of the value over the structure says so, until the budget is spent. What it learned is shown
while it runs, as topics: prediction, uncertainty, acquisition. The next place is chosen while others are measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    AcquireSpectrum,
    Checkpoint,
    DriverError,
    Observation,
    Observe,
    Plan,
    PlanContext,
    PlanSteps,
    Policy,
    Position,
    Propose,
    RefusedError,
    Region,
    Result,
    Scan,
    Settings,
    Show,
    Submit,
    Ticket,
    Wait,
    quantity,
)

from .area import dwell, ready, scan_area
from .explore import ENDS, Log, Side, SpectrumKind, images_of, needs_spectra, scalarizer_of, spectrum_of
from .objects import Objects, find

MOST_FAILURES, MOST_REFUSED = 5, 20  # one after the other


class Inverse(Plan):
    """Overview, then spectra where the policy `order` suggests; what it makes of the map is shown meanwhile."""

    class Parameters(Settings):
        """What to measure, and what may be changed while it runs: count, batch, pending, pinned, show_every, top.

        order: a policy's name; settings: of it. images: topics whose map it is shown, none = the one the overview
        goes to. scalarizer: its name in the rig, "" = the only one. count: of spectra. batch: suggestions at a time.
        pending: measurements that may be on their way when the next are chosen, 0 = none. pinned: measure only in
        this region, until it is null again. shape, region, dwell_time: of the overview, None = the instrument's.
        spectrum: None = the rig's first kind, else one that suits the instrument. show_every: measurements from one
        set of maps to the next. top: share of the map, by predicted value, that the objects are made of.
        """

        order: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,63}$")] = "pca_gp"
        settings: dict[str, Any] = {}
        images: tuple[str, ...] = ()
        scalarizer: str = ""
        count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 60
        batch: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
        pending: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 1
        pinned: Region | None = None
        shape: tuple[Side, Side] | None = None
        region: Region | None = None
        dwell_time: Annotated[float, quantity("s", gt=0, le=3600)] | None = None
        spectrum: SpectrumKind | None = None
        show_every: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
        top: Annotated[float, quantity("", gt=0, le=0.5)] = 0.01

    def inputs(self) -> tuple[str, ...]:
        """Return the topics the policy is shown."""
        return tuple(self.parameters.images)

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Measure; return what came of it, also when the budget ends it early."""
        p = self.parameters
        needs_spectra(ctx.info)
        region, shape = scan_area(ctx.info, p.region, p.shape)
        scan = Scan(region, shape, dwell(ctx.info, p.dwell_time))
        scalarizer, kind = scalarizer_of(ctx, p.scalarizer, p.order), spectrum_of(ctx, p.spectrum)
        policy = ctx.make_policy(p.order, p.settings)
        run = _Run(self, policy, Log(region.positions(shape), p.count), scan, scalarizer, kind)
        try:
            yield from ready(ctx.info)
            overview: Result = yield scan
            if overview.aborted:
                return {**run.summary(""), "message": "the overview was ended early"}
            topics = p.images or tuple(topic for topic in (overview.topic,) if topic in ctx.inputs)
            run.overview, run.topics = overview, topics
            images = yield from images_of(overview, topics, shape)
            policy.context_images(run.log.candidates, shape, images)
            yield from run.measure()
            yield from run.show(last=True)
        except RefusedError as error:
            if error.limit not in ENDS:
                raise
            if error.limit == "budget" and run.overview is not None:
                yield from run.show(last=True)
            return run.summary(str(error))
        return run.summary(run.ended)


class _Run:
    """One run under way."""

    def __init__(
        self, plan: Inverse, policy: Policy, log: Log, scan: Scan, scalarizer: str, kind: SpectrumKind
    ) -> None:  # fmt: skip
        self._plan, self._policy, self.log = plan, policy, log
        self._scan, self._scalarizer, self._kind = scan, scalarizer, kind
        self._counts = scalarizer  # the operator may put another in its place
        self.overview: Result | None = None
        self.topics: tuple[str, ...] = ()
        self.ended = ""
        self._waiting: deque[tuple[Ticket, Position]] = deque()
        self._places: list[Position] = []
        self._failures = self._failed = self._refused = self._in_a_row = self._not_wanted = 0
        self._notices: list[str] = []
        self._shown: tuple[str, ...] = ()
        self._shown_at = -1
        self._pinned: Region | None = None

    @property
    def _left(self) -> int:
        """How many more are to be submitted."""
        count: int = self._plan.parameters.count
        return min(count, len(self.log.candidates)) - self.log.measured - len(self._waiting)

    def measure(self) -> Generator[Any, Any, None]:
        """Suggest, submit, observe, tell; raises the budget's RefusedError when all that was on its way is in."""
        over: RefusedError | None = None
        while True:
            nothing = False
            while over is None and not nothing and self._left > 0:
                if len(self._waiting) > self._plan.parameters.pending:
                    break
                try:
                    nothing = not (yield from self._suggest())
                except RefusedError as error:
                    if error.limit != "budget":
                        raise
                    over = error
            if not self._waiting:
                break
            yield from self._take(*self._waiting.popleft())
        if over is not None:
            raise over
        if self._left > 0:
            where = "inside the pinned region" if self._pinned is not None else "any more"
            self.ended = f"{self._plan.parameters.order} suggests nothing {where}"

    def _suggest(self) -> Generator[Any, Any, bool]:
        """Choose places and submit them; False where there is nothing to choose."""
        self._pin()
        self.log.wanted = min(self._plan.parameters.count, len(self.log.candidates))
        wanted = tuple(self._policy.suggest(min(self._plan.parameters.batch, self._left)))
        suggested = tuple(each for each in wanted if self._is_inside(each))
        chosen: tuple[Position, ...] = yield Propose(suggested)
        self._not_wanted += sum(each not in chosen for each in wanted)
        yield from self._notice()
        for position in chosen:
            try:
                ticket: Ticket = yield Submit(AcquireSpectrum(position, self._kind))
            except RefusedError as error:
                if error.limit in ENDS:
                    raise
                self._refused += 1
                self._in_a_row += 1
                if self._in_a_row >= MOST_REFUSED:
                    raise
                yield Checkpoint(self._done, f"{self.log.line()}; {error}")
                continue
            self._in_a_row = 0
            self._waiting.append((ticket, position))
        return bool(wanted or chosen)

    def _notice(self) -> Generator[Any, Any, None]:
        """Tell what the policy has to say, once."""
        said = self._policy.notice
        if said and said not in self._notices:
            self._notices.append(said)
            yield Checkpoint(self._done, f"{self._plan.parameters.order}: {said}")

    def _pin(self) -> None:
        """Take over the region that the operator pinned; one without a candidate is as good as none."""
        pinned = self._plan.parameters.pinned
        self._pinned = pinned if pinned is not None and pinned.holds(self.log.candidates).any() else None
        self._policy.pinned = self._pinned

    def _is_inside(self, position: Position) -> bool:
        return self._pinned is None or bool(self._pinned.holds(np.array([position]))[0])

    def _take(self, ticket: Ticket, position: Position) -> Generator[Any, Any, None]:
        """Wait for a measurement, tell the policy, and show what it makes of it."""
        try:
            (result,) = yield Wait((ticket,))
        except DriverError as error:
            self._failures += 1
            self._failed += 1
            if self._failures >= MOST_FAILURES:
                raise
            self._policy.tell([_none(position, str(error))])
            yield Checkpoint(self._done, f"{self.log.line()}; {error}")
            return
        self._failures = 0
        observed: Sequence[Observation] = [_none(position, "no scalarizer")]
        if self._scalarizer:
            observed = yield Observe(result, self._scalarizer)
        self.log.add(position, observed, bool(self._scalarizer))
        self._counts = next((each.scalarizer for each in observed if each.scalarizer), self._counts)
        self._places.append(position)
        self._policy.tell(observed)
        yield from self.show()
        yield Checkpoint(self._done, self._line())

    @property
    def _done(self) -> float:
        return self.log.measured / max(1, self.log.measured + self._left + len(self._waiting))

    def _line(self) -> str:
        line = self.log.line()
        if self._plan.parameters.pinned is not None:
            line += ", in the pinned region" if self._pinned else "; the pinned region holds no candidate: everywhere"
        return line

    def show(self, last: bool = False) -> Generator[Any, Any, None]:
        """Put the policy's maps on their topics, every so many measurements and at the end."""
        measured = self.log.measured
        due = measured % self._plan.parameters.show_every == 0 or last
        if due and measured and measured != self._shown_at and self.overview is not None:
            self._shown_at = measured
            self._shown = yield Show(self._scan, self.overview, self._policy.maps, self._scalarizer)

    def summary(self, ended: str) -> dict[str, Any]:
        """Return what the plan returns. ended: why it is over early, or ""."""
        p, shape = self._plan.parameters, self._scan.shape
        objects = self._objects() if self.log.measured else Objects()
        words = f"; {objects.words()}" if objects.share else ""
        return {
            **self.log.summary(ended),
            "message": self.log.line() + words + (f"; {ended}" if ended else ""),
            "order": p.order,
            "shape": shape,
            "failed": self._failed,
            "refused": self._refused,
            "not_wanted": self._not_wanted,
            "notices": self._notices[-20:],
            "overview_generation": self.overview.generation if self.overview is not None else None,
            **objects.summary(),
            "learned": {
                "maps": list(self._shown),
                "images": list(self.topics),
                "scalarizer": self._counts,
                "spectrum": msgspec.to_builtins(self._kind),
                "region": msgspec.to_builtins(self._scan.region),
                "shape": shape,
                "generation": self.overview.generation if self.overview is not None else None,
            },
        }

    def _objects(self) -> Objects:
        try:
            maps, linked = self._policy.maps(), self._policy.linked()
        except Exception:  # told already, when it was to be shown
            return Objects()
        shape = self._scan.shape
        usable: dict[str, NDArray[np.float64]] = {
            name: np.asarray(values, np.float64)
            for name, values in maps.items()
            if name in ("prediction", "uncertainty") and np.shape(values) == shape
        }
        if "prediction" not in usable:
            return Objects()
        share = self._plan.parameters.top
        uncertainty = usable.get("uncertainty")
        return find(usable["prediction"], uncertainty, self.log.candidates, share, self._places, linked)


def _none(position: Position, reason: str) -> Observation:
    return Observation(position=position, value=0.0, valid=False, reason=reason)
