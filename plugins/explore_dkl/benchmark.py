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
from .worlds import SIDE, Visit, World, world

SEEDS, STEPS = 8, 50
MEASURED = SEEDS + STEPS
LEARNED: dict[str, type[Policy]] = {"dkl": Dkl, "pca_gp": PcaGp, "xy_gp": XyGp, "sort_by_image": SortByImage}
POLICIES = ("dkl", "pca_gp", "xy_gp", "sort_by_image", "grid", "random", "oracle")


class Place(Protocol):
    """Where measurements come from: a world, or a file."""

    cells: list[int]
    valid: list[bool]

    def measure(self, cell: int) -> Observation:
        """Measure at a cell."""
        ...


class Run(msgspec.Struct, frozen=True):
    """What a policy did. cells: measured, in order. rank_correlation, chance: of values with what was predicted before
    each, see `scores.foretold`. prediction, sigma: (N,) at the end, None without a model. cpu_s: the policy's own.
    """

    policy: str
    cells: list[int]
    valid: list[bool]
    values: list[float]
    rank_correlation: float
    chance: float
    prediction: NDArray[np.float64] | None
    sigma: NDArray[np.float64] | None
    cpu_s: float


def first_cells(shape: tuple[int, int], seed: int) -> list[int]:
    """Return SEEDS cells of a map, the same for every policy: a Latin hypercube (McKay, Beckman and Conover 1979)."""
    rng = np.random.default_rng([seed, 71])
    rows, columns = (
        ((rng.permutation(SEEDS) + rng.random(SEEDS)) * size / SEEDS).astype(int) for size in shape
    )  # fmt: skip
    return [int(cell) for cell in rows * shape[1] + columns]


def run(
    name: str, place: Place, places: NDArray[np.float64], shape: tuple[int, int],
    images: Mapping[str, NDArray[Any]], seed: int, *, truth: NDArray[np.float64], steps: int = STEPS,
    settings: Mapping[str, Any] | None = None,
) -> Run:  # fmt: skip
    """Let a policy choose `steps` cells after the seed points, and return what it did.

    places: (N, 2) candidates (x, y) [m] of a map of `shape`. truth: (N,), for the oracle alone. settings: of the
    policy, where they are not its own.
    """
    first = first_cells(shape, seed)
    if name in ("random", "oracle"):
        return _known(name, place, first, truth, steps, seed)
    kind = LEARNED[name]
    policy = kind(msgspec.convert(dict(settings or {}), kind.Parameters), Context(name, seed))
    spent = time.process_time()
    policy.context_images(places, shape, images)
    heard = [place.measure(cell) for cell in first]
    policy.tell(heard)
    said: list[float] = []
    for _ in range(steps):
        chosen = policy.suggest(1)
        if not chosen:
            break
        cell = nearest(places, chosen[0])
        said.append(_predicted(policy, cell))
        heard.append(place.measure(cell))
        policy.tell(heard[-1:])
    prediction, sigma = _maps(policy)
    spent = time.process_time() - spent
    values = [each.value if each.valid else float("nan") for each in heard]
    correlation, chance = foretold(said, values[SEEDS:])
    return Run(name, place.cells, place.valid, values, correlation, chance, prediction, sigma, spent)


def _known(
    name: str, place: Place, first: Sequence[int], truth: NDArray[np.float64], steps: int, seed: int
) -> Run:
    """Measure at random, or the best cells there are."""
    if name == "oracle":
        order = np.argsort(-np.nan_to_num(truth, nan=-np.inf), kind="stable")
    else:
        order = np.random.default_rng([seed, 73]).permutation(len(truth))
    free = [int(cell) for cell in order if int(cell) not in set(first)]
    heard = [place.measure(cell) for cell in [*first, *free[:steps]]]
    values = [each.value if each.valid else float("nan") for each in heard]
    return Run(name, place.cells, place.valid, values, 0.0, 1.0, None, None, 0.0)


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

    Besides `Score`: claimed (a link between structure and property was found), rank_correlation, cpu_s.
    """
    here = world(family, seed)
    found: dict[str, dict[str, Any]] = {}
    for name in policies:
        made = run(name, Visit(here), here.places, (SIDE, SIDE), here.images, seed, truth=here.truth)
        found[name] = {
            **msgspec.structs.asdict(judged(made, here)), "claimed": made.chance < EVIDENCE,
            "rank_correlation": made.rank_correlation, "cpu_s": made.cpu_s,
        }  # fmt: skip
    return found


def step_cpu(sizes: Sequence[int] = (20, 50, 100, 200), seed: int = 0) -> dict[int, float]:
    """Return the CPU time [s] of one step of `dkl` behind n measurements: tell, fit, predict 4,096, choose.

    The mean over four steps in a row after a full fit, the next full one included where one falls due.
    """
    here, made = world("wall", seed), {}
    for n in sizes:
        policy, visit = Dkl(context=Context("dkl", seed)), Visit(here)
        policy.context_images(here.places, (SIDE, SIDE), here.images)
        cells = np.random.default_rng([seed, n]).permutation(len(here.places))
        policy.tell([visit.measure(int(cell)) for cell in cells[: n - 2]])
        policy.suggest(1)
        spent = 0.0
        for cell in cells[n - 2 : n + 2]:
            heard = [visit.measure(int(cell))]
            began = time.process_time()
            policy.tell(heard)
            policy.suggest(1)
            spent += time.process_time() - began
        made[n] = spent / 4
    return made
