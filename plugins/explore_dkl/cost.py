"""What a step costs: learning, predicting every candidate and choosing the next one."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from probeloop.api import Context, Observation, Policy

from .policies import Dkl

SHAPE = (64, 64)  # 4,096 candidates
COUNTS = (20, 50, 100, 200)
_WARM = 12  # observations of a step that is not counted: it loads the libraries


def step_cpu_s(
    counts: Sequence[int] = COUNTS, *, seed: int = 0, shape: tuple[int, int] = SHAPE, policy: type[Policy] = Dkl
) -> dict[int, float]:
    """Return the processor time of a step with a fit from the beginning [s], by the number of observations."""
    return {n: steps_cpu_s(n, seed=seed, shape=shape, policy=policy)[0] for n in counts}


def steps_cpu_s(
    n: int, *, seed: int = 0, shape: tuple[int, int] = SHAPE, policy: type[Policy] = Dkl
) -> tuple[float, float]:
    """Return the processor time [s] of a step with n observations from the beginning, and of the updated next."""
    _playing(_WARM, seed, shape, policy).suggest(1)
    playing = _playing(n, seed, shape, policy)
    start = time.process_time()
    (place,) = playing.suggest(1)
    whole = time.process_time() - start
    playing.tell([Observation(position=place, value=0.5)])
    start = time.process_time()
    playing.suggest(1)
    return whole, time.process_time() - start


def _playing(n: int, seed: int, shape: tuple[int, int], policy: type[Policy]) -> Policy:
    """Return a policy that has seen an image and been told n observations."""
    rng = np.random.default_rng([seed, n])
    image = ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    value = _slope(image)
    y, x = np.mgrid[: shape[0], : shape[1]]
    candidates = np.stack([x.ravel(), y.ravel()], axis=1) * 1e-9
    made = policy(None, Context("cost", seed))
    made.context_images(candidates, shape, {"image": image})
    made.suggest(8)  # the seed points: from here on it learns
    cells = rng.choice(len(candidates), n, replace=False)
    made.tell(
        [
            Observation(position=(float(x), float(y)), value=float(value.flat[cell]) + 0.03 * rng.normal())
            for cell, (x, y) in zip(cells, candidates[cells], strict=True)
        ]
    )
    return made


def _slope(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the image rises to the right, in units of its spread, 0 elsewhere."""
    rising = np.maximum(np.gradient(image)[1], 0.0)
    made: NDArray[np.float64] = rising / rising.std()
    return made
