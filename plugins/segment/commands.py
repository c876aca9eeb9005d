"""`probeloop train segment` and `probeloop bench segment`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from probeloop.api import DropInError, Problem, SettingsError

from .calibration import calibrated
from .column_scores import column_quality
from .coverage import route_coverage
from .curves import curves
from .ensemble import Ensemble
from .generators import NAMES, weights_at
from .network import library
from .quality import quality
from .retrain import run
from .schedule import QUICK, Training
from .speed import speeds
from .training import Trainer
from .weights import SHIPPED, Card, load, save

TARGETS: dict[str, tuple[str, float]] = {
    "boundary_f1_in": (">=", 0.90),
    "frame_ood_auroc": (">=", 0.90),
    "route_coverage": (">=", 0.95),
    "x_torch_eager": (">=", 2.2),
    "x_published_predictor": (">=", 4.0),
}
_SIDE_BY_SIDE = 2  # pictures of a calibration
_BETTER = "give it more maps, or in a .toml another number of cycles (180) or another rate (2e-4)"


def train(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train an ensemble as `config` says, write its weights to `out`, and return what it came to.

    config: the fields of `Training`, besides `quick` (start from its settings), `out` (file of the weights; beside it
    a folder NAME.training keeps checkpoint and curves) and `progress` (say how far it is, on standard error). With
    `on` an ensemble that there is learns from maps instead, see `retrain.run`; with `calibrate`, a file of weights,
    only its threshold, error estimate and frame score are set anew (`held_out`, `seed`), and `out` is that file where
    none is named. Raises SettingsError with every fault in it, DropInError without torch or for a checkpoint of
    another training, or when what was learned from maps is no better.
    """
    if "on" in config:
        return _retrained(dict(config))
    if "calibrate" in config:
        return _calibrated(dict(config))
    given = dict(config)
    out = Path(given.pop("out", None) or f"{given.get('kind', 'walls')}.safetensors")
    say = _say if given.pop("progress", False) else _silent
    base = msgspec.to_builtins(QUICK if given.pop("quick", False) else Training())
    unknown = sorted(set(given) - set(base))
    if unknown:
        raise SettingsError([Problem(name, "a training has no such setting", " | ".join(base)) for name in unknown])
    try:
        settings = msgspec.convert({**base, **given}, Training)
    except msgspec.ValidationError as error:
        raise SettingsError([Problem("training", str(error))]) from None
    began = time.monotonic()
    folder = out.with_suffix(".training")
    trainer = Trainer(settings, folder, say)
    members = trainer.run()
    (folder / "curves.svg").write_text(
        curves([stage.name for stage in trainer.plan], trainer.losses), encoding="utf-8"
    )
    say("sets threshold, error estimate and frame score on held-out pictures")
    told = {**msgspec.to_builtins(settings), "start": Path(settings.start).name, "generator": NAMES[settings.kind],
            "seeds": "training"}  # fmt: skip
    card = Card(settings.filters, settings.members, flipped=True, trained=told)
    save(out, members, card)
    stored, _ = load(out)  # as float16 has them
    card = calibrated(stored, card, settings.seed, settings.held_out, threads=_SIDE_BY_SIDE)
    save(out, members, card)
    made = {"curves": str(folder / "curves.svg"), "seconds": time.monotonic() - began,
            "loss": [each[-1] for each in trainer.losses]}  # fmt: skip
    return made | _told(out, card, say)


def _told(out: Path, card: Card, say: Callable[[str], None]) -> dict[str, Any]:
    made = {"out": str(out), "threshold": card.threshold, "weak": card.weak, "bytes": out.stat().st_size,
            **card.trained["calibration"]}  # fmt: skip
    say(f"{out}: boundary F1 {made['boundary_f1']:.3f} on held-out pictures, {made['bytes'] / 1e6:.1f} MB")
    return made


def _calibrated(given: dict[str, Any]) -> dict[str, Any]:
    """Set what is set on held-out pictures anew, of weights that there are."""
    path = Path(str(given.pop("calibrate"))).expanduser()
    out, say = Path(given.pop("out", None) or path), _say if given.pop("progress", False) else _silent
    given.pop("quick", None)
    if unknown := sorted(set(given) - {"seed", "held_out"}):
        raise SettingsError(
            [Problem(name, "a calibration has no such setting", "seed | held_out") for name in unknown]
        )
    try:
        settings = msgspec.convert(given, Training)
    except msgspec.ValidationError as error:
        raise SettingsError([Problem("calibration", str(error))]) from None
    library().set_num_threads(1)
    members, card = load(path)
    say("sets threshold, error estimate and frame score on held-out pictures")
    seed = settings.seed if "seed" in given else int(card.trained.get("seed", 0))
    card = calibrated(members, card, seed, settings.held_out, threads=_SIDE_BY_SIDE)
    save(out, [member.state_dict() for member in members], card)
    return _told(out, card, say)


def _retrained(given: dict[str, Any]) -> dict[str, Any]:
    """Let an ensemble learn from new maps; raises DropInError when that has not made it better."""
    out = Path(given.pop("out", None) or "walls.safetensors").expanduser()
    say = _say if given.pop("progress", False) else _silent
    if given.pop("quick", False):
        raise SettingsError([Problem("quick", "to learn from maps is short already", "fewer cycles, in a .toml")])
    made = run(given, out, say)
    if not made["kept"] and not given.get("beside"):
        raise DropInError(f"{made['text']}: {out} was not written", _BETTER)
    say(made["text"])
    return made


def bench(options: Mapping[str, Any]) -> dict[str, Any]:
    """Score the shipped ensemble, or that of `weights`, on pictures made from `seed`, and time it for `seconds`.

    `ok` when all TARGETS are reached. Real pictures are not in it: see the rig `pto-forward`.
    """
    seed, seconds = int(options.get("seed") or 0), float(options.get("seconds") or 40.0)
    ensemble = Ensemble.from_file(Path(options.get("weights") or SHIPPED))
    found = quality(ensemble, seed)
    found |= route_coverage(ensemble, seed)
    found["columns"] = column_quality(Ensemble.from_file(weights_at("columns")), seed)
    found |= speeds(ensemble, seed, seconds)
    reached = {name: found[name] >= limit for name, (_, limit) in TARGETS.items()}
    return {**found, "seed": seed, "targets": {name: limit for name, (_, limit) in TARGETS.items()},
            "reached": reached, "ok": all(reached.values())}  # fmt: skip


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _silent(text: str) -> None:
    del text
