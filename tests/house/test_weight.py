"""A process imports only what it needs: nothing heavy comes along with the core or with any drop-in's module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "src/probeloop": "probeloop",
    "plugins": "probeloop.plugins",
    "drivers": "probeloop.drivers",
    "simulators": "probeloop.simulators",
    "gui/models": "probeloop.gui.models",
}
HEAVY = ("PySide6", "pyqtgraph", "torch", "cupy", "hyperspy", "rsciio", "zarr", "h5py", "dask", "matplotlib", "zmq")
LIGHT = (*HEAVY, "numba", "scipy", "iceoryx2", "numcodecs")  # data/ is imported by everybody
PROGRAM = """
import importlib, sys
for name in sys.argv[2].split(): importlib.import_module(name)
print(*[name for name in sys.argv[1].split() if name in sys.modules])
"""


def modules(folder: str, name: str) -> list[str]:
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        if parts[-1] != "__main__":
            found.append(".".join([name, *parts]).removesuffix(".__init__"))
    return found


def loaded(names: list[str], heavy: tuple[str, ...]) -> list[str]:
    """Import the modules in a fresh process and return which of the heavy libraries that brought in."""
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM, " ".join(heavy), " ".join(names)], capture_output=True, text=True, timeout=100
    )
    assert out.returncode == 0, out.stderr[-2000:]
    return out.stdout.split()


@pytest.mark.parametrize("folder", ROOMS)
def test_importing_a_room_loads_nothing_heavy(folder: str) -> None:
    assert loaded(modules(folder, ROOMS[folder]), HEAVY) == []


def test_the_words_weigh_nothing() -> None:
    assert loaded(modules("src/probeloop/data", "probeloop.data"), LIGHT) == []


@pytest.mark.parametrize(
    "names",
    [
        ["probeloop.cli", "probeloop.rig.run", "probeloop.rig.session", "probeloop.rig.process"],
        ["probeloop.rig.roles", "probeloop.instrument.guard"],
        ["probeloop.gui.stop_window", "probeloop.gui.views.stop_panel", "probeloop.rig.client"],
    ],
    ids=["supervisor", "guard", "stop window"],
)
def test_who_looks_at_no_array_does_without_numpy(names: list[str]) -> None:
    assert loaded(names, ("numpy", "numba", "scipy", "pyqtgraph", "h5py")) == []


def test_a_heavy_library_is_found() -> None:
    assert loaded(["h5py"], HEAVY) == ["h5py"]
