"""Hardware that outlives whoever speaks to it: a program of its own with a beam, a tip and a bias, for tests.

    python -m probeloop.testing.hardware LOG [--connections N]

It listens on loopback, prints its port, and notes every request in LOG, one JSON object a line: when (the host's
CLOCK_MONOTONIC), over whose connection, what, and whether the state was safe afterwards.
Lines on its stdin make it faulty: "hang NAME" and "free NAME" (a connection that says nothing, not even no),
"refuse NAME" and "accept NAME" (whoever says hello under that name is turned away, and thrown out). It ends with its
stdin.

A request is one line of JSON, {"id": 7, "do": "set", "values": {"blanked": false}}; its answer has the same id and
the state, or "error". `do`: hello (name), get, set (values), safe, measure (n).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import selectors
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..data.control import Scalar
from ..data.errors import DriverError

SAFE: dict[str, Scalar] = {"blanked": True, "feedback": "withdrawn", "bias": 0.0}
ANSWER_S = 0.4  # [s] in which it answers, or is taken to hang


@dataclass
class _Visitor:
    """One connection; name: as it said hello."""

    socket: socket.socket
    name: str = "?"
    received: bytes = b""
    heard: bool = False


class Hardware:
    """The state, who is connected, and who is treated badly. log: a line a request."""

    def __init__(self, log: IO[str], connections: int = 2) -> None:
        self.state: dict[str, Scalar] = {**SAFE, "position_x": 0.0, "position_y": 0.0}
        self._log, self._connections = log, connections
        self._visitors: list[_Visitor] = []
        self._refused: set[str] = set()
        self._hanging: set[str] = set()
        self._selector = selectors.DefaultSelector()

    def serve(self, server: socket.socket, orders: int) -> None:
        """Answer until the file `orders` ends."""
        self._selector.register(server, selectors.EVENT_READ, None)
        self._selector.register(orders, selectors.EVENT_READ, b"")
        while True:
            for key, _ in self._selector.select():
                if isinstance(key.data, _Visitor):
                    self._hear(key.data)
                elif key.data is None:
                    self._welcome(server.accept()[0])
                else:
                    read = os.read(orders, 4096)
                    if not read:
                        self._selector.close()
                        return
                    for order in read.decode().splitlines():
                        self._obey(*order.split())

    def _welcome(self, visitor: socket.socket) -> None:
        if len(self._visitors) >= self._connections:
            visitor.sendall(b'{"error": "all connections are taken"}\n')
            visitor.close()
            return
        visitor.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._visitors.append(_Visitor(visitor))
        self._listen(self._visitors[-1])

    def _obey(self, word: str, name: str) -> None:
        names = self._hanging if word in ("hang", "free") else self._refused
        (names.add if word in ("hang", "refuse") else names.discard)(name)
        for visitor in tuple(self._visitors):
            if visitor.name in self._refused:
                self._leave(visitor)
            else:
                self._listen(visitor)
        sys.stdout.write("done\n")
        sys.stdout.flush()

    def _listen(self, visitor: _Visitor) -> None:
        """Listen to a visitor, or not: what it sends meanwhile is done when it is heard again."""
        hear = visitor.name not in self._hanging
        if hear and not visitor.heard:
            self._selector.register(visitor.socket, selectors.EVENT_READ, visitor)
        elif visitor.heard and not hear:
            self._selector.unregister(visitor.socket)
        visitor.heard = hear

    def _leave(self, visitor: _Visitor) -> None:
        if visitor.heard:
            self._selector.unregister(visitor.socket)
        visitor.socket.close()
        self._visitors.remove(visitor)

    def _hear(self, visitor: _Visitor) -> None:
        try:
            data = visitor.socket.recv(65536)
            *lines, visitor.received = (visitor.received + data).split(b"\n")
            for line in lines:
                answer = self._answer(visitor, json.loads(line))
                visitor.socket.sendall(json.dumps(answer).encode() + b"\n")
                if "error" in answer:
                    data = b""
        except OSError:
            data = b""
        if data:
            self._listen(visitor)
        else:
            self._leave(visitor)

    def _answer(self, visitor: _Visitor, request: dict[str, Any]) -> dict[str, Any]:
        do, values = request["do"], request.get("values", {})
        answer: dict[str, Any] = {"id": request["id"], "state": self.state}
        match do:
            case "hello":
                visitor.name = request["name"]
                if visitor.name in self._refused:
                    return {"error": f"no connection for {visitor.name}"}
            case "set":
                self.state.update(values)
            case "safe":
                self.state.update(SAFE)
            case "measure":
                counts = (0 if self.state["blanked"] else 100) + (self.state["feedback"] == "engaged")
                answer["counts"] = [counts] * request["n"]
        safe = all(self.state[name] == value for name, value in SAFE.items())
        line = {"t": time.monotonic_ns(), "by": visitor.name, "do": do, "values": values, "safe": safe}
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()
        return answer


class HardwareLink:
    """A connection to it; any thread, calls of several threads pass each other. name: to be known by."""

    def __init__(self, port: int, name: str) -> None:
        """Connect; raises DriverError when it is not there or refuses."""
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), ANSWER_S)
        except OSError as error:
            raise DriverError(
                f"no connection to the hardware on port {port}: {error}", "is it switched on?"
            ) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(None)
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._answers: dict[int, dict[str, Any]] = {}
        self._over = ""
        self._thread = threading.Thread(target=self._read, name=f"link of {name}", daemon=True)
        self._thread.start()
        try:
            self.ask("hello", name=name)
        except DriverError:
            self.close()
            raise

    def ask(self, do: str, timeout_s: float = ANSWER_S, **fields: Any) -> dict[str, Any]:
        """Return the answer; raises DriverError without one in time [s]."""
        number = next(self._numbers)
        line = json.dumps({"id": number, "do": do, **fields}).encode() + b"\n"
        with self._changed:
            if not self._over:
                try:
                    self._socket.sendall(line)
                except OSError as error:
                    self._over = str(error)
            self._changed.wait_for(lambda: bool(self._over) or number in self._answers, timeout_s)
            answer = self._answers.pop(number, None)
        if answer is None:
            raise DriverError(self._over or f"the hardware does not answer within {timeout_s:g} s")
        return answer

    def _read(self) -> None:
        over = "the hardware closed the connection"
        try:
            for line in self._socket.makefile("rb"):
                answer = json.loads(line)
                if "error" in answer:
                    over = str(answer["error"])
                    break
                with self._changed:
                    self._answers[answer["id"]] = answer
                    self._changed.notify_all()
        except (OSError, ValueError) as error:
            over = str(error)
        with self._changed:
            self._over = over
            self._changed.notify_all()

    def close(self) -> None:
        """Let go; harmless when closed already."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(1.0)
        self._socket.close()


def main() -> None:
    """Be the hardware."""
    parser = argparse.ArgumentParser(description="hardware for tests")
    parser.add_argument("log", type=Path)
    parser.add_argument("--connections", type=int, default=2)
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as server, options.log.open("a", encoding="utf-8") as log:
        sys.stdout.write(f"{server.getsockname()[1]}\n")
        sys.stdout.flush()
        Hardware(log, options.connections).serve(server, sys.stdin.fileno())


if __name__ == "__main__":
    main()
