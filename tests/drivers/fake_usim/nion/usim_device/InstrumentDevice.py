"""Stand-in for usim's instrument: controls in a dict, a scan that draws a ramp."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

PAIRS = ("C12", "C21", "C23", "C32", "C34", "stage_position_m", "beam_shift_m")
SINGLE = {"C10": 5e-7, "C30": 0.0, "EHT": 1e5, "ConvergenceAngle": 0.04, "BeamCurrent": 2e-10, "ZLPoffset": -20.0,
          "S_VOA": 0.0}  # fmt: skip


class AxisManager:
    pass


class ValueManager:
    def __init__(self) -> None:
        self.is_blanked = False
        self.energy_per_channel_eV = 0.5
        self.property_changed_event = SimpleNamespace(fire=lambda name: None)
        self.controls = SINGLE | {f"{name}.{axis}": 0.0 for name in PAIRS for axis in "xy"}


class ScanDataGenerator:
    def __init__(self, *, sample_index: int) -> None:
        self.sample = SimpleNamespace(title=f"sample {sample_index}", features=[], plot_features=lambda *_: None)

    def generate_scan_data(self, instrument: Any, parameters: Any) -> Any:
        ny, nx = parameters.pixel_size
        return np.arange(ny * nx, dtype=np.float64).reshape(ny, nx) + parameters.center_nm[1]


class Instrument:
    counts_per_electron = 40

    def __init__(self, name: str, values: ValueManager, axes: AxisManager, generator: Any) -> None:
        self.value_manager, self.scan_data_generator = values, generator
        self.scan_context = SimpleNamespace(fov_nm=0.0)
        self.scan_context.update = lambda size, centre, fov, angle: setattr(self.scan_context, "fov_nm", fov)

    def set_scan_controller(self, controller: Any) -> None:
        assert controller.scan_device

    def set_probe_position(self, position: Any) -> None:
        assert 0 <= position.x <= 1

    def camera_sensor_dimensions(self, kind: str) -> tuple[int, int]:
        return {"eels": (4, 64)}[kind]

    def TryGetVal(self, name: str) -> tuple[bool, float | None]:
        if name == "C_Blank":
            return True, float(self.value_manager.is_blanked)
        return name in self.value_manager.controls, self.value_manager.controls.get(name)

    def GetVal(self, name: str) -> float:
        return self.value_manager.controls[name]

    def SetVal(self, name: str, value: float) -> bool:
        if name == "C_Blank":
            self.value_manager.is_blanked = bool(value)
        else:
            self.value_manager.controls[name] = value
        return True
