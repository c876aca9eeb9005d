"""What goes over the wire between driver and bridge, on loopback; both sides import this file.

A message is 16 bytes (`PLN1`, length of the header, length of the payload, little-endian), a header that is one JSON
object, and the payload, raw bytes of arrays in C order.

A request is {"id": n, "do": NAME, ...}; its reply has the same id, and either what was asked for or "error" (one
line) and "allowed" (the next move). The first request of a connection is {"do": "hello", "key": KEY, "role": ROLE};
when one whose role is "driver" ends, the beam is blanked. Each connection is served by a thread of its own, so that
`safe` and `get` are answered while another one exposes.

    describe                                        what the column is
    get      names                                  values by name: Nion's controls (C10, C12.x, EHT, C_Blank ...)
    set      values                                 controls by name, SI
    probe    x, y [m]                               where the probe rests
    begin                                           "run": what `safe` ends; expose, scan and spectrum carry it
    expose   run, exposure [s], binning, of         payload in: (n, 2) float64 places (x, y) [m];
             ("sample", "dark", "vacuum")           out: (count, h, w) float32, and "times" [ns], CLOCK_MONOTONIC
    scan     run, channels, shape, width, height,   out: (channels, ny, nx) float32
             centre_x, centre_y [m], dwell [s]
    spectrum run, x, y [m], exposure [s], n         out: (channels,) float32, and "time" [ns]
    safe                                            blanks, and ends what runs; answered at once
    bye                                             ends the bridge
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

_FRAME = struct.Struct("<4sIQ")
_MAGIC = b"PLN1"
MOST_HEADER = 1 << 22
MOST_PAYLOAD = 1 << 30


def send(connection: socket.socket, head: Mapping[str, Any], payload: memoryview | bytes = b"") -> None:
    """Write one message; raises OSError."""
    text = json.dumps(head).encode()
    size = memoryview(payload).nbytes
    connection.sendall(_FRAME.pack(_MAGIC, len(text), size) + text)
    if size:
        connection.sendall(payload)


def receive(
    connection: socket.socket, into: memoryview | None = None, most: int = MOST_PAYLOAD
) -> tuple[dict[str, Any], memoryview]:
    """Read one message; return its header and its payload.

    into: memory for the payload, when it fits there. most: what a payload may be [bytes].
    Raises ConnectionError when the other side is gone, ValueError for what is no message.
    """
    magic, header, size = _FRAME.unpack(_exactly(connection, memoryview(bytearray(_FRAME.size))))
    if magic != _MAGIC or header > MOST_HEADER or size > most:
        raise ValueError(f"no message of the bridge: {magic!r}, {header} and {size} bytes")
    try:
        head = json.loads(bytes(_exactly(connection, memoryview(bytearray(header)))))
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no message of the bridge: {error}") from error
    if not isinstance(head, dict):
        raise ValueError("no message of the bridge: its header is no object")
    if into is not None and size <= into.nbytes:
        return head, _exactly(connection, into.cast("B")[:size])
    return head, _exactly(connection, memoryview(bytearray(size)))


def _exactly(connection: socket.socket, memory: memoryview) -> memoryview:
    at = 0
    while at < memory.nbytes:
        n = connection.recv_into(memory[at:])
        if not n:
            raise ConnectionError("the other side closed the connection")
        at += n
    return memory
