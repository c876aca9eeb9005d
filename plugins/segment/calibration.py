"""What is set on held-out pictures once the networks are trained: threshold, error estimate, score of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from . import doubt, novelty
from .ensemble import Ensemble, Prediction
from .generators import Generator, generator_of
from .lamellae import lamellae
from .picture import Image, Picture, generator, near
from .prepare import fault
from .proxies import PROXIES, proxy
from .scores import Matched, calibration_error, compared, counted, joined, ridge
from .weights import Card

THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
WEAK = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
NEAR_WALLS = 5.0  # pixels, within which an estimate of errors is asked for
FAMILIAR = 10  # times as many pictures for the frame score
WRONG = 0.2  # times as many of each of the proxies
_WRONG_FROM, _A_KIND = 2 * 10**7, 10**5  # numbers of their pictures
_SAMPLED = 2000  # pixels a frame
Traits = NDArray[np.float64]


def calibrated(
    members: list[Any],
    card: Card,
    seed: int,
    frames: int = 240,
    size: int = 128,
    also: Sequence[Image] = (),
    *,
    familiar: int = FAMILIAR,
    wrong: float = WRONG,
    threads: int = 1,
    step: Callable[[], None] = lambda: None,
) -> Card:
    """Return the card with threshold, error estimate and frame score, from pictures of the calibration seeds.

    also: measured maps that are familiar from now on, beside them. familiar, wrong: times as many pictures for the
    frame score, and of each of the proxies; wrong = 0: the direction towards these stays that of the card. threads:
    pictures that are looked at side by side for that. step: called behind every picture.
    """
    ensemble, made_of = Ensemble(members, card), generator_of(card.trained)
    tried = [(t, w) for t in THRESHOLDS for w in WEAK if w <= t]
    some: list[tuple[Picture, Prediction]] = []
    traits = []
    for i in range(frames):
        picture = made_of(generator("calibration", seed, i), size)
        made = ensemble.predict(picture.values)
        traits.append(made.features)
        if i < max(1, frames // 2):  # the others would only cost memory
            some.append((picture, made))
        step()
    totals = dict.fromkeys(tried, Matched())
    for picture, made in some:
        crests = ridge(made.mean)
        for each in tried:
            totals[each] += compared(joined(crests, made.mean, *each), picture)
    threshold, weak = max(tried, key=lambda each: totals[each].f1)
    numbers = range(frames, familiar * frames)
    more: list[Callable[[], tuple[bool, Traits | None]]]
    more = [partial(_familiar, ensemble, made_of, seed, number, size) for number in numbers]
    if made_of is lamellae:
        pairs = product(range(len(PROXIES)), range(int(np.ceil(wrong * frames))))
        more += [partial(_wrong, ensemble, seed, kind, number, size) for kind, number in pairs]
    odd: list[Traits] = []
    with ThreadPoolExecutor(threads, "calibration") as pool:
        for is_wrong, found in pool.map(lambda call: call(), more):
            if found is not None:
                (odd if is_wrong else traits).append(found)
            step()
    learned = []
    for values in also:
        learned.append(ensemble.features(values))
        step()
    rng = generator("calibration", seed, frames)
    clues, mistaken = [], []
    for picture, made in some:
        asked = np.flatnonzero(near(picture.line, NEAR_WALLS) & counted(picture))
        chosen = rng.permutation(asked)[:_SAMPLED]
        every = doubt.clues(doubt.bends(made.shown), made.mean, made.spread, made.disagreement, threshold)
        clues.append(every.reshape(doubt.CLUES, -1)[:, chosen])
        mistaken.append(((made.mean >= threshold) != picture.wall).reshape(-1)[chosen])
    best = totals[threshold, weak]
    sure = [counted(picture) for picture, _ in some]
    said = np.concatenate([made.mean[where] for (_, made), where in zip(some, sure, strict=True)])
    true = np.concatenate([picture.wall[where] for (picture, _), where in zip(some, sure, strict=True)])
    metrics = {"boundary_f1": round(best.f1, 4), "precision": round(best.precision, 4),
               "recall": round(best.recall, 4), "ece": round(calibration_error(said, true), 4)}  # fmt: skip
    return msgspec.structs.replace(
        card,
        threshold=threshold,
        weak=weak,
        familiar=novelty.fitted(
            np.stack(traits), np.stack(learned) if learned else None, np.stack(odd) if odd else None, card.familiar
        ),
        error=doubt.fitted(np.concatenate(clues, axis=1), np.concatenate(mistaken)),
        trained={**card.trained, "calibration": {"seed": seed, "frames": frames, **metrics}},
    )


def _familiar(ensemble: Ensemble, made_of: Generator, seed: int, number: int, size: int) -> tuple[bool, Traits]:
    """Return that nothing is wrong, and the traits of a picture."""
    return False, ensemble.features(made_of(generator("calibration", seed, number), size).values)


def _wrong(ensemble: Ensemble, seed: int, kind: int, number: int, size: int) -> tuple[bool, Traits | None]:
    """Return that something is wrong, and the traits of a proxy; None for one that is refused anyhow."""
    values = proxy(generator("calibration", seed, _WRONG_FROM + kind * _A_KIND + number), PROXIES[kind], size)
    return True, None if fault(values) else ensemble.features(values)
