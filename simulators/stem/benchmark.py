"""The figures of `probeloop bench simulator`: interleaved rounds, a fresh place and seed in every frame."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from probeloop.api import Aberrations, DriverError, RecordError, interaction, wavelength

from .camera import IdealSensor
from .exposure import Exposer, Pattern
from .noise import count_electrons, stream_seed
from .physics import Geometry
from .scattering import ScatteringSettings
from .scattering.reference import FOLDER, samples
from .specimen import StructureSettings
from .world import World

_EXPOSURE = 1e-3  # [s]
DOSE = 1e4
FIELD = 3.1e-9  # [m] of the window; 0.12 Å pixels at 256
MEANS = (0.003, 0.3, 1.7, 9.5, 11.9, 12.1, 40.0, 900.0)
RIVAL = FOLDER.parents[1] / "bench" / "rivals" / "abtem_scan.py"
_KNOBS = {"C10": -8e-9, "C12a": 1e-9, "C21b": 20e-9, "C23a": 15e-9, "C30": 1e-6}
_VOLTAGE, _ANGLE = 200e3, 25e-3


class Camera:
    """SrTiO3 under a camera of n x n pixels: the exposer of the simulator, with nothing before or behind it."""

    def __init__(self, pixels: int, slices: int, seed: int, threads: int = 2) -> None:
        lamda = wavelength(_VOLTAGE)
        self.geometry = Geometry(pixels, lamda / FIELD, lamda, _ANGLE)
        if pixels == 128:
            self.geometry = Geometry(pixels, lamda / FIELD * 2, lamda, _ANGLE)
        settings = StructureSettings(thickness=1.6)
        tile = 4 * pixels
        self.world = World(
            "srtio3", settings, ScatteringSettings(slices=slices), self.geometry, _VOLTAGE, tile, seed, threads
        )
        self._exposer = Exposer(self.geometry, self.world, seed, threads)
        self._rng = np.random.default_rng([seed, pixels, slices])
        self._number = 0
        self.per_cpu_second: list[float] = []
        self._aberrations = Aberrations(**_KNOBS)
        self._out = np.zeros((64, pixels, pixels), np.uint16)
        self._camera = _ideal_camera(pixels)

    def rate(self, seconds: float) -> float:
        """Return frames per second; every frame at a fresh place, with a seed of its own."""
        done, began, busy = 0, time.perf_counter(), time.process_time()
        while (took := time.perf_counter() - began) < seconds or not done:
            self.frames(64)
            done += 64
        self.per_cpu_second.append(done / (time.process_time() - busy))
        return done / took

    def frames(self, count: int) -> NDArray[np.uint16]:
        """Return the next frames (count, n, n); valid until the next call."""
        places = self._rng.uniform(-1e-9, 1e-9, (count, 2))
        numbers = np.arange(self._number, self._number + count)
        self._number += count
        self._exposer.expose(
            [self._aberrations] * count, places, numbers, DOSE, _EXPOSURE, self._camera, self._out[:count]
        )
        return self._out[:count]

    def close(self) -> None:
        """End the threads."""
        self._exposer.close()


def run(seed: int = 0, seconds: float | None = None, progress: bool = False) -> dict[str, Any]:
    """Return the figures.

    fps_256_1slice, fps_256_4slices, fps_128_1slice [1/s]. frames_per_cpu_second: of one core, which tells less of
    what else the machine did. agreement_complex64, agreement_complex128: the largest difference from abTEM over the
    brightest pixel, by sample and in all. x_abtem: our frames, counted, over abTEM's scan of the same slices, the
    smaller of its eager and its lazy way, medians of ratios within a round; on a busy machine its sisters per second
    of processor time tell more. aberration_ms: calculating a new probe. field_60nm: memory [MB]. poisson_p_values.
    deterministic: the same bits with one thread and two. ok: whether all targets are met.
    """

    def say(text: str) -> None:
        if progress:
            sys.stderr.write(f"{text}\n")

    budget = (seconds or 40.0) / 2
    found: dict[str, Any] = {"dose": DOSE, "threads": 2, "seed": seed}
    cameras = {name: Camera(*what, seed) for name, what in _CAMERAS.items()}
    found["aberration_ms"] = _new_probe(cameras["fps_256_4slices"].world)
    say("frames")
    with _rival(cameras["fps_256_4slices"], found) as rival:
        rounds: dict[str, list[float]] = {name: [] for name in cameras}
        beside: dict[str, list[tuple[float, float, float, float]]] = {"eager": [], "lazy": []}
        turn, began = 0, time.perf_counter()
        while time.perf_counter() - began < budget or turn < 6:
            for name in _turned(list(rounds), turn):
                figure = cameras[name].rate(0.5)
                if turn:  # the first warms up
                    rounds[name].append(figure)
            for how in beside:  # ours right before and right after theirs
                if rival is None:
                    break
                camera = cameras["fps_256_4slices"]
                before, theirs, after = camera.rate(0.5), rival(how), camera.rate(0.5)
                if turn:
                    busy = sum(camera.per_cpu_second[-2:]) / 2
                    beside[how].append((2 / (1 / before + 1 / after), theirs[0], busy, theirs[1]))
            turn += 1
    for camera in cameras.values():
        camera.close()
    found |= {name: median(rounds[name]) for name in cameras}
    found["spread"] = {name: [min(values), max(values)] for name, values in rounds.items()}
    found["rounds"] = turn - 1
    found["frames_per_cpu_second"] = {name: median(camera.per_cpu_second) for name, camera in cameras.items()}
    if rival:
        for how, pairs in beside.items():
            found[f"fps_abtem_{how}"] = median(pair[1] for pair in pairs)
            found[f"x_abtem_{how}"] = median(pair[0] / pair[1] for pair in pairs)
            found[f"x_abtem_{how}_per_cpu_second"] = median(pair[2] / pair[3] for pair in pairs)
        found["x_abtem"] = min(found["x_abtem_eager"], found["x_abtem_lazy"])
    say("agreement, noise, memory")
    found |= agreement()
    found["poisson_p_values"] = {f"{mean:g}": poisson_p_value(mean, seed) for mean in MEANS}
    found["deterministic"] = deterministic(seed)
    found["field_60nm"] = _field_memory()
    found["ok"] = _ok(found)
    return found


_CAMERAS = {"fps_256_1slice": (256, 1), "fps_256_4slices": (256, 4), "fps_128_1slice": (128, 1)}


def agreement(folder: Path = FOLDER) -> dict[str, Any]:
    """Return how far the multislice is from the committed patterns of abTEM; null where there are none."""
    try:
        crystals = samples(folder)
    except RecordError as error:
        return {"agreement_complex64": None, "agreement_complex128": None, "agreement_note": str(error)}
    single = {crystal.name: crystal.disagreement() for crystal in crystals}
    double = {crystal.name: crystal.disagreement(np.complex128) for crystal in crystals}
    return {
        "agreement_complex64": max(single.values()),
        "agreement_complex128": max(double.values()),
        "agreement_by_sample": {name: [single[name], double[name]] for name in single},
    }


def poisson_p_value(mean: float, seed: int, frames: int = 61) -> float:
    """Return the p value of a chi-square test of a quarter of a million counts against Poisson's law."""
    n = 64
    amplitude = np.full((n, n), np.sqrt(mean), np.complex64)
    actual = float(amplitude[0, 0].real) ** 2
    draws = np.empty((frames, n, n), np.uint16)
    for frame in range(frames):
        count_electrons(amplitude, 1.0, stream_seed(seed), np.uint64(frame), draws[frame])
    counts, size = draws.ravel().astype(np.int64), draws.size
    values = np.arange(int(stats.poisson.ppf(1e-5, actual)), int(stats.poisson.ppf(1 - 1e-5, actual)) + 1)
    expected = stats.poisson.pmf(values, actual) * size
    observed = np.bincount(counts, minlength=values[-1] + 1)[values[0] : values[-1] + 1]
    keep = expected > 10
    o = np.append(observed[keep], size - observed[keep].sum())
    e = np.append(expected[keep], size - expected[keep].sum())
    if e[-1] < 5:  # too rare for a class of its own
        o, e = np.append(o[:-2], o[-2:].sum()), np.append(e[:-2], e[-2:].sum())
    return float(stats.chisquare(o, e).pvalue)


