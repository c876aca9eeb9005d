"""Holds whatever drop-in lies at a path against its contract, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import discover
from ..data.errors import DriverError, ProbeloopError, SettingsError
from ..data.settings import convert
from ..plugin.contract import (
    KINDS,
    FrameTransform,
    JoinTransform,
    Plan,
    Policy,
    Reward,
    Scalarizer,
    ScanTransform,
    kind_of,
)

_MARK = "faults: "


def check(path: str | Path, settings: Mapping[str, Any] | None = None, *, seconds: float = 180.0) -> list[str]:
    """Return every way in which the drop-ins at `path` break their contracts, in words; empty = they keep them.

    A drop-in that kills its process or never returns is a fault too: the checks run in a second process for up to
    `seconds` [s]. settings: of a driver, as a rig file spells them.
    """
    command = [sys.executable, "-m", "probeloop.testing.check", str(path), json.dumps(settings or {})]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return [f"its checks take longer than {seconds:g} s: it hangs where no limit reaches it"]
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(_MARK):
            return list(json.loads(line.removeprefix(_MARK)))
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
    return [f"it ends the process that it runs in ({how}): {last}"]


def check_here(path: str | Path, settings: Mapping[str, Any] | None = None) -> list[str]:
    """Do the same in this process."""
    try:
        classes = discover.load_path(path)
    except ProbeloopError as error:
        return [str(error)]
    faults: list[str] = []
    for cls in classes:
        found = check_class(cls, settings)
        faults += [f"{cls.__name__}: {fault}" for fault in found] if len(classes) > 1 else found
    return faults


def check_class(cls: type[Any], settings: Mapping[str, Any] | None = None) -> Sequence[str]:
    """Return the faults of one drop-in class, by its kind. settings: of a driver, as a rig file spells them."""
    if issubclass(cls, FrameTransform | JoinTransform | ScanTransform):
        from .check_plugin import check_plugin

        return check_plugin(cls)
    if issubclass(cls, Scalarizer | Reward):
        from .check_scalarizer import check_reward, check_scalarizer

        return check_scalarizer(cls) if issubclass(cls, Scalarizer) else check_reward(cls)
    if issubclass(cls, Policy):
        from .check_policy import check_policy

        return check_policy(cls)
    if issubclass(cls, Plan):
        from .check_plan import check_plan

        return check_plan(cls)
    if issubclass(cls, KINDS):
        return [f"there is no check of a {kind_of(cls)} yet"]
    from .check_driver import check_driver

    if not hasattr(cls, "Parameters"):
        return check_driver(cls)
    try:
        parameters = convert(cls.Parameters, settings or {}, spelled=True)
        return check_driver(lambda: cls(parameters))
    except SettingsError as error:
        return [f"--set {problem}" for problem in error.problems]
    except DriverError as error:  # nobody is there
        return [str(error)]


if __name__ == "__main__":
    sys.stdout.write("\n" + _MARK + json.dumps(check_here(sys.argv[1], json.loads(sys.argv[2]))) + "\n")
