"""Messages to a remote reader are one frame each, put together there and taken apart here."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probeloop.bus.relay.sockets import Calling, Endpoint, Listening, joined, taken_apart
from probeloop.data.errors import WireError

zmq = pytest.importorskip("zmq", reason="no pyzmq: pip install 'probeloop[remote]'")
PARTS = st.lists(st.binary(max_size=40), min_size=1, max_size=3)


@given(PARTS)
def test_what_was_put_together_comes_apart_without_a_copy(parts: list[bytes]) -> None:
    body = joined(tuple(parts))
    found = taken_apart(memoryview(body))
    assert [bytes(part) for part in found] == parts
    assert all(part.obj is body for part in found)


@given(PARTS, st.integers(0, 200), st.binary(min_size=1, max_size=3))
def test_a_message_that_is_not_whole_is_told(parts: list[bytes], at: int, more: bytes) -> None:
    body = joined(tuple(parts))
    for torn in (body[: at % len(body)], body + more, b"\x00" + body[1:], b"\x04" + body[1:]):
        with pytest.raises(WireError, match="a message of"):
            taken_apart(memoryview(torn))


def test_a_block_is_one_frame_on_the_wire() -> None:
    """Of several frames libzmq 4.3 may drop the second while the first is read, and end the process."""
    listening = Listening(Endpoint.parse("tcp://127.0.0.1:*"), None, lambda key: True)
    context = zmq.Context()
    plain = context.socket(zmq.DEALER)
    calling = Calling(Endpoint.parse(listening.endpoint), None, None)
    try:
        plain.connect(listening.endpoint)
        plain.send(b"knock")
        until = time.monotonic() + 10
        while not calling.send(1, b"knock"):
            assert time.monotonic() < until
        peers: list[bytes] = []
        while len(peers) < 2:
            peers += [peer for peer, _, _ in listening.receive(10)]
            assert time.monotonic() < until
        parts = (b"head", b"columns", bytes(100_000))
        assert all(listening.send(peer, *parts) for peer in peers)
        assert plain.poll(10_000)
        assert plain.recv() == joined(parts)
        assert not plain.RCVMORE
        found = None
        while found is None:
            found = calling.receive(1)
            assert time.monotonic() < until
        assert tuple(map(bytes, found)) == parts
    finally:
        calling.close()
        context.destroy(0)
        listening.close()
