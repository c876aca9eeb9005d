"""ZeroMQ, here alone: one listening socket, calling ones, and who is let in.

Off loopback both ends need a CURVE key; the listening one asks about every key that knocks (ZAP, ZeroMQ RFC 27).

A message to a reader is one frame, and its parts are put into that. libzmq 4.3 ends the process that reads a message
of several frames when the connection is made anew between two of them ("Assertion failed: !_more", src/fq.cpp): a
socket with IMMEDIATE then drops what it had not read yet, whether a message was begun or not.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...data.errors import BusError, WireError
from .keys import Pair
from .wire import MOST_ASKED, MOST_HEAD, MOST_PART

if TYPE_CHECKING:
    import zmq

_ENDPOINT = re.compile(r"tcp://(?P<host>\[[0-9a-fA-F:]+\]|[^:/\s\[\]]+):(?P<port>\d{1,5}|\*)")
_QUEUE = 1024  # messages; bytes are bounded by pace.py
_MOST_PARTS = 3
_HEARTBEAT_MS, _SILENT_MS, _HANDSHAKE_MS = 1000, 3000, 5000


@dataclass(frozen=True)
class Endpoint:
    """Where a relay listens or is called: tcp://HOST:PORT."""

    host: str
    port: str

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read "tcp://HOST:PORT"; raises BusError."""
        found = _ENDPOINT.fullmatch(text)
        if not found or (found["port"] != "*" and not 0 < int(found["port"]) < 65536):
            raise BusError(f"{text!r} is no address", "tcp://HOST:PORT, as in tcp://192.168.1.20:5590")
        return cls(found["host"], found["port"])

    @property
    def loopback(self) -> bool:
        """True when nobody outside this machine can reach it."""
        if self.host == "localhost":
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        return False

    def require_key(self, key: str | None, move: str) -> None:
        """Raise BusError when it leaves this machine and there is no key."""
        if key is None and not self.loopback:
            raise BusError(f"{self} is not this machine alone, and no key is named", move)

    def __str__(self) -> str:
        return f"tcp://{self.host}:{self.port}"


def new_pair() -> tuple[str, str]:
    """Return a new (public, secret) pair as Z85; raises BusError where pyzmq is missing."""
    public, secret = library().curve_keypair()
    return public.decode(), secret.decode()


def library() -> Any:
    """Return pyzmq; raises BusError where it, or its encryption, is missing."""
    try:
        import zmq
    except ImportError:
        raise BusError("the extra 'remote' is not installed", 'pip install "probeloop[remote]"') from None
    if not zmq.has("curve"):
        raise BusError("this pyzmq can't encrypt (no CURVE)", "install the wheel of pyzmq")
    return zmq


class _Readable:
    """A socket as a Poller's source."""

    def __init__(self, socket: zmq.Socket[bytes], poll_in: int) -> None:
        self._socket, self._poll_in = socket, poll_in
        self.fd = int(socket.FD)

    def hear(self) -> None:
        """`pending` takes the descriptor's wake-ups."""

    def pending(self) -> bool:
        """Whether a message waits."""
        return bool(int(self._socket.EVENTS) & self._poll_in)


def _set_up(socket: zmq.Socket[bytes], most_bytes: int) -> None:
    socket.LINGER = 0
    socket.SNDHWM = socket.RCVHWM = _QUEUE
    socket.MAXMSGSIZE = most_bytes
    socket.HEARTBEAT_IVL, socket.HEARTBEAT_TIMEOUT = _HEARTBEAT_MS, _SILENT_MS
    socket.HANDSHAKE_IVL = _HANDSHAKE_MS


