"""The guard's own way to a DCU: it ends what the detector does, whatever the instrument's process does."""

from __future__ import annotations

from typing import Any

from .settings import DectrisSettings
from .simplon import Simplon

_WITHIN_S = 0.2  # for an answer, so that two of them are there within 0.5 s


class DectrisPort:
    """A REST connection of its own. Raises DriverError when the DCU is not there."""

    def __init__(self, settings: DectrisSettings) -> None:
        self._simplon = Simplon(settings.host, settings.api_port, _WITHIN_S, settings.api_version)
        self._aborted = False

    def make_safe(self) -> None:
        """End whatever the detector does."""
        self._simplon.command("abort", timeout=_WITHIN_S)
        self._aborted = True

    def read_back(self) -> dict[str, Any]:
        """Return acquiring: armed or counting, by the DCU's state; one without a state is believed once aborted."""
        found = self._simplon.find("status", "state")
        if found is None:
            return {"acquiring": not self._aborted}
        return {"acquiring": found.value in ("ready", "acquire"), "state": str(found.value)}

    def close(self) -> None:
        """Nothing is held."""
