"""What must not get from another host to a gate."""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from relay_site import MOVE, Site, ask, moved, raw_link, running

from probeloop.bus.relay import remote as remote_module
from probeloop.bus.relay import wire
from probeloop.bus.relay.channel import now_ns
from probeloop.bus.relay.keys import KeyRing
from probeloop.bus.relay.link import CONTROL, DATA, Link
from probeloop.bus.relay.sockets import Endpoint, new_pair
from probeloop.data import commands as c
from probeloop.data import control
from probeloop.data.control import Accepted, Description, Refused, Submit, encode
from probeloop.data.errors import BusError


def test_messages_that_were_sent_before_do_nothing(site: Site) -> None:
    link, other = raw_link(site, "anna"), raw_link(site, "anna")
    try:
        taken = ask(site, link, 1, control.TakeControl("x"))
        submit = Submit(MOVE, "x", taken.epoch)
        assert isinstance(ask(site, link, 2, submit), Accepted)
        site.until(lambda: moved(site) == 1, "a move")
        again = wire.Ask(2, "instrument", now_ns() + 10**9, encode(submit))
        for number in (link._numbers[CONTROL], 1, 0):  # the same one, and older ones
            link.calling.send(CONTROL, wire.encode(wire.Envelope(link._session, number, again)))
        # on another connection of the same key: of the right session, of its own, of none
        for session, number in ((link._session, 10**6), (other._session, 1), (b"", 10**6), (bytes(16), 10**6)):
            other.calling.send(CONTROL, wire.encode(wire.Envelope(session, number, again)))
        stale = site.relay.stale
        site.until(lambda: site.relay.stale >= stale + 7, "seven that were told apart")
        # a third connection of that key, which says that it is the session's data lane
        third = Link(link.endpoint, site.here.secret("anna"), site.here.server())
        site.until(lambda: third.calling.send(CONTROL, _enveloped(link, wire.Join({}, 0))), "a connection")
        site.until(lambda: link.send(DATA, wire.Join({}, 0)), "a data lane")
        site.turn_for(0.2)
        for lane in (CONTROL, DATA):
            third.calling.send(lane, _enveloped(link, wire.Join({}, 0)))
            third.calling.send(lane, _enveloped(link, again))
        site.turn_for(0.2)
        third.close()
        assert moved(site) == 1
        assert isinstance(ask(site, link, 3, submit), Accepted)
    finally:
        link.close()
        other.close()


def _enveloped(link: Link, message: Any) -> bytes:
    return wire.encode(wire.Envelope(link._session, 10**9, message))


@pytest.mark.parametrize("keys", [True, False])
def test_a_recorded_exchange_played_again_does_nothing(tmp_path: Path, rig_id: str, keys: bool) -> None:
    with running(tmp_path, rig_id, keys=keys, **({} if keys else {"without_keys": "operator"})) as site:
        if keys:
            site.key("anna", "operator")
        proxy = site.proxy()
        site.mirror("anna", proxy)
        site.take()
        assert isinstance(site.ask(Submit(MOVE, "operator-7", site.epoch)), Accepted)
        site.until(lambda: moved(site) == 1, "a move")
        recorded = [bytes(each) for each in proxy.said]
        assert len(recorded) == 2
        assert sum(map(len, recorded)) > 500
        port = int(site.relay.endpoint.rpartition(":")[2])
        for session in recorded:
            for part in (len(session), 700):  # all at once, and in pieces as they came
                with socket.create_connection(("127.0.0.1", port), 2.0) as again:
                    again.settimeout(0.05)
                    for at in range(0, len(session), part):
                        try:
                            again.sendall(session[at : at + part])
                            again.recv(1 << 16)
                        except OSError:
                            pass
                        site.turn()
                    site.turn_for(0.2)
        assert moved(site) == 1
        assert isinstance(site.ask(Submit(MOVE, "operator-7", site.epoch)), Accepted)  # and the true one goes on
        site.until(lambda: moved(site) == 2, "a move")


def test_keys_that_are_not_trusted_get_nothing(site: Site, tmp_path: Path) -> None:
    site.here.new("mallory", new_pair)
    site.there.trust(site.here.folder / "mallory.public", "server")  # a server is no guest
    site.here.new("eve", new_pair)
    for name in ("mallory", "eve"):
        link = site.link(name)
        site.until(lambda link=link: not link.greet(0.001) and link.trouble, "a refusal")  # type: ignore[misc]
        assert link.trouble == "this key is not trusted there"
        link.close()
    assert site.relay.remotes == {}
    assert site.relay.state()["refused"] >= 2
    turning = threading.Thread(target=lambda: site.turn_for(1.5))
    turning.start()
    with pytest.raises(BusError, match=r"no answer from .*this key is not trusted there") as caught:
        site.link("eve").meet(1.0)
    turning.join()
    assert caught.value.next_move == "on that host: probeloop keys trust eve.public --as viewer"


