"""The shutter's program, from the bench's side: started, and its notes read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class Shutter:
    """`probeloop.testing.hardware` in a process of its own, whatever happens to the rig."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "probeloop.testing.hardware", str(log)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._popen.stdout is not None
        self.port = int(self._popen.stdout.readline())

    def notes(self, since_ns: int = 0) -> list[dict[str, Any]]:
        """Return what was asked of it from a moment on, in order; the last line may be half-written."""
        lines = self._log.read_text(encoding="utf-8").split("\n")[:-1]
        return [note for note in map(json.loads, lines) if note["t"] >= since_ns]

    @property
    def closed(self) -> bool:
        """Whether the beam is off now."""
        notes = self.notes()
        return not notes or bool(notes[-1]["safe"])

    def closed_after(self, since_ns: int) -> float | None:
        """Return how long after a moment it was closed for good [s]: 0 if it was before, None if it is open."""
        if not self.closed:
            return None
        notes = self.notes()
        last_open = max((i for i, note in enumerate(notes) if not note["safe"]), default=-1)
        if last_open < 0 or last_open + 1 >= len(notes):
            return 0.0
        return max(0.0, (int(notes[last_open + 1]["t"]) - since_ns) / 1e9)

    def opened_after(self, since_ns: int) -> bool:
        """Whether anybody opened it since a moment."""
        return any(note["values"].get("blanked") is False for note in self.notes(since_ns))

    def end(self) -> None:
        """Switch it off."""
        self._popen.communicate(timeout=10)
