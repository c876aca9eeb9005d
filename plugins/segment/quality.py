"""The quality figures of an ensemble, on familiar pictures and on those of the second generator."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .calibration import NEAR_WALLS
from .ensemble import Ensemble, Prediction
from .foreign import SHIFTS, foreign
from .lamellae import lamellae
from .picture import Picture, generator, near
from .scores import Matched, auroc, calibration_error, counted, entropy, interval, matched
from .specimens import scan


class Scored(msgspec.Struct):
    """A frame: its counts for the mean and for every member, and how well its errors are ranked."""

    shift: str
    whole: Matched
    members: list[Matched]
    frame: float
    ranks: dict[str, float]
    said: NDArray[np.float32]
    wall: NDArray[np.bool_]


def quality(
    ensemble: Ensemble, seed: int, frames: int = 100, a_shift: int = 20, size: int = 128, simulated: int = 12
) -> dict[str, Any]:
    """Return the figures for pictures made from the seed.

    There are `frames` familiar ones, `a_shift` of each shift, and `simulated` scans of the simulated scanning probe.
    """
    inside = [_scored(ensemble, lamellae(generator("scoring", seed, i), size), "") for i in range(frames)]
    outside = [
        _scored(ensemble, foreign(generator("scoring", seed, 10**6 * (k + 1) + i), size, shift), shift)
        for k, shift in enumerate(SHIFTS)
        for i in range(a_shift)
    ]
    probed = [_scored(ensemble, scan(seed, 10**8 + i, size), "simulated") for i in range(simulated)]
    total = _sum(inside)
    by_shift = {shift: _f1(ensemble, [one for one in outside if one.shift == shift]) for shift in SHIFTS}
    strange = np.array([one.frame for one in inside + outside])
    is_strange = np.array([bool(one.shift) for one in inside + outside])
    found: dict[str, Any] = {
        "boundary_f1_in": total.f1, "precision_in": total.precision, "recall_in": total.recall,
        "localisation_px": total.localisation, "members_in": _f1(ensemble, inside),
        "boundary_f1_spm": _sum(probed).f1, "members_spm": _f1(ensemble, probed),
        "boundary_f1_ood": _f1(ensemble, outside), "by_shift": by_shift,
        "uncertainty_auroc": {"in": _ranks(inside, seed), "ood": _ranks(outside, seed)},
        "frame_ood_auroc": auroc(strange, is_strange),
        "frame_ood_auroc_by_shift": {
            shift: auroc(np.array([o.frame for o in inside + outside if o.shift in ("", shift)]),
                         np.array([bool(o.shift) for o in inside + outside if o.shift in ("", shift)]))
            for shift in SHIFTS
        },
        "false_alarms": float(np.mean([one.frame > 1 for one in inside])),
        "alarms": float(np.mean([one.frame > 1 for one in outside])),
        "ece": calibration_error(np.concatenate([o.said for o in inside]), np.concatenate([o.wall for o in inside])),
        "ece_ood": calibration_error(np.concatenate([o.said for o in outside]),
                                     np.concatenate([o.wall for o in outside])),
        "frames_in": len(inside), "frames_ood": len(outside), "threshold": ensemble.card.threshold,
    }  # fmt: skip
    found["uncertainty_auroc_gain"] = _ranks(inside + outside, seed)["gain"]
    return found


def _scored(ensemble: Ensemble, picture: Picture, shift: str) -> Scored:
    made = ensemble.predict(picture.values, keep_each=True)
    assert made.each is not None
    limit = (ensemble.card.threshold, ensemble.card.weak)
    sure = counted(picture)
    members = [matched(each, picture, *limit) for each in made.each]
    return Scored(
        shift, matched(made.mean, picture, *limit), members, made.frame,
        _ranked(ensemble, picture, made), made.mean[sure], picture.wall[sure],
    )  # fmt: skip


def _ranked(ensemble: Ensemble, picture: Picture, made: Prediction) -> dict[str, float]:
    """Return how well each measure ranks the errors of the mean near walls (AUROC)."""
    assert made.each is not None
    asked = near(picture.line, NEAR_WALLS) & counted(picture)
    wrong = ((made.mean >= ensemble.card.threshold) != picture.wall)[asked]
    singles = [auroc(entropy(each)[asked], wrong) for each in made.each]
    return {
        "estimate": auroc(made.doubt[asked], wrong),
        "variance": auroc(made.variance[asked], wrong),
        "entropy_of_mean": auroc(entropy(made.mean)[asked], wrong),
        "single_member": float(np.mean(singles)),
    }


def _ranks(scored: list[Scored], seed: int) -> dict[str, Any]:
    columns = {name: np.array([one.ranks[name] for one in scored]) for name in scored[0].ranks}
    gain = {}
    for rival in ("entropy_of_mean", "single_member"):
        each = columns["estimate"] - columns[rival]
        low, high = interval(each, seed)
        gain[f"over_{rival}"] = {"gain": float(np.nanmean(each)), "low": low, "high": high}
    return {**{name: float(np.nanmean(column)) for name, column in columns.items()}, "gain": gain}


def _sum(scored: list[Scored]) -> Matched:
    return sum((one.whole for one in scored), Matched())


def _f1(ensemble: Ensemble, scored: list[Scored]) -> dict[str, Any]:
    members = [sum((one.members[i] for one in scored), Matched()).f1 for i in range(len(ensemble.networks))]
    return {"ensemble": _sum(scored).f1, "members": members, "median": float(np.median(members))}
