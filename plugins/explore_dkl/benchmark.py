"""One policy in one world: seed points, then one measurement after the other, scored against the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import Context, Observation, Policy, Position

from .policies import Dkl, Grid, PcaGp, SortByImage, XyGp
from .scores import EVIDENCE, Score, foretold, score
from .worlds import Visit, World, world
from .worlds_film import SIDE

SEEDS, STEPS = 8, 50  # measurements: those the policy begins with, and those it learns its way to
MEASURED = SEEDS + STEPS
POLICY: dict[str, type[Policy]] = {
    "dkl": Dkl, "pca_gp": PcaGp, "xy_gp": XyGp, "sort_by_image": SortByImage, "grid": Grid,
}  # fmt: skip
POLICIES = ("dkl", "pca_gp", "xy_gp", "sort_by_image", "grid", "random", "oracle")


class Place(Protocol):
    """Where measurements come from: a world, or a file."""

    cells: list[int]
    valid: list[bool]

    def measure(self, cell: int) -> Observation:
        """Measure at a cell."""
        ...


class Run(msgspec.Struct, frozen=True):
    """What a policy did.

    cells: measured, in order. claimed: it says that structure and property are linked. rank_correlation, chance: of
    values with what was predicted before each, see `scores.foretold`. prediction, sigma: (N,) at the end, None
    without a model. cpu_s: of the policy and its measurements.
    """

    policy: str
    cells: list[int]
    valid: list[bool]
    values: list[float]
    claimed: bool
    rank_correlation: float
    chance: float
    prediction: NDArray[np.float64] | None
    sigma: NDArray[np.float64] | None
    cpu_s: float


def run(
    name: str, place: Place, places: NDArray[np.float64], shape: tuple[int, int],
    images: Mapping[str, NDArray[Any]], seed: int, *, truth: NDArray[np.float64], steps: int = STEPS,
    settings: Mapping[str, Any] | None = None,
) -> Run:  # fmt: skip
    """Let a policy choose its seed points and `steps` cells more, and return what it did.

    places: (N, 2) candidates (x, y) [m] of a map of `shape`. truth: (N,), for the oracle alone. settings: of the
    policy, where they are not its own.
    """
    if name in ("random", "oracle"):
        return _known(name, place, truth, steps + SEEDS, seed)
    kind = POLICY[name]
    policy = kind(msgspec.convert(dict(settings or {}), kind.Parameters), Context(name, seed))
    spent = time.process_time()
    policy.context_images(places, shape, images)
    heard: list[Observation] = []
    said: list[float] = []
    for number in range(1 + steps):
        chosen = policy.suggest(SEEDS if number == 0 else 1)
        if not chosen:
            break
        cells = [nearest(places, each) for each in chosen]
        said += [float("nan") if number == 0 else _predicted(policy, cell) for cell in cells]
        new = [place.measure(cell) for cell in cells]
        policy.tell(new)
        heard += new
    learn: Callable[[], None] | None = getattr(policy, "learn_now", None)
    if learn is not None:
        learn()
    prediction, sigma = _maps(policy)
    spent = time.process_time() - spent
    values = [each.value if each.valid else float("nan") for each in heard]
    correlation, chance = foretold(said, values)
    claimed = bool(getattr(getattr(policy, "link", None), "seen", False))
    return Run(name, place.cells, place.valid, values, claimed, correlation, chance, prediction, sigma, spent)


def _known(name: str, place: Place, truth: NDArray[np.float64], count: int, seed: int) -> Run:
    """Measure at random, or the best cells there are."""
    if name == "oracle":
        order = np.argsort(-np.nan_to_num(truth, nan=-np.inf), kind="stable")
    else:
        order = np.random.default_rng([seed, 73]).permutation(len(truth))
    heard = [place.measure(int(cell)) for cell in order[:count]]
    values = [each.value if each.valid else float("nan") for each in heard]
    return Run(name, place.cells, place.valid, values, False, 0.0, 1.0, None, None, 0.0)


def nearest(places: NDArray[np.float64], position: Position) -> int:
    """Return the candidate nearest to a position [m]."""
    return int(np.argmin(((places - np.asarray(position)) ** 2).sum(axis=1)))


def _maps(policy: Policy) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    maps: Callable[[], Mapping[str, NDArray[Any]]] | None = getattr(policy, "maps", None)
    made = maps() if maps is not None else {}
    if "prediction" not in made or "uncertainty" not in made:
        return None, None
    return np.asarray(made["prediction"], np.float64).ravel(), np.asarray(made["uncertainty"], np.float64).ravel()


def _predicted(policy: Policy, cell: int) -> float:
    prediction, _ = _maps(policy)
    return float("nan") if prediction is None else float(prediction[cell])


def judged(made: Run, here: World) -> Score:
    """Score a run in a world."""
    return score(here.truth, (SIDE, SIDE), made.cells, made.valid, made.prediction, made.sigma)


def compare(family: Any, seed: int, policies: Sequence[str] = POLICIES) -> dict[str, dict[str, Any]]:
    """Return by policy the score of a run in the world of a family and seed, in plain data.

    Besides `Score`: claimed (the policy says that structure and property are linked), foretold (its predictions went
    with the values), rank_correlation, cpu_s.
    """
    here = world(family, seed)
    found: dict[str, dict[str, Any]] = {}
    for name in policies:
        made = run(name, Visit(here), here.places, (SIDE, SIDE), here.images, seed, truth=here.truth)
        found[name] = {
            **msgspec.structs.asdict(judged(made, here)), "claimed": made.claimed, "foretold": made.chance < EVIDENCE,
            "rank_correlation": made.rank_correlation, "cpu_s": made.cpu_s,
        }  # fmt: skip
    return found
