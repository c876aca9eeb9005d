"""Rows 20 and 24: who may not come in knocks at the relay, and who may sends what is no message.

A reader with a good key is there all the while and misses nothing.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ...bus.relay.keys import Pair, Trusted
from ...data import control
from .far import Far
from .network import from_afar
from .outcome import Fault, Outcome
from .remote import READER, RelaySetup, lacking
from .rig import ChaosRig
from .wire import mutated

if TYPE_CHECKING:
    from ...bus.relay.link import Link

_KNOCKS_S = 1.5
_BODIES = 200
_OVERSIZE = 4 << 20  # bytes; the relay takes one MiB


def knock(
    keys: Callable[[RelaySetup], tuple[Pair | None, Trusted | None]], told: str
) -> Callable[[ChaosRig, random.Random], Outcome]:
    """Return the injection that calls with keys which are not to be let in. told: part of what the caller is told."""

    def body(rig: ChaosRig, far: Far, rng: random.Random) -> Outcome:
        assert rig.relay is not None
        pair, server = keys(rig.relay)
        link = _call(rig.relay, pair, server)
        until = time.monotonic() + _KNOCKS_S
        try:
            while not link.greet(0.05) and time.monotonic() < until:
                pass
            problems: tuple[str, ...] = ("it was let in",) if link.up else ()
            if told not in link.trouble:
                problems += (f"it was told {link.trouble!r}, not {told!r}",)
        finally:
            link.close()
        return _undisturbed(rig, far, problems)

    return from_afar(body)


def _call(setup: RelaySetup, pair: Pair | None, server: Trusted | None) -> Link:
    from ...bus.relay.link import Link
    from ...bus.relay.sockets import Endpoint

    return Link(Endpoint("127.0.0.1", str(setup.port)), pair, server)


def _undisturbed(rig: ChaosRig, far: Far, problems: tuple[str, ...]) -> Outcome:
    """The good reader still gets everything over the connection that it had."""
    far.flows(time.monotonic_ns())
    if far.link().get("cuts"):
        problems += ("the good reader's connection was cut",)
    if far.lost and rig.waits:
        problems += (f"the good reader lost {far.lost} frames",)
    return Outcome("refused", problems=problems)


def _stranger(setup: RelaySetup) -> tuple[Pair, Trusted]:
    from ...bus.relay.sockets import new_pair

    return Pair("eve", *new_pair()), setup.there.server()


def _other_server(setup: RelaySetup) -> tuple[Pair, Trusted]:
    from ...bus.relay.sockets import new_pair

    return setup.there.secret(READER), replace(setup.there.server(), public=new_pair()[0])


def garbage(rig: ChaosRig, far: Far, rng: random.Random) -> Outcome:
    """Bytes that are no ZeroMQ, from several connections; each ends or is left hanging, and nobody else notices."""
    assert rig.relay is not None
    callers = [socket.create_connection(("127.0.0.1", rig.relay.port), 2.0) for _ in range(8)]
    try:
        for caller in callers:
            start = rng.choice([b"", b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03"])  # of a ZMTP greeting
            try:
                caller.sendall(start + rng.randbytes(rng.randint(1, 100_000)))
            except OSError:
                continue  # it hung up
        threading.Event().wait(0.3)
    finally:
        for caller in callers:
            caller.close()
    return _undisturbed(rig, far, ())


def oversize(rig: ChaosRig, far: Far, rng: random.Random) -> Outcome:
    """A trusted key sends more than a message may have: that connection ends before anything is kept."""
    from ...bus.relay.link import CONTROL

    assert rig.relay is not None
    link = _call(rig.relay, rig.relay.there.secret(READER), rig.relay.there.server())
    try:
        rig.until(lambda: link.greet(0.05), "a welcome")
        session, before = link.welcome, rig.pid("relay")
        link.calling.send(CONTROL, bytes(_OVERSIZE))
        rig.until(lambda: _again(link) is not session, "an end of the connection", 20.0)
        problems: tuple[str, ...] = () if rig.pid("relay") == before else ("the relay died",)
    finally:
        link.close()
    return _undisturbed(rig, far, problems)


def _again(link: Link) -> object:
    """Return the session after the link had its turn, None without one."""
    link.greet(0.05)
    while link.up and link.receive(0) is not None:
        pass
    return link.welcome


def malformed(rig: ChaosRig, far: Far, rng: random.Random) -> Outcome:
    """A trusted key sends messages with flipped, cut off and doubled bytes on both lanes: they are counted."""
    from ...bus.relay import wire
    from ...bus.relay.link import CONTROL, DATA

    assert rig.relay is not None
    link = _call(rig.relay, rig.relay.there.secret(READER), rig.relay.there.server())
    try:
        rig.until(lambda: link.greet(0.05), "a welcome")
        assert link.welcome is not None
        seeds = (
            wire.Beat(1, 2, 3),
            wire.Join({"camera": 1}, 0),
            wire.Receipt(10, {"camera": 1}, 0),
            wire.Ask(1, "instrument", 1, control.encode(control.Describe())),
        )
        counted = _counted(rig)
        for number in range(_BODIES):
            message = wire.Envelope(link.welcome.session, number + 100, rng.choice(seeds))
            link.calling.send(rng.choice((CONTROL, DATA)), mutated(wire.encode(message), rng))
        far.flows(time.monotonic_ns())
        refused = rig.until(lambda: _counted(rig) - counted, "a relay that counts what is no message")
    finally:
        link.close()
    made = _undisturbed(rig, far, ())
    return replace(made, notes={"bodies": float(_BODIES), "bodies_refused": float(refused)})


def _counted(rig: ChaosRig) -> int:
    reply = rig.ask("relay", control.Describe())
    state = reply.state if isinstance(reply, control.Description) else {}
    return int(state.get("malformed", 0)) + int(state.get("stale", 0))


FAULTS = (
    Fault("malformed-relay", 20, "messages of a trusted key that are none", from_afar(malformed), lacks=lacking),
    Fault("key-untrusted", 24, "a key that nobody trusts", knock(_stranger, "not trusted there"), lacks=lacking),
    Fault("key-of-another", 24, "a caller with another server's key",
          knock(_other_server, "does not have the server key"), lacks=lacking),
    Fault("key-none", 24, "a caller without keys", knock(lambda setup: (None, None), "no relay"), lacks=lacking),
    Fault("garbage", 24, "bytes that are no ZeroMQ", from_afar(garbage), lacks=lacking),
    Fault("oversize", 24, "a message larger than is taken", from_afar(oversize), lacks=lacking),
)  # fmt: skip
