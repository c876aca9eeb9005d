"""What exploring will earn on a specimen, from the measurements that a session made there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Observed, ProbeloopError, RecordError, StateChange, open_session

from .patches import cut
from .reduction import components
from .reward_estimate import estimate

PATCH = 8  # pixels a side
COMPONENTS = 8
LEAST = 8
GAMES = 8
MOST_ROUNDS = 60  # a game of more takes minutes


def expected(folder: str, rounds: int, seed: int = 0) -> dict[str, Any]:
    """Return what a campaign of `rounds` spectra by every model and acquisition is expected to earn, best first.

    folder: of a session whose newest run measured at least 8 valid spectra on a recorded map, taken for a random
    sample of it. reward: the best value that the campaign measures itself, averaged over its rounds; regret: what
    that lies below the best measured so far, less than 0 where better is expected. Raises RecordError when the
    session can't tell.
    """
    session = open_session(folder)
    images: tuple[str, ...] = ()
    told: dict[tuple[str, int, int], Mapping[str, Any]] = {}
    for event in session.events():
        if isinstance(event, StateChange) and event.target == "plan" and "parameters" in event.data:
            images = tuple(event.data["parameters"].get("images", ())) or images
            told = told if event.data.get("resumed") else {}
        elif isinstance(event, Observed) and event.kind == "observe":
            for each in event.value.get("value", ()):
                told[each["topic"], each["generation"], each["index"]] = each
    valid = [each for each in told.values() if each["valid"]]
    if len(valid) < LEAST:
        raise RecordError(f"{folder} holds {len(valid)} valid spectra", f"at least {LEAST} tell models apart")
    newest = valid[-1].get("scalarizer", "")
    valid = [each for each in valid if each.get("scalarizer", "") == newest]
    maps, places = _maps(session, images)
    shape = next(iter(maps.values())).shape[:2]
    patches = cut(maps, shape, PATCH).rows
    rows = components(patches, COMPONENTS)(patches)
    at = [int(np.argmin(np.sum((places - np.asarray(each["position"])) ** 2, axis=1))) for each in valid]
    values = np.array([float(each["value"]) for each in valid])
    free = np.delete(rows, at, axis=0)
    games = estimate(rows[at], values, free, min(rounds, MOST_ROUNDS), games=GAMES, seed=seed)
    best = float(values.max())
    return {
        "scalarizer": newest,
        "measured": len(values),
        "best_measured": best,
        "candidates": len(places),
        "rounds": min(rounds, MOST_ROUNDS),
        "pairs": [
            {"model": each.model, "acquisition": each.acquisition, "reward": each.reward,
             "interval": [each.low, each.high], "regret": best - each.reward}
            for each in games
        ],
    }  # fmt: skip


def _maps(session: Any, images: tuple[str, ...]) -> tuple[dict[str, NDArray[Any]], NDArray[np.float64]]:
    """Return the newest scans of the images, and the places (N, 2) (x, y) [m] of their pixels; raises RecordError.

    Without images, the scan itself.
    """
    images = images or ("scan",)
    made: dict[str, NDArray[Any]] = {}
    places = np.empty((0, 2))
    try:
        for topic in images:
            record = session.topic(topic)
            made[topic] = np.asarray(record.data())
            y, x = (axis.values() for axis in record.spec.nav)
            places = np.stack([each.ravel() for each in np.meshgrid(x, y)], axis=1)
    except (ProbeloopError, ValueError) as error:
        raise RecordError(f"the map of {', '.join(images)} can't be read: {error}", "record that topic") from error
    if len({each.shape[:2] for each in made.values()}) > 1:
        raise RecordError("the maps of the session have different pixels", "name images of one scan")
    return made, places
