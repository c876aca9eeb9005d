"""Sizes, doctests, and no trace of the machine that a file was written on."""

from __future__ import annotations

import doctest
import importlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {"src/probeloop": "probeloop", **{r: f"probeloop.{r}" for r in ("plugins", "drivers", "simulators", "gui")}}
MOST_LINES = 400
TEXT = {".py", ".toml", ".md", ".txt", ".cfg", ".yml", ".yaml", ".json", ".sh", ""}
# the homes of people and the usual places of a checkout; \b keeps "a/work/b" and "//home" of an address out
MACHINE_PATH = re.compile(r"(?<![\w.:/~$}])/(?:work|home|root|Users|mnt|media)/[\w.]+|\b[A-Z]:\\\\?Users\b")


def sources(root: Path) -> list[Path]:
    folders = [*ROOMS, "tests"]
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def texts(root: Path) -> list[Path]:
    folders = [*ROOMS, "tests", "docs", ".ci"]
    found = [path for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
    found += [path for path in root.iterdir() if path.is_file()]
    return sorted(path for path in found if path.suffix in TEXT and "__pycache__" not in path.parts)


def too_long(files: Iterable[Path], most: int = MOST_LINES) -> list[str]:
    """Return the files with more than `most` lines."""
    counted = [(path, len(path.read_text().splitlines())) for path in files]
    return [f"{path.name}: {lines} lines, at most {most}" for path, lines in counted if lines > most]


def machine_paths(files: Iterable[Path]) -> list[str]:
    """Return every line that names a place on somebody's machine."""
    found = []
    for path in files:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.name}:{number}: {line.strip()[:100]}")
    return found


def module_name(path: Path) -> str:
    for folder, name in ROOMS.items():
        if path.is_relative_to(ROOT / folder):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            return ".".join([name, *parts]).removesuffix(".__init__")
    raise ValueError(path)


WITH_EXAMPLES = [p for p in sources(ROOT) if ">>> " in p.read_text() and "tests" not in p.relative_to(ROOT).parts]


def test_no_file_is_longer_than_400_lines() -> None:
    assert too_long(sources(ROOT)) == []


def test_a_long_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("\n" * 401)
    (tmp_path / "full.py").write_text("\n" * 400)
    assert too_long(sorted(tmp_path.iterdir())) == ["long.py: 401 lines, at most 400"]


def test_nothing_names_a_place_on_a_machine() -> None:
    own = Path(__file__)
    assert machine_paths(path for path in texts(ROOT) if path != own and path.name != "LICENSE") == []


@pytest.mark.parametrize("line", ["p = '/home/ann/x'", 'open("/work/a")', "see /Users/ann/b", r"C:\Users\ann"])
def test_a_place_on_a_machine_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.py").write_text(f"fine = '../shared/data'\n{line}\n")
    assert len(machine_paths([tmp_path / "a.py"])) == 1


@pytest.mark.parametrize("line", ["/tmp/iceoryx2", "/dev/shm", "https://a.org/home/x", "$HOME/work/x", "src/root/a"])
def test_other_paths_pass(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.py").write_text(line)
    assert machine_paths([tmp_path / "a.py"]) == []


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_in_docstrings_are_true(path: Path) -> None:
    result = doctest.testmod(importlib.import_module(module_name(path)))
    assert result.attempted > 0
    assert result.failed == 0


def test_there_are_examples() -> None:
    assert WITH_EXAMPLES
