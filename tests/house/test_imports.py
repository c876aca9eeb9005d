"""Who may import whom (docs: the rooms), read from the source, late imports and type-checking ones included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = "src/probeloop"
DROP_IN_ROOMS = ("plugins", "drivers", "simulators", "gui")
DOORS = ("probeloop.api", "probeloop.testing")

# A room of the core imports rooms of a lower level, never one of its own.
LEVEL = {
    "data": 0,
    "bus": 1,
    "compute": 1,
    "discover": 1,
    "plugin": 2,
    "instrument": 2,
    "testing": 3,
    "experiment": 3,
    "record": 3,
    "bench": 4,
    "rig": 4,
    "cli": 5,
}
API = 5  # api.py re-exports what drop-ins need, the client of a running rig included; nothing of the core imports it
OWNERS = {  # a library -> the only places of the core that may import it (a folder ends with /)
    "iceoryx2": ("bus/",),
    "zmq": ("bus/relay/sockets.py",),
    "cupy": ("compute/backend.py",),
    "torch": ("compute/backend.py",),
    "importlib": ("discover.py", "api.py"),
    "PySide6": (),
    "pyqtgraph": (),
    "hyperspy": (),
    "pickle": (),
}
ALWAYS = ("importlib.machinery", "importlib.metadata", "importlib.resources")


def imported(source: str, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of everything that `module` imports, down to the imported name."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parts = parts[: len(parts) - (node.level - 1)]
                base = ".".join([*parts, base]) if base else ".".join(parts)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            if name in ("__import__", "import_module"):
                yield node.lineno, "importlib"


def wrong_imports(root: Path) -> list[str]:
    """Return every import in the tree that breaks a rule, as "file:line: what"."""
    found: list[str] = []
    core = root / CORE
    for path in sorted(core.rglob("*.py")):
        inside = path.relative_to(core)
        module = ".".join(["probeloop", *inside.with_suffix("").parts]).removesuffix(".__init__")
        room = inside.parts[0].removesuffix(".py")
        drop_in = "drop_ins" in inside.parts  # what a bench brings along for its rigs
        for line, name in imported(path.read_text(), module, is_package=path.name == "__init__.py"):
            fault = _drop_in_fault("drop_ins", name) if drop_in else _core_fault(room, inside.as_posix(), name)
            if fault:
                found.append(f"{CORE}/{inside.as_posix()}:{line}: {fault}")
    for room in DROP_IN_ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            inside = path.relative_to(root / room)
            module = ".".join([f"probeloop.{room}", *inside.with_suffix("").parts]).removesuffix(".__init__")
            for line, name in imported(path.read_text(), module, is_package=path.name == "__init__.py"):
                fault = _drop_in_fault(room, name)
                if fault:
                    found.append(f"{room}/{inside.as_posix()}:{line}: {fault}")
    return found


def _under(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _core_fault(room: str, inside: str, name: str) -> str:
    if _under(name, "probeloop"):
        other = name.split(".")[1] if "." in name else ""
        if other in DROP_IN_ROOMS:
            return f"the core knows no drop-ins, but imports {name}"
        if other == "api":
            return (
                "" if room == "cli" else "probeloop.api is the door for drop-ins; the core imports the module itself"
            )
        if other not in LEVEL or other == room or room == "__init__":
            return ""
        level = API if room == "api" else LEVEL.get(room)
        if level is None:
            return f"{room} is a room without a level: add it to LEVEL"
        if LEVEL[other] >= level:
            return f"{room} may not import {other}"
        return ""
    top = name.split(".")[0]
    if top in OWNERS and not any(_under(name, each) for each in ALWAYS):
        homes = OWNERS[top]
        if not any(inside.startswith(home) if home.endswith("/") else inside == home for home in homes):
            return f"{top} belongs to {', '.join(homes) or 'no module of the core'}"
    return ""


def _drop_in_fault(room: str, name: str) -> str:
    top = name.split(".")[0]
    if _under(name, "probeloop"):
        if any(_under(name, door) for door in DOORS) or _under(name, f"probeloop.{room}"):
            return ""
        return f"a drop-in imports probeloop.api, probeloop.testing and its own room, not {name}"
    if top in DROP_IN_ROOMS:
        return f"{name} makes the module a second time: import it relatively"
    if top in ("iceoryx2", "pickle"):
        return f"{top} belongs to {', '.join(OWNERS[top]) or 'nobody'}"
    if top in ("PySide6", "pyqtgraph") and room != "gui":
        return f"{top} belongs to gui"
    return ""


def test_the_tree_keeps_the_direction() -> None:
    assert wrong_imports(ROOT) == []


def test_the_lazy_door_keeps_the_direction_too() -> None:
    from probeloop import api

    rooms = {module.split(".")[0] for module in api._HOME.values()}
    assert {room for room in rooms if LEVEL[room] >= API} == set()


def test_every_room_of_the_core_has_a_level() -> None:
    on_disk = {p.name.removesuffix(".py") for p in (ROOT / CORE).iterdir() if p.is_dir() or p.suffix == ".py"}
    assert on_disk - {"__pycache__", "__init__", "__main__", "api", *LEVEL} == set()


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("src/probeloop/data/a.py", "from probeloop.bus import topic", "data may not import bus"),
        ("src/probeloop/data/a.py", "def f():\n    from ..bus import topic", "data may not import bus"),
        ("src/probeloop/instrument/a.py", "from ..plugin.contract import Policy", "instrument may not import plugin"),
        ("src/probeloop/bus/a.py", "from .. import compute", "bus may not import compute"),
        ("src/probeloop/record/a.py", "import probeloop.experiment.loop", "record may not import experiment"),
        ("src/probeloop/bus/sub/b.py", "from ...rig import schema", "bus may not import rig"),
        ("src/probeloop/bench/a.py", "from probeloop.rig import schema", "bench may not import rig"),
        ("src/probeloop/discover.py", "from .plugin import contract", "discover may not import plugin"),
        ("src/probeloop/api.py", "from .cli import main", "api may not import cli"),
        ("src/probeloop/rig/a.py", "from probeloop.simulators import stem", "knows no drop-ins"),
        ("src/probeloop/rig/a.py", "from probeloop.api import Axis", "door for drop-ins"),
        ("src/probeloop/instrument/a.py", "import iceoryx2 as iox2", "iceoryx2 belongs to bus/"),
        ("src/probeloop/bus/topic.py", "import zmq", "zmq belongs to bus/relay/sockets.py"),
        ("src/probeloop/plugin/a.py", "import importlib.util", "importlib belongs to discover.py"),
        ("src/probeloop/plugin/a.py", "m = __import__('os')", "importlib belongs to discover.py"),
        ("src/probeloop/record/a.py", "import hyperspy.api as hs", "hyperspy belongs to no module"),
        ("src/probeloop/spare/a.py", "from probeloop.data import axes", "spare is a room without a level"),
        ("plugins/a.py", "from probeloop.data.axes import Axis", "a drop-in imports probeloop.api"),
        ("src/probeloop/bench/c/drop_ins/a.py", "from probeloop.bus import node", "a drop-in imports probeloop.api"),
        ("plugins/a.py", "from probeloop import data", "a drop-in imports probeloop.api"),
        ("plugins/a.py", "from plugins.explore import raster", "a second time"),
        ("plugins/a/b.py", "from ..c import d\nfrom ...gui import x", "not probeloop.gui.x"),
        ("drivers/a.py", "from probeloop.simulators.stem import probe", "a drop-in imports probeloop.api"),
        ("simulators/stem/a.py", "from PySide6 import QtCore", "PySide6 belongs to gui"),
        ("gui/views/a.py", "from probeloop.bus.topic import Topic", "a drop-in imports probeloop.api"),
        ("gui/models/a.py", "import iceoryx2", "iceoryx2 belongs to bus/"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, path: str, source: str, words: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    found = wrong_imports(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(f"{path}:")
    assert words in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("src/probeloop/bus/a.py", "import iceoryx2\nfrom ..data import axes\nfrom . import header"),
        ("src/probeloop/rig/a.py", "import importlib.metadata\nfrom ..plugin.host import run\nimport numpy"),
        ("src/probeloop/plugin/a.py", "from .contract import Policy\nfrom probeloop.discover import find"),
        ("src/probeloop/cli/a.py", "from . import demo\nfrom ..rig.load import load\nfrom .. import bench"),
        ("plugins/a.py", "import torch\nfrom probeloop.api import Axis\nfrom .explore import raster"),
        ("plugins/b/c.py", "from ..a import x\nfrom probeloop.testing import check_plugin"),
        ("gui/views/a.py", "from PySide6 import QtCore\nfrom ..models import state"),
    ],
)
def test_a_right_import_passes(tmp_path: Path, path: str, source: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert wrong_imports(tmp_path) == []
