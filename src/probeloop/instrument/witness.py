"""Asks a simulator what is true, when something ended: the answers go to the session, never to a topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..data.control import Remark
from ..data.driver import Acquisition, Instrument
from .pump import Delivery

Keep = Callable[[str, Mapping[str, Any]], None]


class Witness:
    """Hands `keep` what `instrument` says is true; keep None = nobody wants it. A failure is told, once for each."""

    def __init__(self, instrument: Instrument, keep: Keep | None, tell: Callable[[Remark], None]) -> None:
        self._instrument, self._keep, self._tell = instrument, keep, tell
        self._told: set[str] = set()

    def look(self, name: str) -> None:
        """Keep what is true now under a name."""
        self._ask(name, getattr(self._instrument, "truth", None))

    def after(self, delivery: Delivery, acquisition: Acquisition, generation: int) -> Delivery:
        """Keep what was true of the frames that have just ended; return their delivery."""
        self._ask(str(generation), acquisition.truth)
        return delivery

    def _ask(self, name: str, truth: Callable[[], Mapping[str, Any]] | None) -> None:
        if self._keep is None or truth is None:
            return
        try:
            self._keep(name, truth())
        except Exception as error:  # a simulator may raise anything; the session goes on
            text = f"the simulator's truth is not kept: {type(error).__name__}: {error}"
            if text not in self._told:
                self._told.add(text)
                self._tell(Remark(text=text, level="warning"))
