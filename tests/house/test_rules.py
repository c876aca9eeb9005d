"""The rules of lint, types and tests are in force: bad input is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
BAD = '''"""A module."""

import pickle
import time


def wait(thing):
    time.sleep(1)
    thing._secret()
    return pickle.loads(b"")
'''


def lint(name: str, source: str) -> set[str]:
    """Return the codes of what ruff finds in a file of that name, under our configuration."""
    out = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "json", "--config",
         str(ROOT / "pyproject.toml"), "--stdin-filename", str(ROOT / name), "-"],
        input=source, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return {found["code"] for found in json.loads(out.stdout)}


@pytest.mark.parametrize("name", ["src/probeloop/data/bad.py", "plugins/bad.py", "gui/views/bad.py"])
def test_lint_refuses_sleep_pickle_private_access_and_silence(name: str) -> None:
    assert {"TID251", "S301", "SLF001", "D103"} <= lint(name, BAD)


def test_tests_may_look_inside() -> None:
    assert lint("tests/data/test_bad.py", BAD) == set()


def test_types_are_strict_in_all_five_rooms() -> None:
    assert TOOLS["mypy"]["strict"] is True
    assert set(TOOLS["mypy"]["files"]) == {"src", "plugins", "drivers", "simulators", "gui"}


def test_warnings_are_errors_and_every_test_has_a_timeout(request: pytest.FixtureRequest) -> None:
    with pytest.raises(UserWarning):
        warnings.warn("forgotten", UserWarning, stacklevel=1)
    assert float(request.config.getini("timeout")) > 0
    assert request.config.getoption("importmode") == "importlib"
