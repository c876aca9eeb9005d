"""Both ends fed with messages that are nearly right: they go on, and hand nothing malformed further."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bus_words import frames, send
from relay_words import ALL, Hosts, hosts, read

from probeloop.bus.relay import wire
from probeloop.bus.relay.channel import now_ns
from probeloop.bus.relay.out import Relay
from probeloop.bus.subscribe import Subscriber
from probeloop.data import control
from probeloop.data.commands import MoveProbe, Stop
from probeloop.data.control import Remark, Submit, encode
from probeloop.data.errors import WireError

ROUNDS = 3000


@pytest.fixture
def two(tmp_path: Path, rig_id: str) -> Iterator[Hosts]:
    with hosts(tmp_path, rig_id, topics=ALL) as made:
        made.key("anna", "operator")
        yield made


def damaged(body: bytes, chance: random.Random) -> bytes:
    """Return the bytes with a few of them changed, cut off, put in or doubled."""
    made = bytearray(body)
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(4):
            case 0 if at < len(made):
                made[at] = chance.randrange(256)
            case 1:
                del made[at : at + chance.randint(1, 20)]
            case 2:
                made[at:at] = chance.randbytes(chance.randint(1, 20))
            case _:
                made += made[at:]
    return bytes(made)


def test_whatever_a_trusted_reader_sends_the_relay_goes_on(two: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but whole requests of this reader gets as far as the services."""
    source = two.source()
    source.announce(frames(), 1)
    mirror = two.mirror()
    two.until(lambda: "camera" in mirror.landings, "a description")
    reader = Subscriber(two.near(), "camera", "lossless")
    (remote,) = two.relay.remotes.values()
    two.until(lambda: remote.clock.estimate(now_ns()), "the clock")
    asked: list[Any] = []
    monkeypatch.setattr(two.relay._errands, "ask", lambda who, service, request: asked.append((service, request)))
    monkeypatch.setattr(two.relay._errands, "stop", lambda who, request: asked.append(("stop", request)))
    chance, relay = random.Random(1), two.relay
    parameters = control.SetParameters("a", {"x": 1.0})
    requests = (Submit(MoveProbe((1e-9, 0.0)), "gui", 1), Stop("x"), parameters, control.Describe())
    bodies = [*map(encode, requests), b""]
    for number in range(ROUNDS):
        message: Any = chance.choice([
            wire.Beat(now_ns(), remote._beat[0], now_ns()),
            wire.Ask(number, chance.choice(["instrument", "x", "../y"]), now_ns() + 10**9, chance.choice(bodies)),
            wire.Receipt(chance.choice([remote.pace._got, 2**40]), {"camera": chance.randrange(5)}, 0),
            wire.Join({"camera": 0}, 0),
            wire.Hello(1, bytes(15)),
        ])  # fmt: skip
        session = remote.session if chance.random() < 0.9 else chance.randbytes(16)
        if isinstance(message, wire.Ask) and chance.random() < 0.5:
            message = msgspec.structs.replace(message, body=damaged(message.body, chance))
        remote._numbers = [min(each, 2**40) for each in remote._numbers]  # a damaged one may be the highest there is
        body = wire.encode(wire.Envelope(session, max(remote._numbers) + 1, message))
        if chance.random() < 0.5:
            body = damaged(body, chance)
        relay._take(chance.choice((*remote.peers, b"nobody")), remote.public, body)
        if number % 100 == 0:
            two.turn()
    for service, request in asked:
        assert service in ("stop", *two.services)
        assert control.decode_request(encode(request)) == request
        if hasattr(request, "holder"):
            assert request.holder == "operator:anna"
    assert {type(request).__name__ for _, request in asked} >= {"Submit", "Stop", "SetParameters", "Describe"}
    assert relay.malformed > 0
    assert relay.stale > 0
    two.until(lambda: mirror.link.up and not mirror._asked, "a link that works")
    first = source.next_index
    for value in range(20):
        send(source, value)
    got = read(two, reader, 20)
    assert [block.index for block in got] == list(range(first, first + 20))
    reader.close()


def test_whatever_a_relay_sends_the_mirror_goes_on(two: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    source = two.source()
    source.announce(frames(), 1)
    mirror = two.mirror()
    two.until(lambda: "camera" in mirror.landings, "a description")
    recorded: list[tuple[bytes, ...]] = []
    listening = two.relay._listening
    real = listening.send

    def noted(peer: bytes, *parts: bytes) -> bool:
        recorded.append(parts)
        return real(peer, *parts)

    monkeypatch.setattr(listening, "send", noted)
    for value in range(30):
        send(source, value)
        two.relay.tell("note", f"{value}")
        two.turn()
    two.turn_for(0.3)
    reader = Subscriber(two.near(), "camera", "lossless")
    real_receive = mirror.link.calling.receive
    chance, left = random.Random(2), [ROUNDS]
    assert any(len(parts) == 3 for parts in recorded)

    def nonsense(lane: int) -> Any:
        if not left[0]:
            return real_receive(lane)
        left[0] -= 1
        parts = [bytes(part) for part in chance.choice(recorded)]
        which = chance.randrange(len(parts))
        parts[which] = damaged(parts[which], chance)
        if chance.random() < 0.1:
            parts = parts[: chance.randrange(1, len(parts) + 1)]
        return [memoryview(part) for part in parts]

    monkeypatch.setattr(mirror.link.calling, "receive", nonsense)
    while left[0]:
        mirror.turn(0.0)
    assert mirror.malformed > 100
    for block in reader.drain():  # what was let through fits its description
        assert block.data.shape[1:] == block.spec.frame_shape
        assert block.count <= 10
    reader.close()


def test_a_body_that_is_no_request_never_reaches_a_service(two: Hosts) -> None:
    two.mirror()
    relay: Relay = two.relay
    for body in (b"\xc1", encode(Remark(text="no request")), b"\x91" * 500):
        with pytest.raises(WireError):
            control.decode_request(body)
    assert relay.malformed == 0