def test_the_wrong_server_is_not_talked_to(site: Site) -> None:
    site.here.trust(KeyRing(site.folder / "other").new("impostor", new_pair), "server")
    link = Link(Endpoint.parse(site.relay.endpoint), site.here.secret("anna"), site.here.server("impostor"))
    site.until(lambda: not link.greet(0.001) and link.trouble, "a refusal", 10.0)
    assert site.relay.remotes == {}
    link.close()


def test_a_key_that_is_revoked_is_dropped_at_once(site: Site) -> None:
    site.mirror("anna")
    site.take()
    site.there.revoke("anna")
    site.until(lambda: not site.relay.remotes, "an end")
    site.until(lambda: not site.mirrors[0].link.up, "the news at the other end")
    assert "not trusted any more" in site.mirrors[0].link.trouble
    refused = site.ask(Submit(MOVE, "operator-7", site.epoch))
    assert refused.limit == "link"
    assert "hardware switch" in refused.allowed
    assert moved(site) == 0
    site.there.trust(site.here.folder / "anna.public", "viewer")
    site.until(lambda: site.mirrors[0].link.up, "a new session")
    site.compared()
    assert site.ask(control.TakeControl("operator-7")).limit == "role"


def test_a_role_that_changes_counts_from_the_next_message(site: Site) -> None:
    site.mirror("anna")
    site.take()
    site.there.trust(site.here.folder / "anna.public", "viewer")
    site.until(lambda: site.relay._role(site.here.secret("anna").public) == "viewer", "the news")
    assert site.ask(Submit(MOVE, "operator-7", site.epoch)).limit == "role"
    assert moved(site) == 0


def test_nonsense_from_a_trusted_key_reaches_nothing(site: Site) -> None:
    link = raw_link(site, "anna")
    try:
        for number, body in enumerate((b"", b"\x93nonsense", b"\x91" * 5000, b"\xc0", encode(c.Stop())[:-3]), 1):
            reply = ask(site, link, number, body)
            assert isinstance(reply, Refused)
            assert reply.limit == "message"
        assert ask(site, link, 20, control.Describe(), service="no_such").limit == "service"
        bad = Submit(c.MoveProbe((float("nan"), 0.0)), "x", 1)
        taken = ask(site, link, 21, control.TakeControl("x"))
        assert isinstance(ask(site, link, 22, msgspec.structs.replace(bad, epoch=taken.epoch)), Refused)
        before = site.relay.malformed
        for body in (b"", b"x", b"\xdd\xff\xff\xff\xff", bytes(1 << 20)):
            link.calling.send(CONTROL, body)
        link.calling._sockets[CONTROL].send_multipart([b"x"] * 500)
        site.until(lambda: site.relay.malformed >= before + 4, "four that were no message")
        assert isinstance(ask(site, link, 30, control.Describe()), Description)
        assert moved(site) == 0
    finally:
        link.close()


def test_a_message_that_is_too_large_ends_its_connection_alone(site: Site) -> None:
    site.mirror("hall")
    link = raw_link(site, "anna")
    link.calling.send(CONTROL, bytes(wire.MOST_ASKED + 8192))
    site.turn_for(0.3)
    assert isinstance(site.ask(control.Describe()), Description)
    link.close()


def test_garbage_on_the_port_disturbs_nobody(site: Site) -> None:
    site.mirror("anna")
    site.take()
    port = int(site.relay.endpoint.rpartition(":")[2])
    chance = random.Random(1)
    greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0CURVE" + bytes(15 + 1 + 31)
    for start in (b"", b"GET / HTTP/1.1\r\n\r\n", greeting, greeting[:12], b"\xff" * 64):
        for size in (0, 1, 100, 100_000):
            with socket.create_connection(("127.0.0.1", port), 2.0) as one:
                one.settimeout(0.01)
                try:
                    one.sendall(start + chance.randbytes(size))
                    one.recv(100)
                except OSError:
                    pass
            site.turn()
    assert isinstance(site.ask(Submit(MOVE, "operator-7", site.epoch)), Accepted)


def test_places_are_few_and_an_operator_finds_one(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "SILENT_NS", 600_000_000_000)  # who does not beat here is not gone
    links = [raw_link(site, "hall") for _ in range(4)]
    fifth = site.link("hall")
    site.until(lambda: not fifth.greet(0.001) and fifth.trouble, "a refusal")
    assert "4 remote readers are connected" in fifth.trouble
    boss = raw_link(site, "anna")
    assert len(site.relay.remotes) == 4
    assert isinstance(ask(site, boss, 1, control.TakeControl("x")), Accepted)
    for link in (*links, fifth, boss):
        link.close()
