"""Names of ours and of Nion's for what the driver sets and reads."""

from __future__ import annotations

from probeloop.api import nion_control

# largest turn [m]: at 40 mrad a ray is moved by C10 * 40e-3, C21 * 1.6e-3, C30 * 64e-6
KNOBS = {
    "C10": 2e-6, "C12a": 2e-6, "C12b": 2e-6, "C21a": 2e-5, "C21b": 2e-5, "C23a": 2e-5, "C23b": 2e-5,
    "C30": 1e-3, "C32a": 1e-3, "C32b": 1e-3, "C34a": 1e-3, "C34b": 1e-3,
}  # fmt: skip
CONTROLS = {name: nion_control(name) for name in KNOBS}
SPECTROMETER = {"energy_offset": "ZLPoffset", "dispersion": "energy_per_channel_eV"}
READ = {
    "beam_current": "BeamCurrent",
    **SPECTROMETER,
    "voltage": "EHT",
    "convergence_angle": "ConvergenceAngle",
    "stage_x": "stage_position_m.x",
    "stage_y": "stage_position_m.y",
    "shift_x": "beam_shift_m.x",
    "shift_y": "beam_shift_m.y",
    **CONTROLS,
}
BLANK = "C_Blank"
