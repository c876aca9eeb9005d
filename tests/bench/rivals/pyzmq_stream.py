"""pyzmq over ipc as a transport under test: PUSH/PULL for one reader, XPUB/SUB that never drops for several."""

from __future__ import annotations

import os
import sys
import tempfile

import numpy as np
import zmq

from probeloop.bench.stream_role import FRAME_WORDS, Words, serve

DEPTH = 32  # messages in flight, as the other transports have


def address(name: str) -> str:
    return f"ipc://{tempfile.gettempdir()}/{name}.zmq"


class ZmqSender:
    def __init__(self, name: str, n: int) -> None:
        self._context = zmq.Context()
        self._several = name.endswith("-fanout")
        self._socket = self._context.socket(zmq.XPUB if self._several else zmq.PUSH)
        self._socket.sndhwm = DEPTH
        if self._several:
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
            self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._path = address(name)[6:]
        self._socket.bind(address(name))

    def wait_for_readers(self, count: int) -> None:
        for _ in range(count if self._several else 0):
            self._socket.recv()

    def send(self, words: Words) -> None:
        self._socket.send(words)

    def close(self) -> None:
        self._socket.close(linger=1000)
        self._context.term()
        if os.path.exists(self._path):
            os.unlink(self._path)


class ZmqReader:
    def __init__(self, name: str, n: int) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB if name.endswith("-fanout") else zmq.PULL)
        self._socket.rcvhwm = DEPTH
        self._socket.reconnect_ivl = 1  # ms; it may be there before its sender is
        if name.endswith("-fanout"):
            self._socket.subscribe(b"")
        self._socket.connect(address(name))
        self._n = n

    def receive(self, timeout_s: float) -> Words | None:
        if not self._socket.poll(0) and not self._socket.poll(round(timeout_s * 1e3)):
            return None
        frame = self._socket.recv(copy=False)
        return np.frombuffer(frame.buffer, np.uint64).reshape(self._n, FRAME_WORDS)

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()


if __name__ == "__main__":
    sys.exit(serve(ZmqSender, ZmqReader, sys.argv[1:]))
