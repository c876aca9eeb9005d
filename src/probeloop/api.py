"""The one door for drop-ins: plug-ins, drivers, simulators and the GUI import from here and nowhere else.

Names are loaded when first used, so that a driver does not pay for what only a plug-in needs.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "compute.backend": "array_module",
    "compute.detector": "DetectorGeometry detector_to_scan standard_annuli",
    "compute.kernels": "VirtualDetectors",
    "data.aberrations": "Aberrations blur_radius chi from_polar interaction nion_control strehl wavelength",
    "data.assemble": "assemble empty_map is_pixel",
    "data.axes": "Axis Channel StreamSpec",
    "data.calibration": "Calibration CalibrationSet",
    "data.clock": "Clock ManualClock MonotonicClock VirtualClock",
    "data.commands": "BEPS EDS EELS IV AcquireReference AcquireSpectrum Annotate ApplyPulse Approach Blank Command "
    "Diffraction ForceCurve Lift MoveProbe MoveStage Pause Read Resume Scan ScanPath SetAberrations SetBeam SetBias "
    "SetDetector SetDrive SetFeedback SetOptics SetPhasePlate SetShift SetSpectrometer Settle Stop Unblank "
    "VendorRoutine Withdraw",
    "data.control": "Abort Accepted AddPoint Approve Cost Describe Description Disable Done Enable Event Failed Gap "
    "Generation Heartbeat Note Observed Progress Rearm Refused ReleaseControl Reload Remark Reply Request Result "
    "Revision Run SetBudget SetParameters SetReward Shutdown StartRecording StateChange StopRecording TakeControl "
    "Trace Verdict Veto",
    "data.copying": "copy_into",
    "data.driver": "Acquisition Grid Instrument InstrumentInfo detector_alone",
    "data.errors": "BusError CalibrationError ContractError DriverError DropInError PlanError Problem ProbeloopError "
    "RecordError RefusedError SettingsError SharedMemoryError SourceError WireError",
    "data.frame": "BlockFlag FrameBlock FrameBuffer FrameFlag",
    "data.latency": "Histogram LOOP_STAGES LOOP_TOTALS Timings read_histograms",
    "data.limits": "Alarm Limits",
    "data.maps": "MapInput map_input",
    "data.processes": "is_alive",
    "data.scan": "Position Region visit_order",
    "data.settings": "Settings",
    "data.units": "convert display quantity to_si",
    "discover": "load_class load_simulator",
    "plugin.instance": "load_scalarizer",
    "record.reader": "open_session",
    "plugin.contract": "Checkpoint Context FrameTransform JoinTransform NoParameters Observation Observe Outputs "
    "Plan PlanContext PlanSteps Policy Propose Reduce Register Reward Scalarizer ScanTransform Show Submit "
    "Ticket Wait",
    "rig.client": "Connection Events StopDoor",
}
_HOME = {name: module for module, names in _WHERE.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"probeloop.api has no {name!r}")
    value = getattr(importlib.import_module(f"probeloop.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
