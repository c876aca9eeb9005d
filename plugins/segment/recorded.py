"""Maps to learn from: out of a file that the plug-in wrote, or out of a session that was recorded."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import DropInError, Problem, RecordError, SettingsError, StreamSpec, map_input, open_session

from .beside import middle
from .network import needed
from .prepare import fault

Map = NDArray[np.float32]
LEAST = 32  # pixels a side of a map to learn from
_MOST = 4  # maps of a session, the last ones that can be learned from
_NAME = Path(__file__).parent.name
_RECORD = "record one whole scan at least: probeloop run RIG"


class Chosen(msgspec.Struct, frozen=True):
    """Maps (ny, nx), NaN = not measured, and what they are: topic, channel and contrast, as the plug-in's input."""

    maps: list[Map]
    topic: str = ""
    channel: str = ""
    contrast: str = ""

    def __str__(self) -> str:
        """Return one line for a person."""
        sizes = ", ".join(f"{ny} x {nx}" for ny, nx in (each.shape for each in self.maps))
        which = self.topic + (f", channel {self.channel}" if self.channel else "")
        shown = f", contrast {self.contrast}" if self.contrast else ""
        return f"learns from {len(self.maps)} map(s){f' of {which}' if which else ''}{shown}: {sizes} pixels"


def read_maps(path: Path) -> list[Map]:
    """Return the maps of a file; raises DropInError for one that is none."""
    load_file = needed("safetensors.numpy", "safetensors").load_file
    try:
        maps = load_file(path)
    except Exception as error:  # safetensors has an error of its own, which needs it imported
        raise DropInError(
            f"{path.name} holds no maps: {error}", "a file of maps, or the folder of a session"
        ) from None
    return [each.astype(np.float32) for each in maps.values() if each.ndim == 2]


def recorded(folder: Path, topic: str = "", channel: str = "", contrast: str = "") -> Chosen:
    """Return the last maps of a session that can be learned from, without the lines that were not measured.

    topic, channel, contrast: "" = as the plug-in `segment` of that session had them, else its only topic of maps, the
    first channel, and "difference". Raises RecordError where there is no session or no map in it, SettingsError for a
    topic or a channel that it does not have, DropInError where no map can be learned from.
    """
    every = [(each, spec) for each in open_session(folder).topics() if (spec := _map_spec(each)) is not None]
    there = sorted({each.topic for each, _ in every})
    if not there:
        raise RecordError(f"{folder.name} has no map, which is a scan of one real number a pixel", _RECORD)
    seen = _as_seen(folder, topic, there)
    scanned = sorted({each.topic for each, _ in every if each.is_scan})
    only = next((names[0] for names in (scanned, there) if len(names) == 1), "")
    wanted = topic or seen.get("topic", "") or only
    if wanted not in there:
        named = scanned or there
        what = f"has no map {wanted!r}" if wanted else f"has {len(named)} topics of maps"
        raise SettingsError(
            [Problem("topic", f"{folder.name} {what}; name one in a .toml", " | ".join(named))],
            f'topic = "{named[0]}" in mine.toml, then: probeloop train {_NAME} mine.toml --on {folder}',
        )
    channel = channel or seen.get("channel", "")
    _check_channel(wanted, channel, [spec for each, spec in every if each.topic == wanted])
    maps: list[Map] = []
    why = ""
    for each, spec in reversed([(each, spec) for each, spec in every if each.topic == wanted]):
        try:
            found = _measured(each, spec, channel)
        except (RecordError, SettingsError) as error:
            why = why or str(error)
            continue
        why = why or next(filter(None, map(_unfit, found)), "")
        maps += [middle(made) for made in found if not _unfit(made)]
        if len(maps) >= _MOST:
            break
    if not maps:
        raise DropInError(f"{folder.name} has no map of {wanted} to learn from; the last one: {why}", _RECORD)
    return Chosen(maps[:_MOST][::-1], wanted, channel, contrast or seen.get("contrast", ""))


def _check_channel(topic: str, channel: str, specs: list[StreamSpec]) -> None:
    """Raise SettingsError for a channel that none of these scans of a topic has."""
    names = list(dict.fromkeys(one.name for spec in specs for one in spec.channels))
    if channel and channel not in names:
        allowed = " | ".join(names) or "it has none: leave channel out"
        raise SettingsError([Problem("channel", f"{topic!r} has no channel {channel!r}", allowed)])


def _unfit(values: Map) -> str:
    """Return why a map can't be learned from, "" where it can."""
    if min(values.shape) < LEAST:
        return f"{values.shape[0]} x {values.shape[1]} pixels, at least {LEAST} x {LEAST} are needed"
    return fault(values)


def _measured(topic: Any, spec: StreamSpec, channel: str) -> list[Map]:
    """Return recorded maps (lines, nx), the last one first; raises RecordError, SettingsError.

    Each from its first measured line to its last, NaN where nothing was measured; of pictures the last one of each
    scan.
    """
    taken = map_input(spec, channel, real=True)
    if topic.is_scan:
        every = [np.where(topic.present, taken.of(topic.data()), np.nan)]
    else:
        last = np.flatnonzero(np.diff(topic.column("generation"), append=-1))[::-1][:_MOST]
        every = [taken.of(topic.data(row, row + 1)[0]) for row in last]
    made = []
    for each in every:
        rows = np.flatnonzero(np.isfinite(each).any(axis=1))
        made.append(each[rows[0] : rows[-1] + 1].astype(np.float32) if len(rows) else each[:0])
    return made


def _map_spec(topic: Any) -> StreamSpec | None:
    """Return what a recorded topic was, None where that is no map of real numbers, or can't be read."""
    try:
        spec: StreamSpec = topic.spec
        map_input(spec, real=True)
    except (RecordError, SettingsError):
        return None
    return spec


def _as_seen(folder: Path, topic: str, there: list[str]) -> dict[str, str]:
    """Return topic, channel and contrast of the plug-in of this drop-in in the session's rig; {} = there was none.

    topic: only one that reads this, "" = any. there: topics of maps.
    """
    try:
        plugins = tomllib.loads((folder / "rig.toml").read_text(encoding="utf-8")).get("plugins", {})
        entries = [each for each in plugins.values() if str(each.get("use")).lower() == _NAME]
        for each in entries:
            given = each.get("input", "")
            read = given if isinstance(given, str) else given[0]
            if read in there and topic in ("", read):
                told = each.get("parameters", {})
                return {"topic": read, **{name: str(told.get(name, "")) for name in ("channel", "contrast")}}
    except (OSError, ValueError, AttributeError, TypeError, IndexError):
        pass  # a session of another program has no rig, or writes it in another way
    return {}
