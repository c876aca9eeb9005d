"""The loop that holds the tip at the surface: its state, its gains, where z is."""

from __future__ import annotations

from typing import Literal

import numpy as np

from probeloop.api import DriverError, SetFeedback, display

from .kernels import COMMAND, DEFLECTION, ERROR, HIGHEST, SPEED, STATE, SURFACE, TOUCHING, Z, piezo_step
from .tip import SPRING

Contact = Literal["withdrawn", "approaching", "engaged", "held"]
RAIL = 2e-6  # z goes this far up and down from its middle [m]
_SETPOINTS = (1e-9, 500e-9)  # [N]
_PROPORTIONAL, _INTEGRAL = (0.0, 5.0), (0.0, 1e5)


class Feedback:
    """A PI controller on the deflection. setpoint [N]; proportional (no unit); integral [1/s]."""

    def __init__(self) -> None:
        self.contact: Contact = "withdrawn"
        self.closed = True
        self.setpoint, self.proportional, self.integral = 60e-9, 0.1, 1500.0
        self.state = np.zeros(STATE)
        self.piezo = piezo_step()
        self.retract(1e-6)

    @property
    def bend(self) -> float:
        """The deflection that the loop wants [m]."""
        return self.setpoint / SPRING

    def set(self, command: SetFeedback) -> None:
        """Take gains and set point; raises DriverError with what is allowed."""
        asked = (
            ("setpoint", command.setpoint, _SETPOINTS, "N"),
            ("proportional", command.proportional, _PROPORTIONAL, ""),
            ("integral", command.integral, _INTEGRAL, "Hz"),
        )
        for name, value, (low, high), units in asked:
            if value is not None and not low <= value <= high:
                allowed = f"{display(low, units)} to {display(high, units)}"
                raise DriverError(f"a {name} of {display(value, units)}", f"allowed: {allowed}")
        for name, value, _, _ in asked:
            if value is not None:
                setattr(self, name, float(value))
        self.closed = command.state == "on"
        if self.contact in ("engaged", "held"):
            self.contact = "engaged" if self.closed else "held"

    def engage(self, surface: float) -> None:
        """Stand on `surface` [m] with the deflection that is wanted."""
        self.contact = "engaged" if self.closed else "held"
        self.state[:] = 0.0
        self.state[TOUCHING] = 1.0
        self.follow(surface, settled=True)

    def follow(self, surface: float, settled: bool = False) -> None:
        """Be at another place, whose surface is so high [m], after a move that the loop could follow if it is on."""
        if self.contact not in ("engaged", "held"):
            return
        state = self.state
        state[SURFACE] = surface
        if self.closed or settled:
            state[Z] = state[COMMAND] = surface - self.bend
            state[SPEED] = state[ERROR] = 0.0
        bend = surface - state[Z]
        state[TOUCHING] = float(bend > 0 or (state[TOUCHING] > 0 and bend > -8e-9))
        state[DEFLECTION] = bend if state[TOUCHING] else 0.0
        state[HIGHEST] = state[DEFLECTION]

    def retract(self, distance: float) -> None:
        """Take the tip away by `distance` [m], the rest of it by the coarse drive."""
        self.contact, self.closed = "withdrawn", True
        self.state[:] = 0.0
        self.state[Z] = self.state[COMMAND] = min(RAIL, self.state[SURFACE] + distance)
