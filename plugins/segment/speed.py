"""How fast pictures go through, against the same networks in their published form, turn by turn."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .ensemble import Ensemble
from .lamellae import lamellae
from .network import PUBLISHED, bfloat_is_faster, build, for_inference, library
from .picture import generator
from .prepare import prepared
from .rival import PublishedPredictor, eager
from .weights import Card

SIZE = 256


def speeds(shipped: Ensemble, seed: int, seconds: float = 40.0, filters: int = PUBLISHED) -> dict[str, Any]:
    """Return frames a second of 256 x 256 pixels (best of the turns) and the ratios to the published form.

    Both sides have the processor's threads and the picture as the networks see it. What is compared computes the same
    numbers, to a tolerance that is returned: `apart` of a network's probability, `apart_ensemble` of the mean. The
    shipped ensemble gets the picture as measured, and makes all that the plug-in gives out.
    """
    torch = library()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    plain = [build(filters).eval() for _ in range(5)]
    picture = lamellae(generator("scoring", seed, 2**31), SIZE).values
    shown = prepared(picture)
    fast = for_inference(plain[0], "cpu", bfloat := bfloat_is_faster("cpu"))
    x = torch.from_numpy(shown)[None, None].to(torch.bfloat16 if bfloat else torch.float32)
    x = x.to(memory_format=torch.channels_last)
    live = Ensemble(plain, Card(filters, 5))
    published = PublishedPredictor(build(filters), [network.state_dict() for network in plain])

    def one() -> Any:
        with torch.inference_mode():
            return torch.sigmoid(fast(x).float())[0, 0].numpy()

    made = {
        "ours": one,
        "eager": lambda: eager(plain[0], shown),
        "ensemble": lambda: live.moments(shown),
        "published": lambda: published.predict(shown),
        "shipped": lambda: shipped.predict(picture),
    }
    best, turns = _turns(made, seconds, seed)
    apart = float(np.abs(one() - eager(plain[0], shown)).max())
    apart_ensemble = float(np.abs(live.moments(shown)[0] - published.predict(shown)[0]).max())
    return {
        "threads": threads, "bfloat16": bfloat, "turns": turns, "apart": apart,
        "apart_ensemble": apart_ensemble,
        "ms": {name: 1e3 * spent for name, spent in best.items()},
        "fps_published_size": 1 / best["ours"],
        "x_torch_eager": best["eager"] / best["ours"],
        "x_published_predictor": best["published"] / best["ensemble"],
        "fps_shipped_ensemble": 1 / best["shipped"],
    }  # fmt: skip


def _turns(made: dict[str, Callable[[], Any]], seconds: float, seed: int) -> tuple[dict[str, float], int]:
    """Return the least time of each, and how many turns were taken.

    All are called in every turn, so that they meet the same load, in an order drawn for each: none always comes after
    the same one, such as after the shipped ensemble, whose frame score leaves all threads but one idle for long.
    """
    for call in made.values():
        call()  # the first call sets up kernels
    best, turns, began = dict.fromkeys(made, math.inf), 0, time.perf_counter()
    rng, names = np.random.default_rng(seed), list(made)
    while turns < 3 or time.perf_counter() - began < seconds:
        for name in rng.permutation(names):
            start = time.perf_counter()
            made[name]()
            best[name] = min(best[name], time.perf_counter() - start)
        turns += 1
    return best, turns
