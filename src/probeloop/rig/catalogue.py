"""The commands about drop-ins: list, new, check, bench; and schema."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from ..data.errors import BusError, DropInError, ProbeloopError, Problem, SettingsError
from ..data.limits import Limits
from ..discover import find, found, load_commands, user_folders
from .load import apply_setting
from .output import emit_json

_TEMPLATE = '''"""{title}: one number per frame.

Say here what it measures, in one or two sentences.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from probeloop.api import FrameBlock, FrameTransform, Outputs, Settings, StreamSpec, quantity


class {cls}(FrameTransform):
    """Mean counts above a threshold."""

    class Parameters(Settings):
        """Live controls in the window."""

        threshold: Annotated[float, quantity("counts", ge=0, le=65535)] = 1.0

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        """Return one float per frame."""
        return {{"value": StreamSpec(name="value", kind="values", dtype="<f4", nav=spec.nav, units="counts",
                                    origin=spec.origin, sync=spec.sync)}}

    def process(self, block: FrameBlock) -> Outputs:
        """Return (N,) float32."""
        frames = block.data.reshape(block.count, -1).astype(np.float32)
        frames[frames < self.parameters.threshold] = 0.0
        return {{"value": frames.mean(axis=1)}}
'''

_JOIN_TEMPLATE = '''"""{title}: one number per pixel from what two topics say of it.

Say here what it measures, in one or two sentences.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np

from probeloop.api import FrameBlock, JoinTransform, Outputs, Settings, StreamSpec, quantity


class {cls}(JoinTransform):
    """Mean of the second topic times a weight, less that of the first."""

    inputs = ("first", "second")  # a rig names topics in this order: input = ["haadf.intensity", "com.intensity"]

    class Parameters(Settings):
        """Live controls in the window."""

        weight: Annotated[float, quantity("", ge=-1e3, le=1e3)] = 1.0

    def outputs(self, specs: tuple[StreamSpec, ...]) -> dict[str, StreamSpec]:
        """Return one float per pixel."""
        return {{"value": StreamSpec(name="value", kind="values", dtype="<f4", units=specs[0].units)}}

    def process(self, blocks: tuple[FrameBlock, ...]) -> Outputs:
        """Return (N,) float32: row i of every block is the same pixel at the same moment."""
        first, second = (np.abs(block.data).reshape(block.count, -1).mean(axis=1) for block in blocks)
        return {{"value": (self.parameters.weight * second - first).astype(np.float32)}}
'''
_MEASURED = {
    "loop": "autofocus",
    "simulator": "stem",
}  # benches that drop-ins bring, and the drop-in meant by default
_TEMPLATES = {"frames": _TEMPLATE, "join": _JOIN_TEMPLATE}


def list(options: argparse.Namespace) -> int:
    """Print every drop-in found, and why any was not loaded."""
    rows = found()
    if options.json:
        emit_json([dataclasses.asdict(row) for row in rows])
        return 0
    width = max((len(row.name) for row in rows), default=0) + 2
    for row in rows:
        sys.stdout.write(f"{row.name:{width}}{row.kind or '?':16}{row.error or row.summary}\n")
    broken = sum(1 for row in rows if row.error)
    sys.stdout.write(f"\n{len(rows)} drop-ins, {broken} not loaded; yours go into {user_folders()[0]}\n")
    return 0


def new(options: argparse.Namespace) -> int:
    """Write a plug-in or a driver to start from."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", options.name):
        raise DropInError(
            f"{options.name!r} is no name for a {options.kind}", "small letters, digits and _, a letter first"
        )
    folder = Path(options.folder) if options.folder else user_folders()[0]
    path = folder / f"{options.name}.py"
    if path.exists():
        raise DropInError(f"{path} exists already", "choose another name, or edit it")
    words = options.name.split("_")
    cls = "".join(word.capitalize() for word in words)
    if options.kind == "driver":
        source = find("template", "Driver").path.read_text(encoding="utf-8")
        text = source.replace("Template", cls).replace('"template"', f'"{options.name}"')
    else:
        text = _TEMPLATES[options.of].format(title=" ".join(words).capitalize(), cls=cls)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    if options.kind == "driver":
        sys.stdout.write(f"{path}\ngo through it line by line: docs/drivers.md\n")
        return 0
    sys.stdout.write(f"{path}\nhold it against its contract: probeloop check {path}\n")
    if options.of == "join":
        sys.stdout.write(f'a rig names what it joins: [plugins.{options.name}] input = ["TOPIC", "TOPIC"]\n')
    return 0


