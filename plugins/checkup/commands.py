"""`probeloop bench loop --what checkup`: the plan on mis-set simulated columns, scored by the truth."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from probeloop.api import (
    AcquireReference,
    BlockFlag,
    CalibrationSet,
    Checkpoint,
    Context,
    FrameBlock,
    FrameBuffer,
    PlanContext,
    PlanError,
    Read,
    Reduce,
    Result,
    Scan,
    assemble,
    empty_map,
    load_simulator,
)

from .plan import Checkup
from .transform import DiscPixels, MeanPattern

_FRAMES = 32
_KEPT = 4
_VERBS = {"SetAberrations": "set_aberrations", "SetBeam": "set_beam", "Blank": "blank", "Unblank": "unblank",
          "SetDetector": "set_detector", "MoveProbe": "move_probe", "Scan": "scan",
          "AcquireReference": "acquire_reference"}  # fmt: skip
TARGETS = {"scale_error": 0.01, "rotation_error_deg": 1.0, "camera_length_error": 0.01, "centre_error_px": 0.3}


class Loop:
    """Answers the plan's steps with an instrument in this process: no bus, no gate."""

    def __init__(self, instrument: Any) -> None:
        self.instrument = instrument
        info = instrument.describe()
        context = Context("checkup", 0, CalibrationSet(info.calibrations))
        self.pixels, self.pattern = DiscPixels(context=context), MeanPattern(context=context)
        self.context = PlanContext(np.random.default_rng(0), info, _no_policy, Checkup().inputs())
        self.maps: dict[tuple[int, str], np.ndarray] = {}
        self.frames = self.number = 0
        self.messages: list[str] = []

    def run(self, plan: Checkup) -> dict[str, Any]:
        """Run the plan to its end and return its summary."""
        steps, answer = plan.run(self.context), None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return dict(end.value)
            answer = self._answer(step)

    def _answer(self, step: Any) -> Any:
        match step:
            case Reduce():
                found = step.function(self.maps[step.result.generation, step.topic])
                return tuple(float(v) for v in np.atleast_1d(np.asarray(found, np.float64)))
            case Checkpoint():
                self.messages.append(step.message)
                return None
            case Read():
                return Result(readback=self.instrument.read_back())
        done = getattr(self.instrument, _VERBS[type(step).__name__])(step)
        self.number += 1
        if isinstance(step, Scan | AcquireReference):
            return self._taken(done)
        self.instrument.clock.wait_until(done)
        return Result(readback=self.instrument.read_back())

    def _taken(self, taken: Any) -> Result:
        """Send an acquisition through both plug-ins."""
        room = np.zeros(_FRAMES * (taken.spec.frame_bytes + 64) + 4096, np.uint8)
        buffer = FrameBuffer.over(room, taken.spec, _FRAMES)
        self.pattern.outputs(taken.spec)
        self.pattern.begin(taken.spec)
        spec = self.pixels.outputs(taken.spec)["pixels"] if taken.spec.nav else None
        made = empty_map(spec) if spec is not None else None
        next(taken.frames)
        index = 0
        while True:
            try:
                count = taken.frames.send(buffer)
            except StopIteration:
                break
            buffer.seal(count, index=index, generation=self.number, flags=BlockFlag(0))
            block = FrameBlock.parse(room, taken.spec)
            self.pattern.update(block)
            if spec is not None and made is not None:
                values = self.pixels.process(block)["pixels"]
                assemble(spec, msgspec.structs.replace(block, spec=spec, data=values), made)
            index += count
        pixels, pattern, totals = self.context.inputs
        ended = self.pattern.end(False) or {}
        held = sorted({number for number, _ in self.maps})[-_KEPT + 1 :]  # as the host keeps them
        self.maps = {key: value for key, value in self.maps.items() if key[0] in held}
        self.maps |= {(self.number, pattern): ended["pattern"][0], (self.number, totals): ended["totals"][0]}
        if made is not None:
            self.maps[self.number, pixels] = made
        self.frames += index
        return Result(generation=self.number, topic="camera", first_index=0, count=index, first_valid_index=0)


def scored(summary: Mapping[str, Any], truth: Mapping[str, Any]) -> dict[str, Any]:
    """Return the errors of the calibrations of a checkup; None where one was not found. truth: values by kind."""
    found = {each["kind"]: each["value"] for each in summary["calibrations"]}

    def share(kind: str) -> float | None:
        return abs(found[kind][0] / truth[kind][0] - 1) if kind in found else None

    turned, centre, flip = (found.get(k) for k in ("scan_detector_rotation", "pattern_centre", "scan_detector_flip"))
    return {
        "scale_error": share("scan_scale"),
        "rotation_error_deg": None
        if turned is None
        else abs(math.degrees(math.remainder(turned[0] - truth["scan_detector_rotation"][0], 2 * math.pi))),
        "camera_length_error": share("detector_scale"),
        "centre_error_px": None if centre is None else math.dist(centre, truth["pattern_centre"]),
        "flip_right": flip is not None and flip[0] == truth["scan_detector_flip"][0],
        "current_error": share("beam_current"),
    }


def one(seed: int, simulator: Mapping[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    """Run the plan on the column of `seed`. simulator: further parameters of the column; parameters: of the plan."""
    given = {"seed": seed, "pace": None, "misalignment": 0.2, "mis_set": 1.0, **(simulator or {})}
    column = load_simulator("stem", given)
    try:
        loop = Loop(column)
        began = time.perf_counter()
        summary = loop.run(Checkup(Checkup.Parameters(**parameters)))
        errors = scored(summary, column.truth()["calibrations"])
        reached = errors["flip_right"] and all(
            errors[name] is not None and errors[name] <= most for name, most in TARGETS.items()
        )
        return {
            "seed": seed, **errors, "reached": bool(reached), "frames": loop.frames, "message": summary["message"],
            "drift_rate": summary.get("drift_rate"), "drift_true": float(np.hypot(*column.truth()["drift"])),
            "seconds": time.perf_counter() - began, "summary": summary,
        }  # fmt: skip
    finally:
        column.close()


def bench(options: Mapping[str, Any]) -> dict[str, Any]:
    """Run `seeds` mis-set columns from `seed` on; `ok` when all of them reach the targets."""
    first, count = int(options.get("seed", 0)), int(options.get("seeds", 10))
    runs = []
    for seed in range(first, first + count):
        made = one(seed, options.get("simulator"), **dict(options.get("parameters", {})))
        made.pop("summary")
        runs.append(made)
        if options.get("progress"):
            _say(made)
    reached = sum(run["reached"] for run in runs)
    return {"runs": runs, "seeds": count, "reached": reached, "targets": TARGETS, "ok": reached == count}


def _say(run: Mapping[str, Any]) -> None:
    errors = ", ".join(f"{name} {run[name]:.4f}" if run[name] is not None else f"{name} none" for name in TARGETS)
    sys.stderr.write(f"seed {run['seed']}: {errors}, flip {run['flip_right']}, {run['seconds']:.1f} s\n")


def _no_policy(name: str, parameters: Mapping[str, Any]) -> Any:
    raise PlanError(f"checkup asks for no policy, not {name!r}")
