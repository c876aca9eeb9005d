"""Rigs across hosts: what a rig gives to others, and `probeloop connect`, which makes one of theirs a rig here."""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..bus.node import Bus
from ..bus.relay.keys import KeyRing
from ..bus.relay.sockets import Endpoint, library
from ..data.errors import BusError
from .output import say
from .schema import NAME, RelayEntry
from .supervisor import RigLock, running_rigs

if TYPE_CHECKING:
    from ..bus.relay.link import Link
    from ..bus.relay.rules import Rules

_MEET_S = 10.0
_END_S = 5.0


def rules_of(entry: RelayEntry) -> Rules:
    """Return what a relay gives and to whom, as the rig file says."""
    from ..bus.relay.rules import Rules

    return Rules(
        bind=entry.bind,
        key=entry.key,
        allow=entry.allow,
        without_keys=entry.without_keys,
        topics=tuple(entry.topics.items()) or Rules(bind=entry.bind).topics,
        most_bytes=entry.buffer_mb << 20,
        compress=entry.compression == "lz4",
    )


def check_relay(entry: RelayEntry) -> None:
    """Raise BusError, one line, where a relay could not start: no pyzmq, no key, a key that others can read."""
    library()
    ring = KeyRing()
    if entry.key is not None:
        ring.secret(entry.key)
        known = {each.name for each in ring.trusted().values()}
        unknown = sorted(set(entry.allow or ()) - known)
        if unknown:
            raise BusError(
                f"[relay] allows {', '.join(unknown)}, not trusted here", "probeloop keys trust FILE --as ROLE"
            )


def dial(address: str, key: str | None, server: str | None) -> Link:
    """Return a link that has met its relay; raises BusError."""
    from ..bus.relay.link import Link

    endpoint, ring = Endpoint.parse(address), KeyRing()
    endpoint.require_key(key, "add --key NAME; make it with: probeloop keys new NAME")
    pair = ring.secret(key) if key is not None else None
    link = Link(endpoint, pair, ring.server(server) if pair is not None else None)
    link.meet(_MEET_S)
    return link


def local_name(rig: str, wanted: str | None) -> str:
    """Return the name that a rig of another host has on this one: never that of a rig that may run here too."""
    name = wanted or f"{rig[:34]}-remote"
    if not NAME.fullmatch(name):
        raise BusError(f"{name!r} is no name of a rig", "--name NAME: small letters, digits, - and _, 41 at most")
    return name


def connect(options: argparse.Namespace) -> int:
    """Mirror a rig of another host until Ctrl-C."""
    from ..bus.relay.mirror import run_mirror

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if options.with_parent:
        from .process import end_with_parent

        end_with_parent()
    link = dial(options.endpoint, options.key, options.server)
    try:
        assert link.welcome is not None
        name = local_name(link.welcome.rig, options.name)
        lock = RigLock(name)
    except BusError:
        link.close()
        raise
    try:
        with Bus(name, "mirror") as bus:
            bus.clean_stale()
            run_mirror(bus, link, stop=stop, said=lambda line: _say(f"{name}: {line}"))
    finally:
        lock.release()
    return 0


def _say(line: str) -> None:
    say(line)
    sys.stdout.flush()


@contextlib.contextmanager
def mirrored(address: str, key: str | None, server: str | None) -> Iterator[str]:
    """Yield the name here of the rig at an address: a process mirrors it meanwhile. Raises BusError."""
    command = [sys.executable, "-m", "probeloop.cli", "connect", address, "--with-parent"]
    command += ["--key", key] if key else []
    command += ["--server", server] if server else []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            name = child.stdout.readline().partition(":")[0]
            if name not in running_rigs():  # it has said why
                raise BusError(f"there is no connection to {address}", "see the line above")
            yield name
        finally:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_END_S)
            child.kill()
