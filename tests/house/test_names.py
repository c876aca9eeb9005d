"""The public names of probeloop.api, pinned: a name that goes or comes is a decision, not an accident."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import probeloop.api

PINNED = Path(__file__).parent / "api_names.txt"


def test_the_public_names_are_the_pinned_ones() -> None:
    pinned = PINNED.read_text().split()
    assert pinned == sorted(set(pinned))
    assert list(probeloop.api.__all__) == pinned, "meant so? then change tests/house/api_names.txt and CHANGELOG.md"


def test_every_name_is_there_and_documented() -> None:
    missing = [name for name in probeloop.api.__all__ if not hasattr(probeloop.api, name)]
    assert missing == []
    silent = [
        name
        for name in probeloop.api.__all__
        if isinstance(thing := getattr(probeloop.api, name), type) and not (thing.__doc__ or "").strip()
    ]
    assert silent == []


def test_the_door_loads_nothing_before_it_is_asked() -> None:
    source = "import sys, probeloop.api; print(*sorted(m for m in sys.modules if m.startswith('probeloop')))"
    out = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.split() == ["probeloop", "probeloop.api"]


def test_a_wrong_name_is_an_attribute_error() -> None:
    assert not hasattr(probeloop.api, "Manager")


def test_the_stub_of_the_door_says_what_its_table_says() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("api_stub", Path(__file__).with_name("api_stub.py"))
    assert spec is not None
    assert spec.loader is not None
    stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stub)
    assert stub.STUB.read_text() == stub.rendered(), "write it again: python tests/house/api_stub.py"
