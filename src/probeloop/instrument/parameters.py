"""What can be told to the gate between commands: the drift, and which aberrations count as measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec.structs import replace

from ..data.control import Accepted, Refused, Reply, SetParameters, StateChange
from ..data.errors import RefusedError, SettingsError
from ..data.scan import Length
from ..data.settings import Settings, convert
from ..data.units import quantity

if TYPE_CHECKING:
    from .desk import ControlDesk


class DriftReference(Settings):
    """A registered reference: drift (x, y) of the specimen in the SCAN frame now [m], sigma [m], peak ratio.

    relative: x and y are from where the drift was thought to be; what is told and recorded is the drift in all.
    """

    x: Length
    y: Length
    sigma: Annotated[float, quantity("m", ge=0.0, le=1.0)]
    peak_ratio: Annotated[float, quantity("", ge=0.0, le=1e9)] = 1e9
    relative: bool = False


class Measured(Settings):
    """Aberrations that were just measured: how long each value holds [s], by knob."""

    knobs: dict[str, Annotated[float, quantity("s", ge=0.0, le=86400.0)]]


TARGETS: dict[str, type[Settings]] = {"drift": DriftReference, "measured": Measured}


def set_parameters(desk: ControlDesk, request: SetParameters) -> Reply:
    """Take new values for a target; the caller holds the desk's lock."""
    if request.target not in TARGETS:
        return Refused(f"no target {request.target!r}", "target", ", ".join(TARGETS))
    told = {} if request.target == "measured" else dict(request.values)
    try:
        values = convert(TARGETS[request.target], request.values, request.target)
        if isinstance(values, DriftReference):
            now = desk.instrument.clock.now_ns()
            (x, y), _ = desk.drift.at(now) if values.relative else ((0.0, 0.0), 0.0)
            shift = (x + values.x, y + values.y)
            desk.drift = desk.drift.registered(now, shift, values.sigma, values.peak_ratio)
            told = {"x": shift[0], "y": shift[1], "sigma": values.sigma, "peak_ratio": values.peak_ratio}
        elif isinstance(values, Measured):
            until = {name: desk.now_ns() + round(held * 1e9) for name, held in values.knobs.items()}
            desk.state = replace(desk.state, measured={**desk.state.measured, **until})
    except SettingsError as error:
        return Refused(error.message, request.target)
    except RefusedError as error:
        desk.journal.tell(StateChange(target="drift", state="failed", reason=error.reason))
        return Refused(error.reason, error.limit, error.allowed)
    desk.journal.tell(StateChange(target=request.target, state="set", data=told))
    return Accepted(epoch=desk.state.epoch)
