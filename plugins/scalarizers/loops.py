"""A hysteresis loop as it is measured: which channel, the bias of every step, and which steps are no measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from probeloop.api import CalibrationError, Settings, StreamSpec, quantity

NEIGHBOURS = 7
CLIPPED = 4  # steps in a row at the very same extreme: the lock-in was at its limit
_STATES = (0.1, 0.9)  # quantiles between which a loop lies, whatever its offset
_FLAT = 6.0  # standard deviations of noise that a step of a flat spectrum may be away
NORMAL = 1.4826  # standard deviation over median absolute deviation, for Gaussian noise

Array = NDArray[np.float64]


class LoopSettings(Settings):
    """Which loop is looked at, and what makes one invalid.

    field: of a spectrum with loops of both, the one measured with the bias off or on; "" = the first. spike: distance
    from the median of 7 neighbours that is replaced; most_peak: largest magnitude that may remain, both in median
    magnitudes of the loop, or half its height without its offset where that is less. most_replaced: share of the
    steps.
    """

    field: Literal["", "off", "on"] = ""
    spike: Annotated[float, quantity("", ge=0.1, le=100.0)] = 1.0
    most_replaced: Annotated[float, quantity("", ge=0.0, le=1.0)] = 6 / 64
    most_peak: Annotated[float, quantity("", ge=1.0, le=1000.0)] = 4.0


@dataclass(frozen=True)
class Loop:
    """A loop (E,): bias [V], response with spikes replaced, which steps were, and whether it can be believed."""

    bias: Array
    response: Array
    replaced: NDArray[np.bool_]
    valid: bool


def loop_of(spectrum: NDArray[Any], spec: StreamSpec, settings: LoopSettings, who: str) -> Loop | None:
    """Return the loop in a spectrum (E,) or (channels, E), of complex the real part; None = hardly anything is there.

    Raises CalibrationError without a bias of every step, or when the field asked for was not measured.
    """
    bias = bias_of(spec, who)
    channels = np.real(np.asarray(spectrum)).astype(np.float64)
    channels = channels.reshape(-1, channels.shape[-1])
    loop = channels[_channel(spec, settings.field, who)]
    if len(loop) != len(bias):
        raise CalibrationError(f"a loop of {len(loop)} steps with a bias of {len(bias)}", "check the waveform")
    there = np.isfinite(loop)
    if np.count_nonzero(there) < max(NEIGHBOURS, len(loop) // 2):
        return None
    clean, replaced = without_spikes(np.where(there, loop, np.median(loop[there])), settings.spike)
    replaced |= ~there
    low, high = np.quantile(clean, _STATES)
    valid = bool(
        np.count_nonzero(replaced) <= settings.most_replaced * len(loop)
        and np.abs(clean).max() <= settings.most_peak * float(np.median(np.abs(clean)))
        and np.abs(clean - (low + high) / 2).max() <= settings.most_peak * (high - low) / 2
        and not clipped(loop)
    )
    return Loop(bias, clean, replaced, valid)


def bias_of(spec: StreamSpec, who: str) -> Array:
    """Return the bias of every step (E,) [V]; raises CalibrationError when the stream doesn't say it."""
    if "bias" in spec.aux:
        return np.asarray(spec.aux["bias"], np.float64)
    axis = spec.sig[-1] if spec.sig else None
    if axis is not None and axis.units == "V" and axis.scale is not None:
        return axis.values()
    raise CalibrationError(f"{who} needs the bias of every step; {spec.name!r} has none", "choose another scalarizer")


def _channel(spec: StreamSpec, field: str, who: str) -> int:
    """Return which channel is the loop of a field; raises CalibrationError."""
    if not field:
        return 0
    for i, channel in enumerate(spec.channels):
        if f"{field}_field" in channel.name:
            return i
    on = spec.aux.get("field_on", ())
    if on and all(bool(each) == (field == "on") for each in on):
        return 0
    raise CalibrationError(
        f"{who}: {spec.name!r} holds no loop with the field {field}", f'measure with field = "{field}" or "both"'
    )


def without_spikes(loop: Array, spike: float) -> tuple[Array, NDArray[np.bool_]]:
    """Return the closed loop (E,) with spikes replaced by the median of 7 neighbours, and which steps those were."""
    half = NEIGHBOURS // 2
    around = np.lib.stride_tricks.sliding_window_view(np.pad(loop, half, mode="wrap"), NEIGHBOURS)
    median = np.median(around, axis=1)
    away = np.abs(loop - median)
    low, high = np.quantile(median, _STATES)
    replaced = away > spike * min(float(np.median(np.abs(loop))), max(float(high - low) / 2, _FLAT * noise_of(loop)))
    return np.where(replaced, median, loop), replaced


def clipped(values: Array, run: int = CLIPPED, *, low: bool = True) -> bool:
    """True when the highest value, or the lowest, is there `run` times in a row: the detector was at its limit."""
    known = values[np.isfinite(values)]
    if known.size < run:
        return False
    for extreme in (known.max(), known.min())[: 1 + low]:
        at = np.concatenate(([0], (values == extreme).astype(np.int8), [0]))
        edges = np.flatnonzero(np.diff(at))
        if edges.size and int((edges[1::2] - edges[::2]).max()) >= run:
            return True
    return False


def noise_of(loop: Array) -> float:
    """Return the standard deviation of the noise of a closed loop (E,), from the scatter between neighbours."""
    curvature = loop - (np.roll(loop, 1) + np.roll(loop, -1)) / 2
    return NORMAL * float(np.median(np.abs(curvature - np.median(curvature)))) / float(np.sqrt(1.5))
