"""What is set on held-out pictures once the networks are trained: threshold, error estimate, score of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from . import doubt, novelty
from .ensemble import Ensemble, Prediction
from .generators import generator_of
from .picture import Image, Picture, generator, near
from .scores import Matched, calibration_error, compared, counted, joined, ridge
from .weights import Card

THRESHOLDS = (0.3, 0.4, 0.5, 0.6)
WEAK = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
NEAR_WALLS = 5.0  # pixels, within which an estimate of errors is asked for
FAMILIAR = 5  # times as many pictures for the frame score
_SAMPLED = 2000  # pixels a frame


def calibrated(
    members: list[Any],
    card: Card,
    seed: int,
    frames: int = 240,
    size: int = 128,
    also: Sequence[Image] = (),
    *,
    step: Callable[[], None] = lambda: None,
) -> Card:
    """Return the card with threshold, error estimate and frame score, from pictures of the calibration seeds.

    also: measured maps that are familiar from now on, beside them. step: called behind every picture.
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
    for i in range(frames, FAMILIAR * frames):
        traits.append(ensemble.predict(made_of(generator("calibration", seed, i), size).values).features)
        step()
    learned = []
    for values in also:
        learned.append(ensemble.predict(values).features)
        step()
    rng = generator("calibration", seed, frames)
    clues, wrong = [], []
    for picture, made in some:
        asked = np.flatnonzero(near(picture.line, NEAR_WALLS) & counted(picture))
        chosen = rng.permutation(asked)[:_SAMPLED]
        every = doubt.clues(doubt.bends(made.shown), made.mean, made.spread, made.disagreement, threshold)
        clues.append(every.reshape(doubt.CLUES, -1)[:, chosen])
        wrong.append(((made.mean >= threshold) != picture.wall).reshape(-1)[chosen])
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
        familiar=novelty.fitted(np.stack(traits), np.stack(learned) if learned else None),
        error=doubt.fitted(np.concatenate(clues, axis=1), np.concatenate(wrong)),
        trained={**card.trained, "calibration": {"seed": seed, "frames": frames, **metrics}},
    )
