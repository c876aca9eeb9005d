"""What a plan that turned aberration knobs came to: the probe before and after it, by the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.aberrations import NAMES, Aberrations, strehl, wavelength
from ..data.calibration import Calibration
from ..data.control import Event, Generation, StateChange, Verdict

Values = Mapping[str, Any]


def focus_scores(
    events: Iterable[Event],
    generations: Mapping[int, Values],
    whole: Values,
    known: Mapping[str, Calibration],
    missed: dict[str, str],
) -> list[dict[str, Any]]:
    """Return a score for every ended plan that says `applied_m`, what it did to which knob [m].

    events: in the order of time. strehl_start, strehl_end: of the probe, over the best that these coefficients can
    give while the others stay. residual_m: how far each is from there. true_m: every coefficient at the end.
    """
    angle = known.get("convergence_angle")
    volts = angle.valid_for.get("voltage") if angle is not None else None
    made: list[dict[str, Any]] = []
    first: Aberrations | None = None
    waiting: tuple[Mapping[str, Any], Aberrations | None] | None = None  # an ended plan, until a frame shows its work
    running = False

    def finish(end: Aberrations | None) -> None:
        nonlocal waiting
        if waiting is None:
            return
        (plan, start), waiting = waiting, None
        name = f"plan {plan.get('plan', '')} {len(made) + 1}"
        if angle is None or volts is None:
            missed[name] = "the convergence angle or its voltage is not calibrated"
        elif start is None or end is None:
            missed[name] = "no frame of known aberrations before or after it"
        else:
            made.append(_score(plan, start, end, float(wavelength(float(volts))), angle.value[0]))

    for event in events:
        match event:
            case StateChange(target="plan", state="running"):
                running, first = True, None
            case StateChange(target="plan"):
                running = False
                if isinstance(event.data.get("applied_m"), dict) and event.data["applied_m"]:
                    finish(None)
                    waiting = event.data, first
            case Verdict(accepted=True, dry_run=False) if type(event.command).__name__ == "SetAberrations":
                finish(None)
            case Generation():
                seen = _seen(generations.get(event.id, {}))
                finish(seen)
                if running and first is None:
                    first = seen
    if waiting is not None:
        now = whole.get("aberrations")
        finish(Aberrations(**now) if isinstance(now, dict) else None)
    return made


def _seen(truth: Values) -> Aberrations | None:
    """Return what the last frame of a generation was taken with."""
    there = {name: float(np.ravel(truth[name])[-1]) for name in NAMES if np.size(truth.get(name, ()))}
    return Aberrations(**there) if there else None


def _score(
    plan: Mapping[str, Any], start: Aberrations, end: Aberrations, wave: float, convergence: float
) -> dict[str, Any]:
    knobs = [name for name in plan["applied_m"] if name in NAMES]
    best, missing = attainable(end, knobs, wave, convergence)
    return {
        "plan": plan.get("plan", ""),
        "succeeded": plan.get("succeeded"),
        "strehl_start": strehl(start, wave, convergence) / best,
        "strehl_end": strehl(end, wave, convergence) / best,
        "strehl_attainable": best,
        "residual_m": dict(zip(knobs, (-missing).tolist(), strict=True)),
        "true_m": end.as_dict(),
    }


def attainable(
    aberrations: Aberrations, knobs: Sequence[str], wave: float, convergence: float
) -> tuple[float, np.ndarray]:
    """Return the best Strehl ratio that changes of `knobs` can reach, and those changes [m].

    The simplex of Nelder and Mead, begun where defocus balances spherical aberration. wave [m], convergence [rad].
    """
    from scipy.optimize import minimize

    def loss(nanometres: np.ndarray) -> float:
        return -strehl(
            aberrations.plus(dict(zip(knobs, map(float, nanometres * 1e-9), strict=True))), wave, convergence
        )

    if not knobs:
        return strehl(aberrations, wave, convergence), np.zeros(0)
    begin = np.array([-getattr(aberrations, name) for name in knobs]) * 1e9
    if "C10" in knobs:
        begin[knobs.index("C10")] -= 0.5e9 * aberrations.C30 * convergence**2
    orders = np.array([int(name[1]) for name in knobs])
    steps = 0.025 ** (1.0 - orders)  # [nm], of about the same phase at the aperture's edge
    simplex = begin + np.vstack([np.zeros(len(knobs)), np.diag(steps)])
    options = {"initial_simplex": simplex, "xatol": 0.01 * steps.min(), "fatol": 1e-5, "maxiter": 150 * len(knobs)}
    found = minimize(loss, begin, method="Nelder-Mead", options=options)
    return float(-found.fun), np.asarray(found.x * 1e-9)
