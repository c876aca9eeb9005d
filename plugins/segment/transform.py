"""The plug-in: walls of the map so far, with what is not sure about them."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probeloop.api import (
    Axis,
    Context,
    DropInError,
    Outputs,
    Problem,
    ScanTransform,
    Settings,
    SettingsError,
    StreamSpec,
    map_input,
)

from . import doubt
from .ensemble import Ensemble
from .generators import weights_at
from .network import library
from .prepare import fault, logarithm

_UNEVEN = 1.5  # ratio of a pixel's sides from which on a wall has another width along x than along y
_MOST = 8192 * 8192
FRAME = ("novelty", "wall_share", "valid")
STRANGE = (
    "this map is unlike those that the networks were trained on: look at its walls before you trust them, and see "
    "the topic `frame`"
)


class Segment(ScanTransform):
    """Probability of a wall in every pixel of the map so far, its variance over an ensemble, and doubts."""

    every = "seconds"
    interval = 0.5
    takes = "map"
    may_be_nan = True  # where nothing is measured yet
    memory_mb = 1024

    class Parameters(Settings):
        """What the networks are shown.

        channel: of several, by name; "" = the first. contrast: "ratio" shows them the logarithm of what is positive,
        such as an amplitude, so that a wall in a weak domain counts as much as one in a strong domain. weights: a
        file of `train segment`; "walls" or "" and "columns" are the shipped ones.
        """

        channel: str = ""
        contrast: Literal["difference", "ratio"] = "difference"
        weights: str = ""

    _ensemble: Ensemble | None = None
    _loaded: tuple[str, str] | None = None
    _shape = (256, 256)

    def __init__(self, parameters: Settings | None = None, context: Context | None = None) -> None:
        super().__init__(parameters, context)
        with contextlib.suppress(
            DropInError
        ):  # said by `outputs`; to load the library takes seconds that no scan has
            self._load()

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return mean, variance and doubt, (1, ny, nx) float32 each, and frame, (1, 3) float64.

        mean: probability of wall. variance: of it, over the members. doubt: probability that the label is wrong.
        frame: the score of `novelty` (above 1: unlike the training pictures), the share of wall pixels, and 1 where
        the map could be segmented, else 0: then the maps are those before. Raises SettingsError for what is no 2D map
        of real numbers with about square pixels, DropInError without torch or for weights that can't be used.
        """
        wanted = "a 2D map of real numbers, such as an amplitude"
        self._input = found = map_input(spec, self.parameters.channel, wanted=wanted, real=True)
        axes, self._shape = found.axes, found.shape
        if np.prod(found.shape) > _MOST:
            raise SettingsError([Problem("input", f"{spec.name!r} has {found.shape} pixels", f"at most {_MOST}")])
        _check_pixels(spec.name, axes)
        self._load()
        self._last: Outputs | None = None
        maps = {
            name: StreamSpec(name, "image", "<f4", sig=tuple(axes), units=units, origin=spec.origin, may_be_nan=True)
            for name, units in (("mean", ""), ("variance", ""), ("doubt", ""))
        }
        return {
            **maps,
            "frame": StreamSpec("frame", "image", "<f8", sig=(Axis("figure", len(FRAME)),), may_be_nan=True),
        }

    def begin(self, spec: StreamSpec) -> None:
        """Forget the last scan."""
        self._last, self.notice = None, ""

    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Return the walls of `data`, (ny, nx) or (ny, nx, k), NaN where nothing is measured yet.

        None before there are lines enough. A map that can't be segmented gives the walls before it once more.
        """
        values = np.asarray(self._input.of(data), np.float64)
        values = values.reshape(self._shape)
        there = np.isfinite(values)
        if mask is not None:
            there &= np.asarray(mask, bool).reshape(self._shape)
        rows = np.flatnonzero(there.any(axis=1))
        if len(rows) < 3:
            return None
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        why = fault(values[some], there[some])
        if why:
            return self._refused(why)
        assert self._ensemble is not None
        shown = values[some]
        if self.parameters.contrast == "ratio":
            shown = logarithm(shown, there[some])
        made = self._ensemble.predict(shown, there[some])
        card = self._ensemble.card
        doubts = doubt.estimated(made.mean, made.spread, card.threshold, card.error)
        found: dict[str, NDArray[Any]] = {}
        for name, each in (("mean", made.mean), ("variance", made.variance), ("doubt", doubts)):
            whole = np.full(self._shape, np.nan, np.float32)
            whole[some] = np.where(there[some], each, np.nan)
            found[name] = whole[None]
        share = float((made.mean >= card.threshold)[there[some]].mean())
        found["frame"] = np.array([[made.frame, share, 1.0]])
        self._last, self.notice = found, STRANGE if made.frame > 1 else ""
        return found

    def _refused(self, why: str) -> Outputs | None:
        self.notice = f"nothing is segmented: {why}"
        if self._last is None:
            return None
        return {**self._last, "frame": np.array([[np.nan, np.nan, 0.0]])}

    def _load(self) -> None:
        wanted = (self.parameters.weights, self.context.device)
        if self._ensemble is None or self._loaded != wanted:
            self._ensemble = Ensemble.live(weights_at(self.parameters.weights), self.context.device)
            self._loaded = wanted
            library().set_num_threads(1)  # threads that wait for each other on busy cores take up to 20 times as long
        # the first map of a shape sets up kernels, for seconds on a busy machine: not while a scan runs
        self._ensemble.warm(self._shape)

    def close(self) -> None:
        """Let go of the networks."""
        self._ensemble = None


def _check_pixels(name: str, axes: tuple[Axis, ...]) -> None:
    steps = [axis.scale for axis in axes]
    if any(step is not None and not (np.isfinite(step) and step != 0) for step in steps):
        raise SettingsError([Problem("input", f"{name!r} has pixels of {steps} m", "pixels of a finite size")])
    if steps[0] and steps[1]:
        ratio = abs(steps[0] / steps[1])
        if max(ratio, 1 / ratio) > _UNEVEN:
            sides = f"{abs(steps[1]):.3g} x {abs(steps[0]):.3g} {axes[0].units}"
            raise SettingsError([Problem("input", f"{name!r} has pixels of {sides}", "about square pixels")])


__all__ = ["Segment"]