def check(options: argparse.Namespace) -> int:
    """Hold a drop-in against its contract; exit code 1 when it breaks it."""
    from ..testing.check import check as check_path

    path = Path(options.path)
    if not path.exists():
        raise DropInError(f"no drop-in {path}", "give the path of a .py file or a folder")
    settings: dict[str, Any] = {}
    for setting in options.set:
        apply_setting(settings, setting)
    faults = check_path(path, settings)
    for fault in faults:
        sys.stdout.write(f"{path.name}: {fault}\n")
    if not faults:
        sys.stdout.write(f"{path.name}: keeps its contract\n")
    return 1 if faults else 0


def _measured(options: argparse.Namespace) -> str:
    """Return the drop-in whose bench is meant: NAME of `bench NAME` itself, or --what of a group."""
    if options.name in _MEASURED:
        return options.what or _MEASURED[options.name]
    if not any(each.path.is_dir() and options.name in (each.name, each.path.name) for each in found()):
        raise ProbeloopError(
            f"no bench {options.name!r} in this version",
            f"{', '.join(_MEASURED)}, bus, detectors, drivers, load, chaos, or a drop-in: probeloop bench segment",
        )
    return str(options.name)


def bench(options: argparse.Namespace) -> int:
    """Run the bench that a drop-in offers, print its figures; exit code 1 when it says it did not pass."""
    what = _measured(options)
    made = load_commands(what)
    run: Any = getattr(made, "bench", None)
    if run is None:
        raise DropInError(f"{what!r} offers no bench", "its commands.py needs a function bench(options)")
    named = {"seeds": options.seeds, "seed": options.seed, "seconds": options.seconds, "what": options.what}
    figures = run({**named, "progress": not options.json})

    emit_json(figures)
    return 0 if figures.get("ok", True) else 1


def train(options: argparse.Namespace) -> int:
    """Train what a drop-in learns, say how far it is, print what it came to."""
    made = load_commands(options.name)
    run: Any = getattr(made, "train", None)
    if run is None:
        raise DropInError(f"{options.name!r} learns nothing", "its commands.py needs a function train(config)")
    config = _settings_of(Path(options.config)) if options.config else {}
    named = {"seed": options.seed, "out": options.out, "quick": options.quick or None}
    config |= {name: value for name, value in named.items() if value is not None}
    emit_json(run({**config, "progress": True}))
    return 0


def _settings_of(path: Path) -> dict[str, Any]:
    """Return a TOML file's settings; raises SettingsError when it can't be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([Problem("config", f"can't read {path}: {error.strerror}", "a .toml file")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([Problem("config", f"{path}: {error}", "a .toml file")]) from None


def _limits_in_force(rig_id: str) -> Limits:
    """Ask a running rig, whose instrument is not touched for it; raises BusError when there is none."""
    from ..data.control import Describe, Description
    from .client import INSTRUMENT, Connection
    from .run import which_rig

    with Connection(which_rig(rig_id), "schema") as connection:
        reply = connection.request(INSTRUMENT, Describe())
    if not isinstance(reply, Description):
        raise BusError(f"the instrument of {rig_id!r} does not describe itself", "see log/instrument.log")
    return msgspec.convert(reply.state["limits"], Limits)


def schema(options: argparse.Namespace) -> int:
    """Print a JSON Schema, or the gate's table."""
    from ..data import commands, control
    from ..data.settings import json_schema

    if options.what == "gate":
        from ..instrument.limits import table

        sys.stdout.write(table(_limits_in_force(options.rig) if options.rig else None) + "\n")
        return 0
    if options.what == "rig":
        from .schema import Rig

        emit_json(json_schema(Rig))
        return 0
    union = {"commands": commands.Command, "requests": control.Request, "events": control.Event}[options.what]
    emit_json(json_schema(union))
    return 0
