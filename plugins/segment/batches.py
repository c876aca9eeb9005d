"""The pictures that a training learns from, made while it learns: in a thread beside it, or in processes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from .generators import GENERATORS
from .lamellae import USUAL, Ranges, lamellae
from .picture import Picture, generator, near
from .prepare import prepared
from .schedule import OWN, Stage, Training
from .specimens import Field, cut, scans

Batch = tuple[NDArray[np.float32], ...]
_UNSURE = 2.5  # pixels around a wall that noise hides, which count little
_LITTLE = 0.3
_EACH = 6  # scans of every simulated specimen
_OWN_SHARE, _ALL_SHARE = 0.5, 0.2  # of a member's pictures from its own range; of a baseline's from any of them
_WAITING = 3  # batches that are made ahead, for each maker


def picture_of(rng: np.random.Generator, config: Training, own: Ranges | None, known: list[Field]) -> Picture:
    """Return a picture for training. known: `simulated` scans."""
    if config.kind != "walls":
        return GENERATORS[config.kind](rng, config.crop)
    chance = rng.random()
    if known and chance < config.simulated:
        return cut(rng, known, config.crop)
    ranges = USUAL
    if rng.random() < (_ALL_SHARE if own is None else _OWN_SHARE):
        ranges = own or OWN[int(rng.integers(len(OWN)))]
    return lamellae(rng, config.crop, ranges=ranges)


def batch_of(config: Training, stage: Stage, cycle: int, known: list[Field]) -> tuple[NDArray[np.float32], ...]:
    """Return the pictures as the network sees them, what is wall, and what a pixel counts: (n, 1, ny, nx) each."""
    shown, wall, weight = [], [], []
    for i in range(config.batch):
        rng = generator("training", config.seed, (stage.number << 40) + cycle * config.batch + i)
        picture = picture_of(rng, config, stage.own, known)
        turn = (slice(None, None, int(rng.choice([1, -1]))), slice(None, None, int(rng.choice([1, -1]))))
        shown.append(prepared(picture.values)[turn])
        there = picture.wall
        wall.append(there[turn])
        hidden = near(picture.unseen, _UNSURE) & ~there
        weight.append(np.where(hidden, _LITTLE, 1.0)[turn])
    return tuple(np.stack(each)[:, None].astype(np.float32) for each in (shown, wall, weight))


class Pictures:
    """Makes the batches of a training ahead of it, `with` it; scans the simulated specimens when it begins."""

    def __init__(self, config: Training) -> None:
        self.config = config
        self._several = config.makers > 1
        self._pool: Executor = self._makers([]) if self._several else ThreadPoolExecutor(1, "pictures")

    def __enter__(self) -> Pictures:
        config = self.config
        if config.kind != "walls" or not config.simulated:
            return self
        each = [self._pool.submit(scans, "training", config.seed, number, _EACH, config.crop)
                for number in range(config.specimens)]  # fmt: skip
        known = [field for one in each for field in one.result()]
        if self._several:
            self._pool.shutdown()
            self._pool = self._makers(known)
        else:
            _begin(known)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        _known.clear()

    def _makers(self, known: list[Field]) -> Executor:
        # spawned: a fork would have torch's threads and locks, but not the threads that let go of them
        return ProcessPoolExecutor(self.config.makers, multiprocessing.get_context("spawn"), _begin, (known, True))

    def batches(self, stage: Stage, first: int) -> Iterator[Batch]:
        """Yield the batches of a stage from cycle `first` on, see `batch_of`."""
        ahead, waiting = _WAITING * self.config.makers, deque[Future[Batch]]()
        try:
            for cycle in range(first, stage.cycles):
                while len(waiting) < ahead and cycle + len(waiting) < stage.cycles:
                    waiting.append(self._pool.submit(_made, self.config, stage, cycle + len(waiting)))
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


_known: list[Field] = []  # of this process, whose pictures are cut from them


def _begin(known: list[Field], alone: bool = False) -> None:
    _known[:] = known
    if alone and (parent := multiprocessing.parent_process()) is not None:

        def follow() -> None:
            parent.join()
            os._exit(0)  # a parent that was killed tells its makers nothing, and they would wait for ever

        threading.Thread(target=follow, daemon=True).start()


def _made(config: Training, stage: Stage, cycle: int) -> Batch:
    return batch_of(config, stage, cycle, _known)
