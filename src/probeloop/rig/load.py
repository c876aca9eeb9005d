"""Finds, reads and changes rig files."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from ..data.errors import Problem, SettingsError, SourceError
from .schema import Rig, check


def shipped() -> dict[str, Path]:
    """Return the rigs that come with probeloop, by name."""
    folder = Path(str(resources.files("probeloop.simulators"))) / "rigs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load(rig: str, settings: Iterable[str] = (), change: Callable[[dict[str, Any]], None] | None = None) -> Rig:
    """Read a rig by shipped name or path, with `KEY.PATH=VALUE` settings on top, then `change` of its mapping.

    Raises SourceError when there is none, SettingsError with every fault in it.
    """
    path = Path(rig)
    if path.suffix != ".toml":
        known = shipped()
        if rig not in known:
            raise SourceError(
                f"no rig {rig!r}", f"shipped: {', '.join(known) or 'none'}; or give the path of a .toml"
            )
        path = known[rig]
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"no rig file {path}", f"shipped rigs: {', '.join(shipped())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"can't read {path}: {error}", "check the file") from None
    except tomllib.TOMLDecodeError as error:
        raise SourceError(f"{path.name} is no TOML: {error}", "mend that line") from None
    for setting in settings:
        apply_setting(values, setting)
    if change is not None:
        change(values)
    return check(values, path.stem, str(path.resolve().parent), path.name)


def write(rig: Rig, path: Path) -> None:
    """Write the rig as it runs, changes included, so that the file alone runs it again."""
    import tomli_w

    path.write_text(tomli_w.dumps({**rig.values, "name": rig.name}), encoding="utf-8")


def apply_setting(values: dict[str, Any], setting: str) -> None:
    """Change a mapping by `KEY.PATH=VALUE`, the value in TOML or plain text; raises SettingsError."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise SettingsError([Problem("--set", f"{setting!r}", "KEY.PATH=VALUE, as in instrument.file=loops.h5")])
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    table = values
    for name in parents:
        if name == "plan" and isinstance(table.get(name), list):
            table = table[name][0]
            continue
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise SettingsError([Problem(key, f"{name!r} is a value, not a table", "the keys of the rig file")])
    table[last] = value
