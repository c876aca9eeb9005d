"""Holds a scalarizer or a reward against its contract."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.axes import StreamSpec
from ..data.control import Cost
from ..data.errors import CalibrationError, SettingsError
from ..data.settings import Settings
from ..plugin.contract import Context, Observation, Reward, Scalarizer
from .check_plugin import common_faults
from .deadline import deadline
from .streams import every_calibration, example_specs, frames_of


def check_scalarizer(cls: type[Scalarizer], parameters: Settings | None = None, *, limit_s: float = 2.0) -> list[str]:
    """Return every way in which a scalarizer breaks its contract, in words; empty = it keeps it.

    It is tried on smooth, noisy, constant, spiky and missing spectra: (value, sigma, valid) each time, a finite value
    wherever it is valid, the same for the same spectrum, the spectrum untouched.
    """
    faults = common_faults(cls)
    if faults:
        return faults
    accepted = 0
    refusals = []
    for name, spec in example_specs((2, 3)).items():
        try:
            found = _tried(cls, parameters, spec, limit_s)
        except (CalibrationError, SettingsError) as error:
            refusals.append(f"{name}: {error}")
            continue
        except TimeoutError as error:
            return [*faults, str(error)]
        except Exception as error:
            return [*faults, f"{name}: it raises {type(error).__name__}: {error}"]
        accepted += 1
        faults += [f"{name}: {fault}" for fault in found]
    return faults if accepted else [f"it accepts none of the inputs: {'; '.join(refusals)}"]


def _tried(cls: type[Scalarizer], parameters: Settings | None, spec: StreamSpec, limit_s: float) -> list[str]:
    faults: list[str] = []
    for what, spectrum in _spectra(spec).items():
        spectrum.flags.writeable = False
        answers = []
        for _ in range(2):
            made = cls(parameters, Context("check", 1, every_calibration()))
            with deadline(limit_s, "scalarize"):
                answers.append(made.scalarize(spectrum, spec))
            made.close()
        fault = _fault(answers[0])
        if fault:
            faults.append(f"a {what} spectrum: {fault}")
        elif repr(answers[0]) != repr(answers[1]):
            faults.append(f"a {what} spectrum: {answers[0]} the first time, {answers[1]} the second")
    return faults


def _spectra(spec: StreamSpec) -> dict[str, NDArray[Any]]:
    """Return one spectrum of each character for the stream."""
    usual = np.array(frames_of(spec, 1)[0])
    made = {"usual": usual, "constant": np.ones_like(usual), "empty": np.zeros_like(usual)}
    if usual.dtype.kind in "fc" and usual.ndim:
        spiky, holed = usual.copy(), usual.copy()
        spiky[..., :: max(2, spiky.shape[-1] // 5)] = 1e6
        holed[..., ::3] = np.nan
        made |= {"spiky": spiky, "partly missing": holed, "missing": np.full_like(usual, np.nan)}
    return made


def _fault(answer: Any) -> str:
    if not isinstance(answer, tuple) or len(answer) != 3:
        return f"returns {answer!r}, not (value, sigma, valid)"
    value, sigma, valid = answer
    if not isinstance(value, float) or not isinstance(sigma, float) or not isinstance(valid, bool):
        return f"returns {answer!r}, not (float, float, bool)"
    if valid and not math.isfinite(value):
        return f"says that {value} is valid"
    return "" if math.isnan(sigma) or sigma >= 0 else f"has sigma {sigma}, below zero"


def check_reward(cls: type[Reward], parameters: Settings | None = None) -> list[str]:
    """Return every way in which a reward breaks its contract, in words; empty = it keeps it."""
    faults = common_faults(cls)
    if faults:
        return faults
    for value, cost in ((1.0, Cost()), (-2.0, Cost(dose=1e6, time=3.0)), (0.0, Cost(pulses=3))):
        made = cls(parameters, Context("check", 1))
        try:
            found = made.reward(Observation(position=(1e-9, 2e-9), value=value, sigma=0.1), cost)
        except Exception as error:
            return [*faults, f"it raises {type(error).__name__}: {error}"]
        if not isinstance(found, float) or not math.isfinite(found):
            faults.append(f"returns {found!r} for value {value}, not a finite float")
    return faults