def _ideal_camera(pixels: int) -> Pattern:
    return Pattern(IdealSensor(), pixels, lambda: True)


def deterministic(seed: int) -> bool:
    """Return whether one thread and two give the same bits, frozen phonons and a source of some size included."""
    lamda = wavelength(_VOLTAGE)
    geometry = Geometry(64, lamda / 1.5e-9, lamda, 20e-3)
    places = np.random.default_rng(seed).uniform(-1e-9, 1e-9, (24, 2))
    numbers, aberrations = np.arange(24), [Aberrations(**_KNOBS)] * 24
    scattering = ScatteringSettings(slices=2, configurations=3, samples=3, focal_spread=4.0, source_size=0.05)
    made = []
    for threads in (1, 2):
        world = World("srtio3", StructureSettings(), scattering, geometry, _VOLTAGE, 512, seed, threads)
        exposer = Exposer(geometry, world, seed, threads)
        out = np.zeros((24, 64, 64), np.uint16)
        exposer.expose(aberrations, places, numbers, DOSE, _EXPOSURE, _ideal_camera(64), out)
        exposer.close()
        made.append(out)
    return bool((made[0] == made[1]).all() and made[0].any())


def _new_probe(world: World) -> float:
    took = []
    for i in range(12):
        values = dict.fromkeys(Aberrations.__struct_fields__, (1 + 0.01 * i) * 1e-10)
        began = time.perf_counter()
        world.probe(Aberrations(**values))
        took.append(time.perf_counter() - began)
    return median(took) * 1e3


