"""A bare reader of the Merlin stream: it starts a run, takes the bytes off the socket and counts them, no more.

usage: merlin_bytes.py try        is everything here?
       merlin_bytes.py            serves rounds: {"host", "control_port", "data_port", "frames"} a line
"""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any

PREFIX = 15  # MPX,<10 digits>,  and the digits count the comma
BUFFER = bytearray(1 << 20)


def ask(control: socket.socket, words: str) -> None:
    control.sendall(f"MPX,{len(words) + 1:010d},{words}".encode())
    reply = control.recv(4096).decode()
    if not reply.rstrip("\0").endswith(",0"):
        raise RuntimeError(f"{words}: {reply}")


def message_length(data: socket.socket) -> int:
    """Read a prefix and return how many bytes follow it."""
    prefix = b""
    while len(prefix) < PREFIX:
        more = data.recv(PREFIX - len(prefix))
        if not more:
            raise RuntimeError("the stream ended")
        prefix += more
    return int(prefix[4:14]) - 1


def count(data: socket.socket, most: int) -> int:
    """Take up to `most` bytes; return how many came."""
    view, taken = memoryview(BUFFER), 0
    while taken < most:
        n = data.recv_into(view[: min(len(view), most - taken)])
        if not n:
            break
        taken += n
    return taken


def run(asked: dict[str, Any]) -> dict[str, Any]:
    host, frames = asked["host"], asked["frames"]
    with (
        socket.create_connection((host, asked["data_port"]), 5) as data,
        socket.create_connection((host, asked["control_port"]), 5) as control,
    ):
        data.settimeout(30)
        for words in (*asked.get("before", ()), f"SET,NUMFRAMESTOACQUIRE,{frames}"):
            ask(control, words)
        began = time.perf_counter()
        for words in ("CMD,STARTACQUISITION", *(["CMD,SOFTTRIGGER"] if asked.get("soft") else [])):
            ask(control, words)
        taken = count(data, message_length(data))
        length = message_length(data)
        total = length + (frames - 1) * (PREFIX + length)
        taken += count(data, total)
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "bytes": taken, "whole": taken >= total}


def main() -> int:
    if sys.argv[1:] == ["try"]:
        return 0
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            answer = run(json.loads(line))
        except (OSError, RuntimeError, ValueError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
