"""Where a measurement is likely to fail, learned from those that did.

Failed spectra come in clusters, in places that look alike, and where the image itself looks odd: what spoils a fit
often spoils the image too. A Gaussian process classifier over these (Rasmussen and Williams 2006, section 3.4) adds
up what each tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

Rows = NDArray[np.float64]
STRENGTHS = (0.5, 1.0, 2.0, 4.0)  # deviation of what one kind of likeness may tell, in logits
_STEPS = 50  # of Newton's method
_DONE = 1e-6  # change of a logit


def probability_valid(
    spaces: Sequence[Rows],
    measured: NDArray[np.int64],
    valid: NDArray[np.bool_],
    strengths: Sequence[float] = STRENGTHS,
) -> Rows:
    """Return the probability (N,) that a measurement at each candidate is valid; 1 where none ever failed.

    spaces: of the candidates, (N, q) each, in units of how far one measurement speaks for its surroundings. measured
    (n,): indices of those that were, valid (n,). strengths: of the likeness, weighted by their evidence, so that
    failures without a reason blame nothing. At the posterior's mode; far from all it is the overall share.
    """
    count = len(spaces[0])
    if valid.all():
        return np.ones(count)
    share = (valid.sum() + 1) / (len(valid) + 2)
    prior = float(special.logit(share))
    likeness = np.zeros((count, len(measured)))
    for each in spaces:
        likeness += _likeness(each, each[measured])
    labels = np.where(valid, 1.0, 0.0)
    found = [_mode(each**2 * likeness[measured], labels, prior) for each in strengths]
    evidence = np.array([each[1] for each in found])
    weights = np.exp(evidence - evidence.max())
    made = [special.expit(prior + s**2 * (likeness @ pull)) for s, (pull, _) in zip(strengths, found, strict=True)]
    mixed: Rows = np.average(made, axis=0, weights=weights)
    return mixed


def _likeness(a: Rows, b: Rows) -> Rows:
    made: Rows = a @ b.T
    made -= 0.5 * (b**2).sum(1)
    made -= 0.5 * (a**2).sum(1)[:, None]
    return np.exp(np.minimum(made, 0.0, out=made), out=made)


def _mode(kernel: Rows, labels: Rows, prior: float) -> tuple[Rows, float]:
    """Return how each observation (n,) pulls at the mode, label less probability, and the log evidence.

    Laplace's approximation, algorithm 3.1 and equation 3.32.
    """
    logits = np.full(len(labels), prior)
    pull = inner = np.zeros(len(labels))
    for _ in range(_STEPS):
        chance = special.expit(logits)
        weight = chance * (1 - chance)
        root = np.sqrt(weight)
        b = weight * (logits - prior) + labels - chance
        inner = np.eye(len(labels)) + root[:, None] * kernel * root
        pull = b - root * np.linalg.solve(inner, root * (kernel @ b))
        before, logits = logits, prior + kernel @ pull
        if float(np.abs(logits - before).max()) < _DONE:
            break
    likely = float(special.log_expit(np.where(labels > 0, logits, -logits)).sum())
    return pull, likely - 0.5 * float(pull @ (logits - prior)) - 0.5 * float(np.linalg.slogdet(inner)[1])


def oddness(rows: Rows) -> Rows:
    """Return how odd each place (N, 1) looks among all, 0 to 1: the rank of its distance from the usual.

    rows (N, q): features in units of their own spread.
    """
    squared = ((rows - np.median(rows, axis=0)) ** 2).sum(axis=1)
    made: Rows = (np.argsort(np.argsort(squared, kind="stable"), kind="stable") / max(len(rows) - 1, 1))[:, None]
    return made
