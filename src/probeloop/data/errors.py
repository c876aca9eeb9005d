"""Everything probeloop raises on purpose.

ProbeloopError                 one line for the user, with the next move
 ├─ SettingsError              bad parameters or rig file; every fault at once, with key paths
 ├─ DropInError                a plug-in, driver, simulator or plan that can't be found or loaded
 ├─ ContractError              a drop-in that breaks its contract (found by a check_* or at run time)
 ├─ RefusedError               the gate's "no", with the limit and what is allowed
 ├─ CalibrationError           a number that needs a calibration which is absent or expired
 ├─ WireError                  bytes that are no valid block or message
 ├─ BusError                   a topic or service that can't be used
 │   └─ SharedMemoryError      too little shared memory
 ├─ DriverError                the instrument failed or answered nonsense
 ├─ SourceError                a file that can't be read as microscopy
 ├─ RecordError                the session can't be written or read
 └─ PlanError                  a plan that failed, or diverged from its record
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ProbeloopError(Exception):
    """Base of every deliberate error.

    message: what happened, one line. next_move: what the user can do about it, one line or "".
    """

    def __init__(self, message: str, next_move: str = "") -> None:
        self.message = message
        self.next_move = next_move
        super().__init__(message, next_move)

    def __str__(self) -> str:
        return f"{self.message}. {self.next_move}" if self.next_move else self.message


@dataclass(frozen=True)
class Problem:
    """One fault in a mapping: where (dotted key path), what, and what is allowed there."""

    path: str
    message: str
    allowed: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" + (f" (allowed: {self.allowed})" if self.allowed else "")


class SettingsError(ProbeloopError):
    """Faulty settings: `problems` holds every fault found, not only the first."""

    def __init__(self, problems: Sequence[Problem], next_move: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)), next_move)


class DropInError(ProbeloopError):
    """A drop-in that can't be found or loaded."""


class ContractError(ProbeloopError):
    """A drop-in that breaks its contract."""


class RefusedError(ProbeloopError):
    """The gate refused a command: the reason, the limit it would cross, what is allowed."""

    def __init__(self, reason: str, limit: str = "", allowed: str = "") -> None:
        self.reason, self.limit, self.allowed = reason, limit, allowed
        super().__init__(f"refused: {reason}", f"allowed: {allowed}" if allowed else "")


class CalibrationError(ProbeloopError):
    """A calibration that is absent, expired or measured in another state."""


class WireError(ProbeloopError):
    """Bytes that are no valid block or message."""


class BusError(ProbeloopError):
    """A topic or service that can't be used."""


class SharedMemoryError(BusError):
    """Too little shared memory for what the topics reserve."""


class DriverError(ProbeloopError):
    """The instrument failed, went away or answered nonsense."""


class SourceError(ProbeloopError):
    """A file that is missing, truncated or no microscopy."""


class RecordError(ProbeloopError):
    """A session that can't be written or read."""


class PlanError(ProbeloopError):
    """A plan that failed, or whose commands differ from its record."""
