"""Where the window was, and what was chosen in it: one small JSON file of this user."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = 1


def layout_file() -> Path:
    """Return the file; PROBELOOP_CONFIG names another folder."""
    folder = os.environ.get("PROBELOOP_CONFIG")
    if folder:
        return Path(folder) / "window.json"
    import platformdirs

    return Path(platformdirs.user_config_dir("probeloop", appauthor=False)) / "window.json"


def load_layout() -> dict[str, Any]:
    """Return what was saved; an absent, foreign or broken file is an empty layout."""
    try:
        found = json.loads(layout_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("version") == VERSION else {}


def save_layout(values: Mapping[str, Any]) -> bool:
    """Write the layout in one move; False where the file can't be written."""
    path = layout_file()
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"version": VERSION, **values}), encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        return False
    return True
