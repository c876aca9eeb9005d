"""What a plan may spend, and what it has spent: dose [e], time [s], count of spectra. Changes apply at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..data.commands import ACQUISITIONS, AcquireSpectrum, ApplyPulse, Command
from ..data.control import Cost
from ..data.errors import RefusedError
from ..data.units import display


class Allowance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits; None = the gate's own only. dose [e], time [s] without pauses, count of AcquireSpectrum."""

    dose: float | None = None
    time: float | None = None
    count: int | None = None


class Spent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was spent: dose [e], time [s], count of AcquireSpectrum, invalid ones included."""

    dose: float = 0.0
    time: float = 0.0
    count: int = 0


class Budget:
    """Keeps a plan within its allowance: what measures is refused when it would go over, the rest is let through.

    So a plan that is out of budget can still put the lens back.
    """

    def __init__(self, allowance: Allowance | None = None) -> None:
        self.allowance = allowance or Allowance()
        self.spent = Spent()

    def change(self, values: Mapping[str, Any]) -> None:
        """Set the limits named in `values`; None leaves one as it is."""
        given = {name: value for name, value in values.items() if value is not None}
        self.allowance = msgspec.structs.replace(self.allowance, **given)

    def at(self, elapsed: float) -> None:
        """Be told the time since the start [s], pauses not counted."""
        self.spent = msgspec.structs.replace(self.spent, time=elapsed)

    def charge(self, command: Command, cost: Cost) -> None:
        """Add what an accepted command spent."""
        self.spent = msgspec.structs.replace(
            self.spent,
            dose=self.spent.dose + cost.dose,
            count=self.spent.count + isinstance(command, AcquireSpectrum),
        )

    @property
    def needs_cost(self) -> bool:
        """True when the cost of a command must be known before it is handed over."""
        return self.allowance.dose is not None

    def check(self, command: Command, cost: Cost | None = None) -> None:
        """Raise RefusedError with limit "budget" when `command`, which costs `cost`, would go over."""
        if not isinstance(command, (*ACQUISITIONS, ApplyPulse)):
            return
        most, spent = self.allowance, self.spent
        if most.count is not None and isinstance(command, AcquireSpectrum) and spent.count + 1 > most.count:
            raise RefusedError(f"the budget of {most.count} spectra is spent", "budget", "a higher count")
        if most.time is not None and spent.time + (cost.time if cost else 0.0) > most.time:
            raise RefusedError(f"the budget of {display(most.time, 's')} is spent", "budget", "a longer time")
        if most.dose is not None and spent.dose + (cost.dose if cost else 0.0) > most.dose:
            left = max(0.0, most.dose - spent.dose)
            raise RefusedError(
                f"the dose budget has {left:.3g} e of {most.dose:.3g} e left", "budget", "a higher dose"
            )

    def report(self) -> dict[str, Any]:
        """Return limits and what is spent, as plain data."""
        return {"allowed": msgspec.to_builtins(self.allowance), "spent": msgspec.to_builtins(self.spent)}
