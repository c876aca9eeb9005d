"""A Ronchigram: the pattern of a beam at rest and out of focus, a shadow image that shows the lens's aberrations."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from probeloop.api import (
    Annotate,
    Checkpoint,
    Plan,
    PlanContext,
    PlanSteps,
    RefusedError,
    Region,
    Result,
    Scan,
    SetAberrations,
    Settings,
    display,
    quantity,
)

from .area import beam_on

_REST = 1e-12  # [m] all places of the scan together: no beam notices


class Ronchigram(Plan):
    """Exposures of a beam at rest, defocused for them; the lens is put back."""

    class Parameters(Settings):
        """x, y: where. defocus: added to what the lens has. exposure: of each of side x side frames."""

        x: Annotated[float, quantity("nm", ge=-1e6, le=1e6)] = 0.0
        y: Annotated[float, quantity("nm", ge=-1e6, le=1e6)] = 0.0
        defocus: Annotated[float, quantity("nm", ge=-10_000, le=10_000)] = -200.0
        exposure: Annotated[float, quantity("ms", ge=0.01, le=1000)] = 5.0
        side: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8

    def run(self, ctx: PlanContext) -> PlanSteps:
        """Defocus, expose, and focus again."""
        p = self.parameters
        summary: dict[str, Any] = {"succeeded": False, "defocus": p.defocus * 1e-9}
        if "SetAberrations" not in ctx.info.commands or "C10" not in ctx.info.limits.knobs:
            return {**summary, "message": "the instrument has no knob C10"}
        yield from beam_on(ctx.info)
        try:
            yield SetAberrations({"C10": p.defocus * 1e-9})
        except RefusedError as error:
            return {**summary, "message": f"the lens can't be defocused: {error}"}
        yield Annotate(f"Ronchigram, {display(p.defocus * 1e-9, 'm', 3)} of defocus from here")
        region = Region(p.x * 1e-9, p.y * 1e-9, _REST, _REST)
        back, fault = SetAberrations({"C10": -p.defocus * 1e-9}), ""
        try:
            result: Result | None = yield Scan(region, (p.side, p.side), p.exposure * 1e-3)
        except RefusedError as error:
            result, fault = None, str(error)
        try:
            yield back
        except RefusedError as error:
            fault = fault or f"the lens stays out of focus: {error}"
        yield Checkpoint(1.0, "exposed")
        if result is None or result.aborted or fault:
            return {**summary, "message": fault or "the exposure was ended early"}
        done = f"{p.side**2} exposures at rest"
        return {**summary, "succeeded": True, "message": done, "generation": result.generation}
