"""Frames, commands and events between the processes of one rig."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from typing import Any


def _import_iceoryx2_alone() -> None:
    """Import iceoryx2 without numpy, which its flatbuffers takes along for a feature that nobody here uses.

    A process that looks at no array (supervisor, guard, the stop window) is 13 MB smaller for it.
    """
    find_spec = PathFinder.find_spec

    def without_numpy(name: str, *arguments: Any) -> Any:
        return None if name == "numpy" else find_spec(name, *arguments)

    PathFinder.find_spec = without_numpy  # type: ignore[method-assign,assignment]
    try:
        import iceoryx2  # noqa: F401 - found in sys.modules by all others
    finally:
        PathFinder.find_spec = find_spec  # type: ignore[method-assign]


if "numpy" not in sys.modules and "iceoryx2" not in sys.modules:
    _import_iceoryx2_alone()