def _turned(names: list[str], turn: int) -> list[str]:
    first = turn % len(names)
    return names[first:] + names[:first]


def _field_memory() -> dict[str, float] | None:
    made = subprocess.run(
        [sys.executable, "-m", "probeloop.simulators.stem.field_memory"], capture_output=True, text=True, check=False
    )
    result: dict[str, float] | None = json.loads(made.stdout) if made.returncode == 0 else None
    return result


@contextmanager
def _rival(camera: Camera, found: dict[str, Any]) -> Iterator[Callable[[str], tuple[float, float]] | None]:
    """Start abTEM on the slices of `camera`, where PROBELOOP_ABTEM names a Python that has it; else say so."""
    python = os.environ.get("PROBELOOP_ABTEM", "")
    if not python or not RIVAL.is_file():
        found["x_abtem"] = None
        found["x_abtem_note"] = (
            "abTEM has an environment of its own: pip install abtem==1.0.11 there; set PROBELOOP_ABTEM to its python"
        )
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "field.npz"
        _write_field(camera, path)
        with subprocess.Popen(
            [python, str(RIVAL), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise DriverError("abTEM did not start", f"try {python} -c 'import abtem'")
            yield lambda how: _ask(process, how)
            process.stdin.close()


def _ask(process: subprocess.Popen[str], how: str) -> tuple[float, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{how}\n")
    process.stdin.flush()
    rate, per_cpu_second = map(float, process.stdout.readline().split())
    return rate, per_cpu_second


def _write_field(camera: Camera, path: Path) -> None:
    geometry, world = camera.geometry, camera.world
    n = geometry.pixels
    angles = [np.angle(field[:n, :n]) for field in world.medium.fields]
    volts = np.array(angles, np.float32) / np.float32(interaction(_VOLTAGE) * 1e-10)
    np.savez(
        path,
        potential=volts,
        sampling=geometry.pixel * 1e10,
        thickness=world.cut.thickness * 1e10,
        voltage=_VOLTAGE,
        angle=_ANGLE * 1e3,
        defocus=_KNOBS["C10"] * 1e10,
        reach=4.0,
        scan=np.array([8, 16]),
    )


def _ok(found: dict[str, Any]) -> bool:
    memory = found["field_60nm"]
    single, double = found["agreement_complex64"], found["agreement_complex128"]
    return bool(
        found["fps_256_1slice"] >= 1000
        and found["fps_256_4slices"] >= 300
        and found["aberration_ms"] < 5
        and (single is None or (single < 1e-4 and double < 1e-6))
        and (found["x_abtem"] is None or found["x_abtem"] >= 4)
        and min(found["poisson_p_values"].values()) > 1e-4
        and found["deterministic"]
        and memory is not None
        and memory["peak_mb"] <= 1000
    )
