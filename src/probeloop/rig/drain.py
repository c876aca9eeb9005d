"""The end of a run: what was published is processed and recorded before its processes end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from ..data import control
from ..data.errors import BusError, WireError
from ..plugin.instance import service_name

MOST_S = 3.0  # what a plug-in has not done by then is not waited for
_BETWEEN_S = 0.05
_ANSWER_S = 0.5

Ask = Callable[[str, control.Request, float], control.Reply]


def drain(ask: Ask, plugins: Iterable[str], turn: Callable[[float], None], seconds: float = MOST_S) -> bool:
    """Wait until plug-ins and recorder stand still: they have read what there is; False when that takes too long.

    A reader looks at its topics between two answers, so two equal answers mean that nothing was left.
    ask: sends a request to a service within a time [s]. turn: lets so much time [s] pass.
    """
    names = sorted(plugins)
    deadline = time.monotonic() + seconds
    before: list[Any] | None = None
    while time.monotonic() < deadline:
        now = [_next_frames(ask, name) for name in names]
        now.append(_recorded(ask))
        if now == before:
            return True
        before = now
        turn(_BETWEEN_S)
    return False


def _state(ask: Ask, service: str) -> dict[str, Any]:
    """Return what a process says of itself: nothing where none runs, another thing each time while it is at work."""
    began = time.monotonic()
    try:
        reply = ask(service, control.Describe(), _ANSWER_S)
    except (BusError, WireError):
        late = time.monotonic() - began >= _ANSWER_S
        return {"plugins": object(), "topics": object()} if late else {}
    return reply.state if isinstance(reply, control.Description) else {}


def _next_frames(ask: Ask, name: str) -> Any:
    """Return the next frame by topic that a plug-in waits for."""
    told = _state(ask, service_name(name)).get("plugins", {})
    return told.get(name, {}).get("next") if isinstance(told, dict) else told


def _recorded(ask: Ask) -> Any:
    """Return the frames by topic that the recorder took."""
    told = _state(ask, "recorder").get("topics", {})
    return {name: entry.get("frames") for name, entry in told.items()} if isinstance(told, dict) else told
