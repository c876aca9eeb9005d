"""`probeloop bench loop --what autofocus`: a simulated column out of focus, the plan, and a score by the truth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import minimize

from probeloop.api import (
    Aberrations,
    CalibrationSet,
    Checkpoint,
    Context,
    FrameBlock,
    FrameBuffer,
    PlanContext,
    PlanError,
    Reduce,
    Result,
    Scan,
    SetAberrations,
    Settle,
    Unblank,
    assemble,
    empty_map,
    load_simulator,
    strehl,
    wavelength,
)

from .policy import KNOBS, Autofocus
from .transform import BrightFieldPixels

TOPIC = "bright_field_pixels.pixels"
GOAL, NEEDED = 0.8, 0.9
_FRAMES = 32


class Loop:
    """Answers a plan's steps with an instrument in this process: no bus, no gate, no pace.

    spoil: replaces the values of a scan, for tests of what the plan says of noise. source: values to take instead
    of scanning. first: the values of the first scan.
    """

    def __init__(
        self,
        instrument: Any,
        spoil: Callable[[np.ndarray], np.ndarray] | None = None,
        source: np.ndarray | None = None,
    ) -> None:
        self.instrument, self.spoil, self.source = instrument, spoil, source
        self.first: np.ndarray | None = None
        self.frames = 0
        info = instrument.describe()
        self.transform = BrightFieldPixels(
            context=Context("bright_field_pixels", 0, CalibrationSet(info.calibrations))
        )
        self.info = info
        self.map: np.ndarray = np.zeros(0)

    def run(self, plan: Autofocus) -> dict[str, Any]:
        """Run the plan to its end and return its summary."""
        context = PlanContext(np.random.default_rng(0), self.info, _no_policy, plan.inputs())
        steps, answer = plan.run(context), None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return dict(end.value)
            answer = self._answer(step)

    def _answer(self, step: Any) -> Any:
        clock = self.instrument.clock
        match step:
            case Unblank():
                self.instrument.unblank(step)
                return Result(readback=self.instrument.read_back())
            case SetAberrations():
                clock.wait_until(self.instrument.set_aberrations(step))
                return Result(readback=self.instrument.read_back())
            case Settle():
                return Result(readback=self.instrument.read_back())
            case Scan():
                self.scan(step)
                return Result(topic=TOPIC, readback=self.instrument.read_back())
            case Reduce():
                return step.function(self.map)
            case Checkpoint():
                return None
        raise TypeError(f"autofocus does not yield {type(step).__name__}")

    def scan(self, command: Scan) -> None:
        """Take a scan into `map`, (ny, nx, K + 2)."""
        made = self.source if self.source is not None else self._measured(command)
        self.first = made if self.first is None else self.first
        self.map = self.spoil(made) if self.spoil else made

    def _measured(self, command: Scan) -> np.ndarray:
        taken = self.instrument.scan(command)
        room = np.zeros(_FRAMES * (taken.spec.frame_bytes + 64) + 4096, np.uint8)
        buffer = FrameBuffer.over(room, taken.spec, _FRAMES)
        spec = self.transform.outputs(taken.spec)["pixels"]
        made = empty_map(spec)
        next(taken.frames)
        index = 0
        while True:
            try:
                count = taken.frames.send(buffer)
            except StopIteration:
                break
            buffer.seal(count, index=index, generation=1)
            block = FrameBlock.parse(room, taken.spec)
            values = self.transform.process(block)["pixels"]
            assemble(spec, msgspec.structs.replace(block, spec=spec, data=values), made)
            index += count
            self.frames += count
        return made


def attainable(aberrations: Aberrations, wave: float, convergence: float) -> tuple[float, np.ndarray]:
    """Return the best Strehl ratio that C10, C12a, C12b can reach, and the changes to them that do [m]."""

    def loss(nanometres: np.ndarray) -> float:
        changes = dict(zip(KNOBS, map(float, nanometres * 1e-9), strict=True))
        return -float(strehl(aberrations.plus(changes), wave, convergence))

    balance = -aberrations.C10 - 0.5 * aberrations.C30 * convergence**2
    start = np.array([balance, -aberrations.C12a, -aberrations.C12b]) * 1e9
    simplex = start + np.vstack([np.zeros(3), np.eye(3)])
    options = {"initial_simplex": simplex, "xatol": 0.01, "fatol": 1e-5}
    found = minimize(loss, start, method="Nelder-Mead", options=options)
    return float(-found.fun), np.asarray(found.x * 1e-9)


def one(seed: int, simulator: Mapping[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    """Run autofocus on a column with the secrets of `seed`, then again with its image replaced by noise.

    simulator: further parameters of the column. parameters: of the plan.
    """
    given = {"seed": seed, "pace": None, "misalignment": 1.0, "settling_frames": False, **(simulator or {})}
    column = load_simulator("stem", given)
    try:
        known = CalibrationSet(column.describe().calibrations)
        angle = known.require("convergence_angle", "autofocus")
        convergence, wave = angle.value[0], wavelength(float(angle.valid_for["voltage"]))
        rng = np.random.default_rng(seed)

        def shot_noise(values: np.ndarray) -> np.ndarray:
            mean = np.nanmean(values, axis=(0, 1), keepdims=True)
            return rng.poisson(np.broadcast_to(mean, values.shape)).astype(values.dtype)

        settings = Autofocus.Parameters(**parameters)
        start = column.truth()["aberrations"]
        best, _ = attainable(start, wave, convergence)
        loop = Loop(column)
        began = time.perf_counter()
        summary = loop.run(Autofocus(settings))
        seconds = time.perf_counter() - began
        end, dose = column.truth()["aberrations"], column.truth()["dose_map"]
        noisy = Loop(column, shot_noise, loop.first).run(Autofocus(settings))
        _, missing = attainable(end, wave, convergence)
        return {
            "seed": seed,
            "c10_start_m": start.C10,
            "c12_start_m": float(np.hypot(start.C12a, start.C12b)),
            "strehl_start": strehl(start, wave, convergence) / best,
            "strehl_end": strehl(end, wave, convergence) / best,
            "strehl_attainable": best,
            "dc10_end_m": float(-missing[0]),
            "dc12_end_m": [float(-missing[1]), float(-missing[2])],
            "dose_e_per_A2": float(dose.max()) * 1e-20,
            "frames": loop.frames,
            "claimed": summary["succeeded"],
            "message": summary["message"],
            "noise_claimed": noisy["succeeded"],
            "noise_message": noisy["message"],
            "seconds": seconds,
        }
    finally:
        column.close()


def bench(options: Mapping[str, Any]) -> dict[str, Any]:
    """Run `seeds` columns from `seed` on, each also with its image replaced by noise; `ok` says if the goal is met.

    strehl_*: over the attainable. dose_e_per_A2: of all scans together, where it is highest (cells of 0.25 nm).
    """
    first, count = int(options.get("seed", 0)), int(options.get("seeds", 20))
    runs = []
    for seed in range(first, first + count):
        runs.append(one(seed, options.get("simulator"), **dict(options.get("parameters", {}))))
        if options.get("progress"):
            _say(runs[-1])
    passed = [r for r in runs if r["strehl_end"] >= GOAL and r["claimed"]]
    false_claims = [r for r in runs if r["claimed"] and r["strehl_end"] < GOAL]
    noise_claims = sum(r["noise_claimed"] for r in runs)
    return {
        "runs": runs,
        "seeds": count,
        "passed": len(passed),
        "claimed_failures": sum(not r["claimed"] for r in runs),
        "false_claims": len(false_claims),
        "noise_claims": noise_claims,
        "ok": len(passed) >= NEEDED * count and not false_claims and not noise_claims,
    }


def _say(run: Mapping[str, Any]) -> None:
    sys.stderr.write(
        f"seed {run['seed']}: C10 {run['c10_start_m'] * 1e9:+.0f} nm, Strehl {run['strehl_start']:.3f} to "
        f"{run['strehl_end']:.3f}, {run['frames']} frames, {run['seconds']:.1f} s: {run['message']}\n"
    )


def _no_policy(name: str, parameters: Mapping[str, Any]) -> Any:
    raise PlanError(f"autofocus asks for no policy, not {name!r}")
