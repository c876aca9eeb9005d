"""Stand-in for usim's camera: a frame says where its probe was, in nm, a cell off as usim; or zero without a beam.

FAKE_USIM in the environment: "hang", or "fail", at the first frame whose probe is right of the middle.
"""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np


class RonchigramCameraSimulator:
    def __init__(self, instrument: Any, shape: Any, counts_per_electron: int, stage_size_nm: float) -> None:
        self._instrument, self._shape = instrument, shape
        self._angle = np.arcsin(stage_size_nm / (instrument.max_defocus * 1e9)) / shape.height
        self.noise = None

    def get_dimensional_calibrations(self, area: Any, binning: Any) -> Any:
        return [SimpleNamespace(scale=float(self._angle), units="rad")] * 2

    def get_frame_data(self, area: Any, binning: Any, exposure: float, context: Any, position: Any) -> Any:
        fault = os.environ.get("FAKE_USIM", "")
        x, y = (each - 0.5 + 1 / self._shape.width for each in (position.x, position.y))
        if fault and x > 0:
            if fault == "fail":
                raise RuntimeError("a frame that can't be drawn")
            threading.Event().wait()
        data = np.zeros((self._shape.height // binning.height, self._shape.width // binning.width), np.float32)
        if not self._instrument.value_manager.is_blanked:
            data[0] = x * context.fov_nm
            data[1:] = y * context.fov_nm
            data[2] = self._instrument.GetVal("stage_position_m.x") * 1e9
            data[-1] = self._instrument.GetVal("C10") * 1e9
        return SimpleNamespace(data=data)
