"""The line between two hosts: what passes, and that each of its faults is one."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from probeloop.bench.chaos.line import Line

SAFETY_S = 5.0


class Echo:
    """A server that answers each byte with itself."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            near, _ = self._listener.accept()
            with near:
                while data := near.recv(1 << 16):
                    if data == b"end":
                        return
                    near.sendall(data)

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as caller:
            caller.sendall(b"end")
            self._thread.join(SAFETY_S)
        self._listener.close()


@pytest.fixture
def line() -> Iterator[Line]:
    echo = Echo()
    made = Line(echo.port, random.Random(1))
    yield made
    made.close()
    echo.close()


def call(line: Line) -> socket.socket:
    return socket.create_connection(("127.0.0.1", line.port), SAFETY_S)


def said(caller: socket.socket, words: bytes) -> tuple[bytes, float]:
    """Say something; return what came back, and after how long."""
    began = time.monotonic()
    caller.sendall(words)
    got = b""
    while len(got) < len(words):
        part = caller.recv(1 << 16)
        assert part
        got += part
    return got, time.monotonic() - began


def test_what_is_said_comes_back(line: Line) -> None:
    words = random.Random(2).randbytes(3 << 20)
    with call(line) as caller:
        sender = threading.Thread(target=caller.sendall, args=(words,))
        sender.start()
        got = b""
        while len(got) < len(words):
            got += caller.recv(1 << 16)
        sender.join(SAFETY_S)
    assert got == words


def test_a_late_line_is_late_both_ways(line: Line) -> None:
    with call(line) as caller:
        line.late(0.05, 0.0, 0.0)
        got, took = said(caller, b"hello")
        assert got == b"hello"
        assert took >= 0.1
        line.heal()
        assert said(caller, b"again")[1] < 0.1


def test_one_bit_of_what_comes_from_the_rig_flips(line: Line) -> None:
    with call(line) as caller:
        said(caller, b"x")
        line.flip(1)
        got, _ = said(caller, b"hello")
        assert sum((a ^ b).bit_count() for a, b in zip(got, b"hello", strict=True)) == 1
        assert line.flipped_ns
        assert said(caller, b"hello")[0] == b"hello"


def test_a_deaf_line_holds_what_was_said_until_it_heals(line: Line) -> None:
    with call(line) as caller:
        said(caller, b"x")
        line.deafen()
        time.sleep(0.05)  # its thread has looked
        caller.settimeout(0.2)
        caller.sendall(b"later")
        with pytest.raises(TimeoutError):
            caller.recv(10)
        caller.settimeout(SAFETY_S)
        line.heal()
        assert caller.recv(10) == b"later"


def test_a_cut_ends_every_connection_and_each_new_one(line: Line) -> None:
    with call(line) as caller:
        said(caller, b"x")
        line.cut()
        assert caller.recv(1) == b""
    with call(line) as another:
        assert another.recv(1) == b""
    line.heal()
    with call(line) as third:
        assert said(third, b"back")[0] == b"back"
