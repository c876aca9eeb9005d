"""What a fault is, and what came of one injection."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .rig import ChaosRig

Verdict = Literal["contained", "stopped", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    """contained: only the victim noticed. stopped: safe state. refused: with the reason. failed: none of these.

    recovery_s: until the victim was back, or the hardware safe [s]. kills: signals that were sent. notes: figures of
    its own. problems: in words; with one it counts as failed. left: what a run of its own left behind.
    corrupt: blocks that another host received and nobody sent.
    """

    verdict: Verdict
    recovery_s: float | None = None
    kills: int = 0
    notes: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    corrupt: int = 0


@dataclass(frozen=True)
class Fault:
    """One fault of the campaign. row: of its table. victim: process whose restarts it uses up, "" = none.

    inject: in a running rig. ends: the rig ends with it. lacks: returns why it can't be injected here, or "".
    """

    name: str
    row: int
    what: str
    inject: Callable[[ChaosRig, random.Random], Outcome]
    victim: str = ""
    ends: bool = False
    lacks: Callable[[], str] = lambda: ""


@dataclass(frozen=True)
class Start:
    """A fault that a rig meets at its start; it makes a run of its own in a folder."""

    name: str
    row: int
    what: str
    run: Callable[[Path, random.Random], Outcome]
    lacks: Callable[[], str] = lambda: ""


def failed(*problems: str) -> Outcome:
    """Return the outcome of a fault that was not survived as it must be."""
    return Outcome("failed", problems=problems)


def survivors(rig: ChaosRig, before: dict[str, int]) -> tuple[str, ...]:
    """Return in words which of the processes `before` are not the same any more."""
    return tuple(f"{name} died too" for name, pid in before.items() if rig.pid(name) != pid)
