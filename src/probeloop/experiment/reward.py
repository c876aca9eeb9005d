"""What an observation is worth to the policy: weighted rewards, less what it cost.

Without weights a policy hears the scalarizer's value. With weights {"name": w, "dose": a, "time": b} it hears
sum w * reward - a * dose - b * time; an invalid observation earns nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from ..data.control import Cost
from ..data.errors import PlanError
from ..plugin.contract import Observation, Reward

COSTS = ("dose", "time", "pulses")


class Rewards:
    """Rewards of a rig and their weights. Weights named "dose" [1/e], "time" [1/s], "pulses" are of the cost."""

    def __init__(
        self, rewards: Mapping[str, Reward] | None = None, weights: Mapping[str, float] | None = None
    ) -> None:
        self._rewards = dict(rewards or {})
        self.weights: dict[str, float] = {}
        self.change(weights or {})

    @property
    def names(self) -> tuple[str, ...]:
        """Everything a weight may be given to; "value" is the scalarizer's own."""
        return ("value", *self._rewards, *COSTS)

    def unknown(self, weights: Mapping[str, float]) -> list[str]:
        """Return the names that are neither a reward nor a cost."""
        return [name for name in weights if name not in self.names]

    def change(self, weights: Mapping[str, float]) -> None:
        """Set the weights from now on; raises PlanError for an unknown name."""
        if unknown := self.unknown(weights):
            raise PlanError(f"no reward is called {', '.join(unknown)}", f"there are: {', '.join(self.names)}")
        self.weights = dict(weights)

    def applied(self, observation: Observation, cost: Cost) -> Observation:
        """Return the observation with its value as the policy shall hear it; value itself is the reward "value"."""
        if not self.weights:
            return observation
        if not observation.valid:
            return msgspec.structs.replace(observation, value=0.0)
        total, sigma = 0.0, 0.0
        for name, weight in self.weights.items():
            if name in COSTS:
                total -= weight * float(getattr(cost, name))
            elif name == "value":
                total += weight * observation.value
                sigma = abs(weight) * observation.sigma
            else:
                total += weight * self._rewards[name].reward(observation, cost)
        if not math.isfinite(total):
            raise PlanError(f"the rewards {', '.join(self.weights)} gave {total}", "look at the reward drop-in")
        return msgspec.structs.replace(observation, value=total, sigma=sigma)
