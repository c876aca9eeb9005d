"""The plug-in: walls of the map so far, with what is not sure about them."""

from __future__ import annotations

import contextlib
from collections import deque
from pathlib import Path
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

from .beside import Beside, Finished
from .ensemble import Ensemble
from .generators import weights_at
from .network import library
from .prepare import fault, logarithm

_UNEVEN = 1.5  # ratio of a pixel's sides from which on a wall has another width along x than along y
_MOST = 8192 * 8192
_NAME = Path(__file__).parent.name
_MAPS = 3  # of earlier scans that are kept to learn from, beside the one that is on
_ENOUGH = 0.5  # share of a scan's lines from which on its map is learned from
_AGAIN = 2  # strange maps in a row, from which on networks learn by themselves
_SAYS = (
    8000  # pixels from which on the score of a frame says something: of half as many every fourth one looks strange
)
_ROUNDS = 3  # of retraining by itself, in the life of a process
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
        file of `train segment`; "walls" or "" and "columns" are the shipped ones. retrain: let the networks learn
        from these maps in a process beside, "once" (for another time set "off" in between), or "when_strange", which
        is when maps are unlike the training pictures; the networks are replaced when that has made them better.
        retrained: the file that such weights are kept in; "" = they are forgotten with this process.
        """

        channel: str = ""
        contrast: Literal["difference", "ratio"] = "difference"
        weights: str = ""
        retrain: Literal["off", "once", "when_strange"] = "off"
        retrained: str = ""

    _ensemble: Ensemble | None = None
    _loaded: tuple[str, str] | None = None
    _shape = (256, 256)

    def __init__(self, parameters: Settings | None = None, context: Context | None = None) -> None:
        super().__init__(parameters, context)
        self.beside = Beside(_NAME)
        self._told: deque[str] = deque()
        self._maps: deque[NDArray[np.float32]] = deque(maxlen=_MAPS)
        self._shown: NDArray[np.float32] | None = None
        self._strange = self._rounds = 0
        self._asked = False
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
        self._heed_off()
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
        """Forget the last scan; take new networks, where a retraining has made some."""
        self._last, self.notice = None, ""
        if self._shown is not None:
            self._maps.append(self._shown)
        self._shown, self._strange = None, 0
        self._look()
        self.notice = self._told.popleft() if self._told else ""

    def update(self, data: Any, mask: NDArray[np.bool_] | None = None) -> Outputs | None:
        """Return the walls of `data`, (ny, nx) or (ny, nx, k), NaN where nothing is measured yet.

        None before there are lines enough. A map that can't be segmented gives the walls before it once more.
        """
        self._look()
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
        found: dict[str, NDArray[Any]] = {}
        for name, each in (("mean", made.mean), ("variance", made.variance), ("doubt", made.doubt)):
            whole = np.full(self._shape, np.nan, np.float32)
            whole[some] = np.where(there[some], each, np.nan)
            found[name] = whole[None]
        share = float((made.mean >= card.threshold)[there[some]].mean())
        found["frame"] = np.array([[made.frame, share, 1.0]])
        strange = made.frame > 1 and shown.size >= _SAYS
        self._consider(np.where(there[some], shown, np.nan).astype(np.float32), strange)
        self._last = found
        self.notice = self._told.popleft() if self._told else STRANGE if strange else ""
        return found

    def _consider(self, shown: NDArray[np.float32], strange: bool) -> None:
        """Begin to retrain, where that was asked for and there is enough of a map. shown: (lines so far, nx)."""
        asked = self.parameters.retrain
        self._strange = self._strange + 1 if strange else 0
        self._heed_off()
        if len(shown) < _ENOUGH * self._shape[0]:
            return
        self._shown = shown if asked != "off" else None
        if asked == "off":
            return
        wanted = not self._asked if asked == "once" else self._strange >= _AGAIN and self._rounds < _ROUNDS
        if not wanted or self.beside.running:
            return
        self._asked, self._rounds, self._strange = True, self._rounds + 1, 0
        kept = Path(self.parameters.retrained).expanduser() if self.parameters.retrained else None
        try:
            self.beside.start([*self._maps, shown], self._weights, kept, {"seed": self.context.seed})
        except OSError as error:
            self._told.append(f"no retraining can be started: {error}")
            return
        self._told.append(f"the networks learn from {len(self._maps) + 1} map(s) beside the scan; this takes minutes")

    def _heed_off(self) -> None:
        """End a retraining where none is wanted any more; the next "once" is another time."""
        if self.parameters.retrain == "off":
            self._asked = False
            self._stop("the retraining was stopped")

    def _stop(self, why: str) -> None:
        if self.beside.running:
            self.beside.stop()
            self._told.append(f"{why}; the networks stay as they were")

    def _look(self) -> None:
        """Take what a retraining has made, between two updates; tell what became of it."""
        found = self.beside.look() if self.beside.running else None
        if found is None:
            if how_far := self.beside.progress():
                self._told.append(how_far)
            return
        self._told.append(found.text)
        if found.weights is not None:
            self._swapped(found)

    def _swapped(self, found: Finished) -> None:
        assert found.weights is not None
        try:
            made = Ensemble.from_file(found.weights, self.context.device)
        except DropInError as error:
            self._told.append(f"the retrained networks can't be used, the old ones stay: {error}")
            return
        made.warm(self._shape)
        self._ensemble, self._weights, self.renewed = made, found.weights, True
        self._maps.clear()

    def _refused(self, why: str) -> Outputs | None:
        self.notice = f"nothing is segmented: {why}"
        if self._last is None:
            return None
        return {**self._last, "frame": np.array([[np.nan, np.nan, 0.0]])}

    def _load(self) -> None:
        wanted = (self.parameters.weights, self.context.device)
        if self._ensemble is None or self._loaded != wanted:
            self._stop("the retraining was stopped: it learns from what is not wanted any more")
            path = weights_at(self.parameters.weights)
            self._ensemble = Ensemble.live(path, self.context.device)
            self._loaded, self._weights = wanted, path
            library().set_num_threads(1)  # threads that wait for each other on busy cores take up to 20 times as long
        # the first map of a shape sets up kernels, for seconds on a busy machine: not while a scan runs
        self._ensemble.warm(self._shape)

    def close(self) -> None:
        """Let go of the networks; end a retraining."""
        self.beside.close()
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
