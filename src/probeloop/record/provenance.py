"""Where a session came from: versions, git state, hashes of the source, seeds, rig, calibrations."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from ..data.calibration import Calibration

_PACKAGES = ("probeloop", "iceoryx2", "msgspec", "numpy", "numba", "scipy", "numcodecs",
             "PySide6-Essentials", "torch", "rosettasciio", "h5py")  # fmt: skip
_ROOMS = ("plugins", "drivers", "simulators", "gui")


def environment(seeds: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a person needs to run the same again."""
    source = Path(__file__).resolve().parents[1]
    return {
        "started": datetime.now().astimezone().isoformat(timespec="milliseconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "versions": _versions(),
        "git": _git(source),
        "source_sha256": {name: tree_hash(folder) for name, folder in _folders(source).items()},
        "seeds": dict(seeds or {}),
    }


def write_provenance(
    session: Path,
    rig: Path | None = None,
    calibrations: Iterable[Calibration] = (),
    seeds: Mapping[str, Any] | None = None,
) -> None:
    """Write environment.json, and copy the rig file and the calibrations; what exists already stays as it was."""
    path = session / "environment.json"
    if not path.exists():
        path.write_text(json.dumps(environment(seeds), indent=2), encoding="utf-8")
    if rig is not None and rig.is_file() and not (session / "rig.toml").exists():
        (session / "rig.toml").write_bytes(rig.read_bytes())
    for calibration in calibrations:
        folder = session / "calibration"
        folder.mkdir(exist_ok=True)
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in calibration.id)[:100]
        (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(calibration)))


def tree_hash(folder: Path) -> str:
    """Return one SHA-256 over the names and bytes of all Python and TOML files below `folder`."""
    digest = hashlib.sha256()
    files = (path for path in folder.rglob("*") if path.suffix in (".py", ".toml") and path.is_file())
    for path in sorted(files):
        digest.update(str(path.relative_to(folder).as_posix()).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _folders(source: Path) -> dict[str, Path]:
    beside = source.parents[1] if source.parent.name == "src" else source
    rooms = {room: beside / room for room in _ROOMS if (beside / room / "__init__.py").exists()}
    return {"probeloop": source, **rooms}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _git(folder: Path) -> dict[str, Any] | None:
    """Return commit and whether it was changed since, None outside a checkout."""

    def ask(*words: str) -> str:
        made = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=5, check=True
        )
        return made.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
