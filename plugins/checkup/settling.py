"""Whether a lens that was turned has come to rest when the instrument says that it has.

A plan is given no frame from before that moment, so it can't measure how long the lens takes; it can see whether the
declared time is too short: two scans after the turn, one of which began at that moment, must show the same from their
first line on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import PlanError, Reduce, Result, SetAberrations

from .capabilities import Steps
from .diffraction import Diffraction
from .readings import Flat, Reading, image_of, plain_image

DIRECTIONS = 4  # pixels of the disc that are looked at
LEAST = 0.3  # of the variance by counting: a difference that matters


def settling(source: Diffraction) -> Steps:
    """Turn C10, scan twice, put it back; compare what the first lines show with what the last lines do."""
    w, place, findings, info = source.wanted, source.known.place, source.findings, source.info
    if "C10" not in info.limits.knobs or "SetAberrations" not in info.commands:
        raise PlanError(f"{info.name} has no knob C10")
    channels = _rim(*source.chosen())
    findings.changed["C10"] = f"{w.defocus * 1e9:+.3g} nm"
    yield SetAberrations({"C10": w.defocus})
    taken: list[list[NDArray[np.float64]]] = []
    for _ in range(2):
        result: Result = yield source.scan(place)
        taken.append([])
        for channel in channels:
            image = image_of((yield Reduce(result, w.pixels, channel_reading(channel))))
            if image is None:
                raise PlanError("the scan shows no image")
            taken[-1].append(image)
    yield SetAberrations({"C10": -w.defocus})
    del findings.changed["C10"]
    early, late, sigma = compared(np.array(taken[0]), np.array(taken[1]))
    moving = early - late > max(LEAST, 5 * sigma)
    declared = info.settling.get("SetAberrations", 0.0)
    words = f"at the {declared * 1e3:.3g} ms that are declared for C10 two scans differ by {early:.2f} of their noise"
    words += f" in their first lines, by {late:.2f} in their last"
    findings.row("settling", "failed" if moving else "passed", words, found=early - late, sigma=sigma, units="")


def compared(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return how much two scans (K, ny, nx) of counts differ in their first and in their last quarter of lines.

    In units of the variance by counting: 1 where they show the same. The third number is the sigma of either.
    """
    square = (first - second) ** 2 / np.maximum(first + second, 1.0)
    quarter = max(1, first.shape[1] // 4)
    count = first.shape[0] * quarter * first.shape[2]
    return float(square[:, :quarter].mean()), float(square[:, -quarter:].mean()), math.sqrt(2 / count) * math.sqrt(2)


def channel_reading(channel: int) -> Reading:
    """Return one channel of a map as an image (`image_of`)."""

    def read_channel(values: NDArray[Any]) -> Flat:
        if values.ndim != 3 or channel >= values.shape[2]:
            return (0.0, 0.0)
        return plain_image(values[..., channel])

    return read_channel


def _rim(chosen: tuple[int, ...], probe: Any) -> tuple[int, ...]:
    """Return the channels that lie furthest out in four directions: a change of focus moves their images most."""
    angles = np.arange(DIRECTIONS) * 2 * np.pi / DIRECTIONS
    out = probe.pixels @ np.array([np.cos(angles), np.sin(angles)])
    return tuple(chosen[int(i)] for i in out.argmax(axis=0))
