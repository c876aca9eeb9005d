"""Stand-in for usim's spectrometer: every channel counts its own number."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


class EELSCameraSimulator:
    def __init__(self, instrument: Any, shape: Any, counts_per_electron: int) -> None:
        self._shape = shape
        self.noise = None

    def get_frame_data(self, area: Any, binning: Any, exposure: float, context: Any, position: Any) -> Any:
        return SimpleNamespace(data=np.tile(np.arange(self._shape.width, dtype=np.float32), (self._shape.height, 1)))
