"""The package list against the disk, the rooms' guards, and what a wheel really holds."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "probeloop": "src/probeloop",
    "probeloop.plugins": "plugins",
    "probeloop.drivers": "drivers",
    "probeloop.simulators": "simulators",
    "probeloop.gui": "gui",
}
DATA = ("*.pyi", "*.toml", "*.svg", "*.png", "*.safetensors", "py.typed")
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = CONFIG["tool"]["setuptools"]


def packages_on_disk(root: Path) -> tuple[set[str], list[str]]:
    """Return the dotted packages of all rooms, and in words every folder that can't be one."""
    found: set[str] = set()
    faults: list[str] = []
    for name, folder in ROOMS.items():
        for sub in [root / folder, *sorted((root / folder).rglob("*"))]:
            shipped = sub.is_dir() and sub.name != "__pycache__" and any(shipped_files(sub))
            if not shipped:
                continue
            if not (sub / "__init__.py").is_file():
                faults.append(f"{sub.relative_to(root).as_posix()} has no __init__.py")
            found.add(".".join([name, *sub.relative_to(root / folder).parts]))
    return found, faults


def shipped_files(folder: Path) -> Iterable[Path]:
    """Yield the files directly in `folder` that belong into a wheel."""
    for pattern in ("*.py", *DATA):
        yield from folder.glob(pattern)


def wheel_names(root: Path) -> set[str]:
    """Return the paths inside a wheel that the tree asks for."""
    names = set()
    for name, folder in ROOMS.items():
        for path in (root / folder).rglob("*"):
            if path.is_file() and path in set(shipped_files(path.parent)):
                names.add("/".join([*name.split("."), *path.relative_to(root / folder).parts]))
    return names


def build_wheel(tree: Path, out: Path) -> set[str]:
    """Build a wheel of `tree` and return the paths of its files, without its own description."""
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "--no-deps",
         "--no-build-isolation", "--no-index", "-w", str(out), str(tree)],
        check=True, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def copy_tree(to: Path) -> Path:
    """Copy what a wheel is made of, so that building leaves nothing in the checkout."""
    rubbish = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ROOMS.values():
        shutil.copytree(ROOT / folder, to / folder, ignore=rubbish)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to / name)
    return to


def test_the_package_list_is_what_is_on_the_disk() -> None:
    found, faults = packages_on_disk(ROOT)
    assert faults == []
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)
    assert SETUPTOOLS["package-dir"] == ROOMS
    assert tuple(SETUPTOOLS["package-data"]["*"]) == DATA


def test_a_folder_without_init_and_an_unlisted_package_are_found(tmp_path: Path) -> None:
    for folder in ROOMS.values():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "plugins" / "new").mkdir()
    (tmp_path / "plugins" / "new" / "rig.toml").touch()
    found, faults = packages_on_disk(tmp_path)
    assert faults == ["plugins/new has no __init__.py"]
    assert found == {*ROOMS, "probeloop.plugins.new"}


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "probeloop"])
def test_a_room_is_importable_under_one_name_only(room: str) -> None:
    path = ROOT / ROOMS[room] / "__init__.py"
    wrong = importlib.util.spec_from_file_location(ROOMS[room], path)
    assert wrong is not None
    assert wrong.loader is not None
    with pytest.raises(ImportError, match=f"import it as {room}, not as {ROOMS[room]}"):
        wrong.loader.exec_module(importlib.util.module_from_spec(wrong))
    assert importlib.import_module(room).__name__ == room


def test_a_wheel_holds_every_module_and_its_data(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    wanted = wheel_names(tree)
    (tree / "plugins" / "unlisted").mkdir()
    (tree / "plugins" / "unlisted" / "__init__.py").touch()
    found = build_wheel(tree, tmp_path / "out")
    assert found == wanted
    assert "probeloop/py.typed" in found
    # and the comparison can fail: a package that the list does not name is missing from the wheel
    assert wheel_names(tree) - found == {"probeloop/plugins/unlisted/__init__.py"}


def test_no_stale_build_folder_lies_about() -> None:
    stale = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "build").glob("lib/**/*.py")
        if path.relative_to(ROOT / "build" / "lib").as_posix() not in wheel_names(ROOT)
    ]
    assert stale == [], "remove build/: a wheel made now would ship deleted files"


def test_every_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {_plain(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    project = CONFIG["project"]
    wanted = [*project["dependencies"], *CONFIG["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    names = {_plain(re.split(r"[\[<>=!~ ]", line)[0]) for line in wanted} - {"probeloop"}
    assert names - pinned == set()
    exact = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line) for line in exact)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


def test_check_in_calls_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    calls = [line for line in script.read_text().splitlines() if re.search(r"\b(make|pytest|pip)\b", line)]
    assert [line for line in calls if not line.startswith("#") and "export" not in line] == [
        "exec make test </dev/null"
    ]