def _parts(socket: zmq.Socket[bytes], zmq: Any) -> list[zmq.Frame] | None:
    """Take a message without copying it; None when there is none. Of one with too many parts only the first stay."""
    try:
        frame = socket.recv(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
    found = [frame]
    while found[-1].more:
        frame = socket.recv(copy=False)
        if len(found) <= _MOST_PARTS:
            found.append(frame)
        elif not frame.more:
            break
    return found


def joined(parts: tuple[bytes, ...]) -> bytes:
    """Return parts as one body: how many (1 byte), the length of each (8 bytes, little-endian), and they."""
    lengths = struct.pack(f"<{len(parts)}Q", *map(len, parts))
    return b"".join((bytes((len(parts),)), lengths, *parts))


def taken_apart(body: memoryview) -> list[memoryview]:
    """Return the parts of a body, which is not copied; raises WireError for one that is not whole."""
    count = body[0] if len(body) else 0
    at = 1 + 8 * count
    if not 1 <= count <= _MOST_PARTS or len(body) < at:
        raise WireError(f"a message of {len(body)} bytes in {count} parts")
    lengths = struct.unpack_from(f"<{count}Q", body, 1)
    if at + sum(lengths) != len(body):
        raise WireError(f"a message of {len(body)} bytes, its parts have {sum(lengths)}")
    parts = []
    for length in lengths:
        parts.append(body[at : at + length])
        at += length
    return parts


class Listening:
    """The socket of a rig's relay; one thread.

    pair: this host's key, None = without keys (loopback alone). admits: whether a public key may come in.
    """

    def __init__(self, endpoint: Endpoint, pair: Pair | None, admits: Callable[[str], bool]) -> None:
        """Listen; raises BusError."""
        endpoint.require_key(pair.name if pair else None, "name one")
        self._zmq = zmq = library()
        self._context = zmq.Context()
        self._admits = admits
        self._socket = self._context.socket(zmq.ROUTER)
        self._zap = self._context.socket(zmq.REP)
        try:
            self._zap.LINGER = 0
            self._zap.bind("inproc://zeromq.zap.01")
            _set_up(self._socket, MOST_ASKED + 4096)
            self._socket.ROUTER_MANDATORY = 1
            self._socket.IPV6 = int("[" in endpoint.host)
            if pair is not None:
                self._socket.CURVE_SERVER = 1
                self._socket.CURVE_SECRETKEY = pair.secret.encode()
                self._socket.ZAP_DOMAIN = b"probeloop"
            self._keyed = pair is not None
            self._socket.bind(str(endpoint))
        except zmq.ZMQError as error:
            self.close()
            raise BusError(
                f"can't listen on {endpoint}: {error.strerror}", "another port, or end what holds it"
            ) from None
        self.endpoint = self._socket.LAST_ENDPOINT.decode().rstrip("\0")
        self.sources = (_Readable(self._socket, zmq.POLLIN), _Readable(self._zap, zmq.POLLIN))

    def let_in(self) -> None:
        """Answer those who knock: whoever has a trusted key may enter."""
        from zmq.utils import z85

        while (parts := _zap_parts(self._zap, self._zmq)) is not None:
            known = b""
            if len(parts) >= 7 and parts[5] == b"CURVE" and len(parts[6]) == 32:
                public = z85.encode(parts[6])
                known = public if self._admits(public.decode()) else b""
            status = (b"200", b"OK") if known else (b"400", b"the key is not trusted")
            self._zap.send_multipart([b"1.0", parts[1] if len(parts) > 1 else b"", *status, known, b""])

    def receive(self, most: int) -> Iterator[tuple[bytes, str, bytes]]:
        """Yield (connection, its public key or "", body) of waiting messages; those of no valid shape are dropped."""
        for _ in range(most):
            parts = _parts(self._socket, self._zmq)
            if parts is None:
                return
            if len(parts) != 2:
                continue
            public = str(parts[1].get("User-Id")) if self._keyed else ""
            yield parts[0].bytes, public, parts[1].bytes

    def send(self, peer: bytes, *parts: bytes) -> bool:
        """Send to a connection; False when its queue is full or it is gone."""
        try:
            self._socket.send(peer, self._zmq.SNDMORE | self._zmq.NOBLOCK)
            self._socket.send(joined(parts), self._zmq.NOBLOCK)
        except self._zmq.ZMQError:
            return False
        return True

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close(0)
        self._zap.close(0)
        self._context.destroy(0)


def _zap_parts(socket: zmq.Socket[bytes], zmq: Any) -> list[bytes] | None:
    try:
        parts: list[bytes] = socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
    return parts


class Calling:
    """Two connections to a relay, one a lane; one thread. server: its public key."""

    def __init__(self, endpoint: Endpoint, pair: Pair | None, server: str | None) -> None:
        """Begin to connect, which goes on by itself; raises BusError."""
        endpoint.require_key(
            pair.name if pair and server else None, "add --key NAME; make it: probeloop keys new NAME"
        )
        self._zmq = zmq = library()
        self._context = zmq.Context()
        self._sockets = [self._context.socket(zmq.DEALER) for _ in range(2)]
        try:
            for socket in self._sockets:
                _set_up(socket, MOST_PART + MOST_HEAD)
                socket.IPV6 = 1
                socket.IMMEDIATE = 1  # nothing waits for a connection: late is void
                socket.RECONNECT_IVL, socket.RECONNECT_IVL_MAX = 100, 1000
                socket.CONNECT_TIMEOUT = 2000
                if pair is not None and server is not None:
                    socket.CURVE_SERVERKEY = server.encode()
                    socket.CURVE_PUBLICKEY, socket.CURVE_SECRETKEY = pair.public.encode(), pair.secret.encode()
            self._monitor = self._sockets[0].get_monitor_socket(
                zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
                | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_CONNECTED
            )  # fmt: skip
            for socket in self._sockets:
                socket.connect(str(endpoint))
        except zmq.ZMQError as error:
            self._context.destroy(0)
            raise BusError(f"can't call {endpoint}: {error.strerror}", "check the address and the keys") from None
        self.sources = tuple(_Readable(socket, zmq.POLLIN) for socket in self._sockets)

    def receive(self, lane: int) -> list[memoryview] | None:
        """Take a message of lane 0 (control) or 1 (data): its parts as buffers; None when there is none.

        Raises WireError for one that is not whole.
        """
        frames = _parts(self._sockets[lane], self._zmq)
        if frames is None:
            return None
        if len(frames) != 1:
            raise WireError(f"a message of {len(frames)} frames")
        return taken_apart(frames[0].buffer)

    def send(self, lane: int, body: bytes) -> bool:
        """Send on a lane; False where there is no connection now."""
        try:
            self._sockets[lane].send(body, self._zmq.NOBLOCK)
        except self._zmq.ZMQError:
            return False
        return True

    def wait(self, timeout_s: float) -> None:
        """Wait until something came on the control lane, or the handshake failed [s]; for who has no bus yet."""
        poller = self._zmq.Poller()
        poller.register(self._sockets[0], self._zmq.POLLIN)
        poller.poll(timeout_s * 1e3)

    def trouble(self) -> str:
        """Return in words what went wrong with the handshake since the last look, or ""."""
        from zmq.utils.monitor import recv_monitor_message

        found = ""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event == self._zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                found = "this key is not trusted there"
            elif event == self._zmq.EVENT_CONNECTED:
                found = ""
            else:
                found = "it does not have the server key that is trusted here, or it is no relay"
        return found

    def close(self) -> None:
        """Hang up."""
        self._sockets[0].disable_monitor()
        for socket in self._sockets:
            socket.close(0)
        self._context.destroy(0)
