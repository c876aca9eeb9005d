"""Notices new and changed sources of drop-ins, an editor's atomic rename too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import discover
from .instance import TRANSFORMS


@dataclass(frozen=True)
class SourceChange:
    """A drop-in's source is other than it was. what: "new", "changed" or "broken" (`found.error` says why)."""

    what: str
    found: discover.Found


class SourceWatch:
    """Looks at the folders of drop-ins; call `look` 4 times a second. Sources are read, never run.

    A change counts when two looks in a row saw the same source, so that a half-written file is not taken.
    """

    def __init__(self, folders: Iterable[str | Path] = ()) -> None:
        self._folders = tuple(Path(folder) for folder in folders)
        self._known: dict[tuple[Path, str], str] = {key: mark for key, (mark, _) in self._now().items()}
        self._pending: dict[tuple[Path, str], str] = {}
        self._stamp = discover.stamp(self._folders)

    def _now(self) -> dict[tuple[Path, str], tuple[str, discover.Found]]:
        return {
            (each.path, each.class_name): (f"{each.source_hash}{each.error or ''}", each)
            for each in discover.on_disk(self._folders)
            if each.kind in TRANSFORMS or each.kind == ""
        }

    def look(self) -> list[SourceChange]:
        """Return what changed since the last look that returned it."""
        stamp = discover.stamp(self._folders)
        if stamp == self._stamp and not self._pending:
            return []
        self._stamp = stamp
        changes = []
        now = self._now()
        files = {path for path, name in self._known if name}
        for key, (mark, found) in now.items():
            if self._known.get(key) == mark:
                self._pending.pop(key, None)
            elif self._pending.get(key) != mark:
                self._pending[key] = mark
            else:
                del self._pending[key]
                what = "broken" if found.error else "changed" if key in self._known or key[0] in files else "new"
                self._known[key] = mark
                changes.append(SourceChange(what, found))
        for key in [key for key in self._known if key not in now and not key[1]]:
            del self._known[key]  # a fault that is mended
        return changes
