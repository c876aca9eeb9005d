"""What a simulated Merlin can be asked and told: names, ranges, return codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

OK, BUSY, UNKNOWN, OUT_OF_RANGE = 0, 1, 2, 3
_RANGES: dict[str, tuple[float, float]] = {
    "ACQUISITIONTIME": (1e-3, 1e7), "ACQUISITIONPERIOD": (1e-3, 1e7), "NUMFRAMESTOACQUIRE": (1, 1e8),
    "NUMFRAMESPERTRIGGER": (1, 1e8), "TRIGGERSTART": (0, 5), "TRIGGERSTOP": (0, 5), "THRESHOLD0": (0, 511),
    "CONTINUOUSRW": (0, 1), "FILEENABLE": (0, 1), "RUNHEADLESS": (0, 1), "HVBIAS": (0, 300),
}  # fmt: skip
_CHOICES: dict[str, tuple[float, ...]] = {"COUNTERDEPTH": (1, 6, 12, 24), "FILEFORMAT": (0, 2)}
_START = {
    "ACQUISITIONTIME": 1.0, "ACQUISITIONPERIOD": 1.0, "NUMFRAMESTOACQUIRE": 1, "NUMFRAMESPERTRIGGER": 1,
    "TRIGGERSTART": 0, "TRIGGERSTOP": 0, "THRESHOLD0": 40.0, "CONTINUOUSRW": 1, "FILEENABLE": 0, "RUNHEADLESS": 0,
    "HVBIAS": 120.0, "COUNTERDEPTH": 12, "FILEFORMAT": 0,
}  # fmt: skip


class Values:
    """The settings, and the replies about them.

    own(name): what can only be read, None = unknown. busy(): while nothing may be set. command(name): carries one out
    and returns its code. refuse: name -> code of every request about it.
    """

    def __init__(
        self, own: Callable[[str], str | None], busy: Callable[[], bool], command: Callable[[str], int],
        refuse: Mapping[str, int],
    ) -> None:  # fmt: skip
        self.now: dict[str, float] = dict(_START)
        self.refuse = dict(refuse)
        self._own, self._busy, self._command = own, busy, command

    def answer(self, request: str) -> str:
        """Return the reply to a request such as SET,COUNTERDEPTH,12; a CMD may end in ",0"."""
        verb, _, rest = request.partition(",")
        name, _, value = rest.partition(",")
        code = self.refuse.get(name, OK)
        if verb == "GET":
            told = None if code else self._told(name)
            return f"GET,{name},0,{code or UNKNOWN}" if told is None else f"GET,{name},{told},{OK}"
        if verb == "SET":
            return f"SET,{name},{code or self._set(name, value)}"
        return f"{verb},{name},{code or (self._command(name) if verb == 'CMD' else UNKNOWN)}"

    def _told(self, name: str) -> str | None:
        return self._own(name) or (f"{self.now[name]:.9g}" if name in self.now else None)

    def _set(self, name: str, text: str) -> int:
        if name not in self.now:
            return UNKNOWN
        if self._busy():
            return BUSY
        try:
            value = float(text)
        except ValueError:
            return OUT_OF_RANGE
        low, high = _RANGES.get(name, (-math.inf, math.inf))
        if not low <= value <= high or value not in _CHOICES.get(name, (value,)):
            return OUT_OF_RANGE
        self.now[name] = value
        return OK
