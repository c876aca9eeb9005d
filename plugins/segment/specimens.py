"""Pictures from the simulated scanning probe: its domains, its tip and its lock-in, with its truth of the walls.

The specimens are drawn once, from seeds of the use's range, and scanned without noise (a dwell so long that none is
left); each picture is a cut of one of these scans, turned and mirrored, with noise and what a scan adds drawn anew.
For training the domains are thresholds of a random field; for scoring they are the simulator's other kind, a relaxed
phase field, and the picture is a scan as it comes, with the lock-in's own noise.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from probeloop.api import Approach, FrameBuffer, Region, Scan, SetDrive, load_simulator

from .lamellae import scanned
from .picture import SEEDS, Mask, Picture, Use, between, finished, generator
from .scores import thinned

CONTACT = (
    10e-9  # radius over which the response is averaged: no two walls nearer than its diameter are told apart [m]
)
_CHANNEL = "response_trace"
_QUIET = 1000.0  # dwell without noise [s]
_SNR = (8.0, 45.0)
_MARGIN = 1.25  # a scan is wider than the cuts by this


class Field(msgspec.Struct, frozen=True):
    """A scan without noise: response (n, n) complex64, walls (n, n), pixel [m]."""

    response: NDArray[np.complex64]
    line: Mask
    pixel: float


class Specimen:
    """A simulated film and microscope with square pixels and no drift, so that its truth lies where it says."""

    def __init__(self, use: Use, seed: int, number: int) -> None:
        self.rng = rng = generator(use, seed, number)
        start = SEEDS[use].start
        self.parameters = {
            "seed": start + int(rng.integers(2**40)), "pace": "unlimited", "cells": 512, "width": 1200.0,
            "domains": "phase_field" if use == "scoring" else "random_field",
            "domain_size": float(rng.uniform(200, 480)), "in_plane": float(rng.choice([0.0, 0.08, 0.16])),
            "tip_radius": 20.0, "drift": 0.0, "creep": 0.0, "hysteresis": 0.0, "broken_share": 0.0,
        }  # fmt: skip
        self.microscope = load_simulator("spm", self.parameters)
        self.microscope.approach(Approach())
        self.microscope.set_drive(SetDrive(amplitude=1.0))
        self.truth = self.microscope.truth()

    def region(self, pixels: int) -> Region:
        """Return a square somewhere in reach, its pixels 2 to 4.5 nm."""
        low, high = self.microscope.describe().limits.region
        side = min(pixels * float(self.rng.uniform(2.0e-9, 4.5e-9)), 0.99 * (high[0] - low[0]))
        x, y = (float(self.rng.uniform(a + side / 2, b - side / 2)) for a, b in zip(low, high, strict=True))
        return Region(x, y, side, side)

    def scan(self, region: Region, pixels: int, dwell: float) -> NDArray[np.complex64]:
        """Return the response (pixels, pixels) [m] of a scan at `dwell` [s] a pixel."""
        command = Scan(region, (pixels, pixels), dwell, channels=(_CHANNEL,))
        acquisition = self.microscope.scan(command)
        buffer = FrameBuffer.allocate(acquisition.spec, pixels)
        frames: Any = acquisition.frames
        next(frames)
        made = np.zeros((pixels, pixels), np.complex64)
        for row in range(pixels):
            frames.send(buffer)
            made[row] = buffer.data[:pixels]
        frames.close()
        return made

    def walls(self, region: Region, pixels: int) -> Mask:
        """Return the walls on the picture's grid; a needle that the contact can't resolve is one line, its middle."""
        places = region.positions((pixels, pixels))
        cell, edge, last = self.truth["cell"], self.truth["edge"], len(self.truth["up"]) - 1
        column, row = np.clip(((places - edge) / cell).astype(np.int64), 0, last).T
        shape = (pixels, pixels)
        up, lying = self.truth["up"][row, column].reshape(shape), self.truth["in_plane"][row, column].reshape(shape)
        core = resolved(lying, CONTACT * pixels / region.width)
        level = np.zeros(shape)
        return between(up, level) | between(core, level) | thinned(lying & ~core)


def resolved(lying: Mask, reach: float) -> Mask:
    """Return the part of needles (ny, nx) whose two sides are more than twice `reach` [px] apart.

    A needle about as wide as that is taken whole over three times its width, or it would come as a string of beads;
    what is shorter than that is no part.
    """
    far = int(reach) + 1
    offsets = np.arange(-far, far + 1)
    disc = np.hypot(offsets[:, None], offsets[None, :]) <= reach
    padded = np.pad(lying, far, mode="edge")
    core = ndi.binary_opening(padded, disc)
    core = ndi.distance_transform_edt(~core) <= 3 * reach if core.any() else core
    core &= padded
    parts, _ = ndi.label(core)
    sizes = np.bincount(parts.reshape(-1))
    core &= sizes[parts] > 12 * reach**2
    made: Mask = core[far:-far, far:-far]
    return made


def scans(use: Use, seed: int, number: int, each: int, pixels: int) -> list[Field]:
    """Return `each` scans without noise of specimen `number`, `pixels` a side and some more."""
    size, made = int(_MARGIN * pixels), []
    specimen = Specimen(use, seed, number)
    for _ in range(each):
        region = specimen.region(size)
        response = specimen.scan(region, size, _QUIET)
        made.append(Field(response, specimen.walls(region, size), region.width / size))
    specimen.microscope.close()
    return made


def cut(rng: np.random.Generator, known: list[Field], pixels: int) -> Picture:
    """Return a cut (pixels, pixels) of one of the fields, with noise and what a scan adds."""
    field = known[int(rng.integers(len(known)))]
    top, left = rng.integers(0, len(field.line) - pixels + 1, 2)
    some = (slice(top, top + pixels), slice(left, left + pixels))
    response, line = field.response[some].astype(np.complex128), field.line[some]
    turns = int(rng.integers(4))
    response, line = np.rot90(response, turns), np.rot90(line, turns)
    clean = np.abs(response)
    contrast = float(np.subtract(*np.percentile(clean, [95, 5])))
    noise = contrast / float(np.exp(rng.uniform(*np.log(_SNR))))
    grain = rng.normal(0, noise, (2, pixels, pixels))
    measured = np.abs(response + grain[0] + 1j * grain[1])
    clean = np.sqrt(clean**2 + np.pi / 2 * noise**2)  # what is left of a contrast below the noise
    return finished(clean, scanned(rng, measured, contrast), line, noise, CONTACT / field.pixel, "simulated")


def scan(seed: int, number: int, pixels: int) -> Picture:
    """Return a scan for scoring as the simulator makes it, its noise set by the dwell, on a specimen of its own."""
    specimen = Specimen("scoring", seed, number)
    region = specimen.region(pixels)
    clean = np.abs(specimen.scan(region, pixels, _QUIET)).astype(np.float64)
    contrast = float(np.subtract(*np.percentile(clean, [95, 5])))
    noise = contrast / float(np.exp(specimen.rng.uniform(*np.log(_SNR))))
    dwell = 1e-3 * (specimen.microscope.parameters.noise / noise) ** 2
    measured = np.abs(specimen.scan(region, pixels, float(np.clip(dwell, 1e-6, _QUIET))))
    specimen.microscope.close()
    clean = np.sqrt(clean**2 + np.pi / 2 * noise**2)
    width = CONTACT * pixels / region.width
    return finished(clean, measured.astype(np.float64), specimen.walls(region, pixels), noise, width, "simulated")
