"""A retraining beside the experiment: a process of its own that is started, looked at, and never waited for.

It has the lowest priority, one thread, a limit of memory that it sets itself (`retrain`), and a limit of time that is
held here. Whatever becomes of it, the ensemble that predicts is touched by nobody but the plug-in.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import is_alive

from .network import needed

Map = NDArray[np.float32]
SECONDS = 3600.0  # that a retraining may take: minutes on idle cores, but it stands back behind all else
MOST_PIXELS = (
    1 << 18
)  # of a map that is learned from, 512 x 512; a larger one is cut to its middle: memory is bounded
_GRACE_S = 60.0  # to start and to stop by itself
_PREFIX = "probeloop-retrain-"  # of its folder; then the number of the process that began it
_COMMAND = "import sys; from probeloop.cli import main; sys.exit(main(sys.argv[1:]))"
_HOW_FAR = re.compile(r"(\d+:\d\d) left \((\d+) %\)\n")  # as `retrain.Progress` says it
_LINE = 200  # bytes that hold its last word
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class Finished(msgspec.Struct, frozen=True):
    """What became of a retraining. weights: the new file, None = the old ensemble stays. text: for the operator."""

    weights: Path | None
    text: str


class Beside:
    """One retraining at a time. `look` says once what became of it; `close` removes what was not to be kept."""

    def __init__(self, name: str, command: Sequence[str] = (sys.executable, "-c", _COMMAND)) -> None:
        """Begin with none. name: of the drop-in that is trained. command: that of probeloop."""
        self.name, self.command = name, tuple(command)
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._until = 0.0
        self._told = 0
        _remove_what_dead_ones_left()

    @property
    def running(self) -> bool:
        """Whether there is one that was not told yet."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """The number of its process."""
        return self._process.pid if self._process is not None else None

    def start(self, maps: Sequence[Map], weights: Path, kept: Path | None, settings: dict[str, Any]) -> None:
        """Retrain `weights` on maps (ny, nx), NaN = not measured. kept: where the new file goes; None = for now only.

        settings: those of `retrain.Retraining`. Raises OSError when no process can be started.
        """
        self.stop()
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        write_maps(self._folder / "maps.safetensors", maps)
        out = kept if kept is not None else self._folder / "walls.safetensors"
        config = {"on": str(self._folder / "maps.safetensors"), "start": str(weights), "beside": os.getpid(),
                  "seconds": SECONDS, **settings}  # fmt: skip
        lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in config.items())
        (self._folder / "retrain.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        arguments = ["train", self.name, str(self._folder / "retrain.toml"), "--out", str(out)]
        with (self._folder / "out").open("wb") as told, (self._folder / "err").open("wb") as said:
            self._process = subprocess.Popen(
                [*self.command, *arguments], stdin=subprocess.DEVNULL, stdout=told, stderr=said,
                env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
            )  # fmt: skip
        self._until, self._told = time.monotonic() + float(config["seconds"]) + _GRACE_S, 0

    def progress(self) -> str:
        """Return how far it is, in words, whenever another quarter of it is done; else ""."""
        if self._process is None or self._folder is None:
            return ""
        try:
            with (self._folder / "err").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LINE))
                said = _HOW_FAR.findall(file.read().decode(errors="replace"))
        except OSError:
            return ""
        if not said or int(said[-1][1]) // 25 <= self._told:
            return ""
        self._told = int(said[-1][1]) // 25
        return f"the retraining: {said[-1][1]} % is done, {said[-1][0]} left"

    def look(self) -> Finished | None:
        """Return what became of it, once it has ended; None while it runs, or where there is none."""
        if self._process is None or self._folder is None:
            return None
        code = self._process.poll()
        if code is None:
            if time.monotonic() < self._until:
                return None
            return self._failed("it took too long")
        self._process = None
        if code < 0:
            return self._failed(f"its process was ended by signal {-code}")
        if code:
            lines = (self._folder / "err").read_text(errors="replace").strip().splitlines()
            why = lines[-1].removeprefix("probeloop: ")[:300] if lines else f"its process ended with code {code}"
            return self._failed(why)
        try:
            made = json.loads((self._folder / "out").read_text())
            text, kept, out = str(made["text"]), bool(made["kept"]), Path(made["out"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            return self._failed(f"what it says can't be read ({type(error).__name__})")
        return Finished(out, text) if kept else self._failed(text)

    def _failed(self, why: str) -> Finished:
        self.stop()
        return Finished(None, f"the retraining came to nothing and the networks stay as they were: {why}")

    def stop(self) -> None:
        """End the process, where there is one."""
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2.0)
            self._process = None

    def close(self) -> None:
        """End the process, and remove what it was given and the weights that were for now only."""
        self.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _remove_what_dead_ones_left() -> None:
    """Remove the folders of processes that were killed: a rig that ends waits for no plug-in."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        number = path.name.removeprefix(_PREFIX).partition("-")[0]
        if number.isdigit() and not is_alive(int(number)):
            shutil.rmtree(path, ignore_errors=True)


def write_maps(path: Path, maps: Sequence[Map]) -> None:
    """Write maps (ny, nx) of any shapes into one safetensors file, each cut to MOST_PIXELS."""
    save = needed("safetensors.numpy", "safetensors").save
    cut = {f"map.{i}": np.ascontiguousarray(middle(each), np.float32) for i, each in enumerate(maps)}
    path.write_bytes(save(cut))


def middle(values: Map) -> Map:
    """Return a map (ny, nx), or the middle of it where it is larger than MOST_PIXELS."""
    ny, nx = values.shape
    side = int(MOST_PIXELS**0.5)
    if ny * nx <= MOST_PIXELS:
        return values
    high, wide = min(ny, MOST_PIXELS // min(nx, side)), min(nx, MOST_PIXELS // min(ny, side))
    top, left = (ny - high) // 2, (nx - wide) // 2
    return values[top : top + high, left : left + wide]
