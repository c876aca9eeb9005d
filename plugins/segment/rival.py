"""What `bench segment` measures against: prediction as published, written from the facts about it.

The published predictor keeps one network in memory, loads the weights of every member into it at every call, computes
in float32 with channels first, and turns the members' maps into float64 before it takes mean and variance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .network import library


def eager(network: Any, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability of wall (ny, nx) of one network, in torch's plain way."""
    torch = library()
    with torch.no_grad():
        made: NDArray[np.float32] = torch.sigmoid(network(torch.from_numpy(picture)[None, None]))[0, 0].numpy()
    return made


class PublishedPredictor:
    """states: the state dictionaries of the members. network: one of their size."""

    def __init__(self, network: Any, states: list[dict[str, Any]]) -> None:
        self.network, self.states = network.eval(), states

    def predict(self, picture: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and variance over members, (ny, nx) float64."""
        made = []
        for state in self.states:
            self.network.load_state_dict(state)
            self.network.eval()
            made.append(eager(self.network, picture).astype(np.float64))
        together = np.stack(made)
        return together.mean(axis=0), together.var(axis=0)
