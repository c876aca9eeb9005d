"""LiberTEM on the same frames, in a process of its own, one round at a time."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.errors import ProbeloopError

SCRIPT = Path(__file__).parents[3] / "tests" / "bench" / "rivals" / "libertem_inline.py"  # a wheel has none
_LONGEST_S = 120.0


def missing(script: Path = SCRIPT) -> str:
    """Return in one line why LiberTEM can't run and what to do, "" when it can."""
    if not script.exists():
        return f"{script.name} is not here: run this from a checkout"
    tried = subprocess.run([sys.executable, str(script), "try"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return ""
    why = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
    return f"{why}: pip install -c constraints.txt -e '.[bench]'"


class LiberTEM:
    """A process that serves rounds; a context manager. Raises ProbeloopError when it does not begin.

    folder: of frames.npy, masks.npy and task.json, see the script; its results come to lie there.
    """

    def __init__(self, folder: Path, script: Path = SCRIPT) -> None:
        self._folder = folder
        with (folder / "stderr.txt").open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, str(script), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                bufsize=1,
            )
        try:
            told = self._answer()
        except BaseException:
            self.close()
            raise
        self.version: str = told["version"]
        self.variants: list[str] = told["variants"]

    def run(self, variant: str) -> tuple[float, float, NDArray[Any]]:
        """Run one variant over all frames; return CPU seconds, wall seconds and the sums (N, K + 3)."""
        assert self._process.stdin is not None
        self._process.stdin.write(variant + "\n")
        told = self._answer()
        return told["cpu_s"], told["wall_s"], np.load(self._folder / f"{variant}.npy")

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _LONGEST_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            said = (self._folder / "stderr.txt").read_text().strip().splitlines()
            raise ProbeloopError(f"LiberTEM does not answer: {said[-1] if said else 'it said nothing'}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> LiberTEM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()
