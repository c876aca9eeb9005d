"""Sockets: made, emptied and closed."""

from __future__ import annotations

import contextlib
import socket

import numpy as np
from numpy.typing import NDArray

from probeloop.api import Clock

SLICE = 0.02  # [s] between two looks at whether to end
_RECEIVE_BUFFER = 8 << 20


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """Open the data connection; raises OSError."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        made.settimeout(timeout)
        made.connect((host, port))
        made.settimeout(SLICE)
    except OSError:
        made.close()
        raise
    return made


def drain(connection: socket.socket, memory: NDArray[np.uint8], most: float, clock: Clock) -> int:
    """Read away what lies in a connection, for `most` [s]; return how many bytes. Raises OSError when it ended."""
    until, count = clock.now_ns() + round(most * 1e9), 0
    connection.settimeout(0)
    try:
        while clock.now_ns() < until:
            got = connection.recv_into(memoryview(memory))  # type: ignore[arg-type]
            if not got:
                raise ConnectionResetError("it was closed")
            count += got
    except BlockingIOError:
        pass
    finally:
        connection.settimeout(SLICE)
    return count


def closed(connection: socket.socket) -> None:
    """Close a connection, whatever state it is in."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        connection.close()
