"""What a relay gives, and to whom."""

from __future__ import annotations

import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import msgspec

from ...data.errors import BusError
from .channel import Mode
from .keys import KeyRing, Role

_LOCAL = "local"  # the name of everybody where no key is asked for; their public key is ""
_KNOCKS, _KNOCK_S = 256, 60.0


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What a relay gives, and to whom.

    bind: tcp://HOST:PORT. key: this host's pair. allow: names of trusted keys, None = all of them. without_keys: what
    everybody on this machine may do where there is no key. topics: (pattern, mode), the first that fits counts.
    most_bytes: kept for one topic of one reader.
    """

    bind: str
    key: str | None = None
    allow: tuple[str, ...] | None = None
    without_keys: Role = "viewer"
    topics: tuple[tuple[str, Mode], ...] = (("*", "by_kind"),)
    most_bytes: int = 32 << 20
    compress: bool = True

    def mode(self, topic: str) -> Mode | None:
        """Return how a topic travels; None = not at all."""
        return next((mode for pattern, mode in self.topics if fnmatchcase(topic, pattern)), None)


class Guest(NamedTuple):
    """Who may come in: the name of the key, and its role."""

    name: str
    role: Role


class Guests:
    """The keys that may come in now. said: called with a line for a person when one may not."""

    def __init__(self, rules: Rules, ring: KeyRing, said: Callable[[str], None]) -> None:
        """Read the key ring; raises BusError."""
        self._rules, self._ring, self._said = rules, ring, said
        self._stamp: Any = None
        self._guests: dict[str, Guest] = {}
        self._knocked: dict[str, float] = {}
        self.refused = 0
        if rules.key:
            self._stamp = ring.stamp()
            self._guests = self._read()
        else:
            self._guests[""] = Guest(_LOCAL, rules.without_keys)

    def _read(self) -> dict[str, Guest]:
        allow = self._rules.allow
        kept = [each for each in self._ring.trusted().values() if allow is None or each.name in allow]
        return {each.public: Guest(each.name, each.role) for each in kept if each.role != "server"}

    def look(self) -> None:
        """Read the keys again when they have changed; what can't be read any more is trusted no more."""
        if not self._rules.key or (stamp := self._ring.stamp()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._guests = self._read()
        except BusError as error:
            self._guests = {}
            self._said(str(error))

    def get(self, public: str) -> Guest | None:
        """Return who has this public key, None = nobody who may come in."""
        return self._guests.get(public)

    def admits(self, public: str) -> bool:
        """Whether a key that knocks may come in, by the files as they are now."""
        self.look()
        if public in self._guests:
            return True
        self.refused += 1
        if time.monotonic() - self._knocked.get(public, -_KNOCK_S) >= _KNOCK_S and len(self._knocked) < _KNOCKS:
            self._knocked[public] = time.monotonic()
            self._said(f"a key that is not trusted knocked: {public[:8]}...")
        return False
