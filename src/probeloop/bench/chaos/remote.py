"""What a rig's relay needs: a port, the rig's key, and another host's, each in a configuration folder of its own."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from ...bus.relay.keys import KeyRing
from ...discover import installed

READER, SERVER = "anna", "rig"  # names of the two keys
_TOML = """
[relay]
bind = "tcp://127.0.0.1:{port}"
key = "{key}"
topics = {{ camera = "newest", "*" = "lossless" }}
"""


def lacking() -> str:
    """Return why there is no relay here, or ""."""
    return "" if installed("zmq") else "the extra 'remote' is not installed: pip install \"probeloop[remote]\""


@dataclass(frozen=True)
class RelaySetup:
    """home, away: the configuration folders of the rig and of the other host."""

    port: int
    home: Path
    away: Path

    @classmethod
    def make(cls, folder: Path) -> RelaySetup | None:
        """Make both keys, and let each host trust the other's; None where there can be no relay."""
        if lacking():
            return None
        from ...bus.relay.sockets import new_pair

        with socket.create_server(("127.0.0.1", 0)) as free:
            made = cls(free.getsockname()[1], folder / "config", folder / "away")
        made.here.trust(made.there.new(READER, new_pair), "operator")
        made.there.trust(made.here.new(SERVER, new_pair), "server")
        return made

    @property
    def here(self) -> KeyRing:
        """The rig's keys."""
        return KeyRing(self.home / "keys")

    @property
    def there(self) -> KeyRing:
        """The other host's keys."""
        return KeyRing(self.away / "keys")

    @property
    def toml(self) -> str:
        """Its part of the rig file."""
        return _TOML.format(port=self.port, key=SERVER)
