"""The two ports of a simulated Merlin, each with threads of its own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probeloop.api import MonotonicClock

from .merlin_faults import Faults, corrupted, rubbish
from .merlin_frames import Format, PoolSource, Source, StemSource
from .merlin_values import BUSY, OK, UNKNOWN, Values

_SLICE = 0.02  # [s]
_AT_ONCE = 4 << 20  # bytes a send
_TRIGGERS = {0: "Internal", 1: "Positive", 2: "Negative", 3: "Positive LVDS", 4: "Negative LVDS", 5: "Soft"}


@dataclass
class Sent:
    """What went out since the start: frames as they are, and what was done wrong with others."""

    frames: int = 0
    dropped: int = 0
    duplicated: int = 0
    corrupted: int = 0
    garbage_bytes: int = 0


@dataclass
class Run:
    """An acquisition. triggers: how many frames may go out so far."""

    frames: int
    per_trigger: int
    period: float
    form: Format
    trigger: int
    stop: threading.Event = field(default_factory=threading.Event)
    allowed: int = 0


class MerlinServer:
    """Serves both ports from threads of its own until `close`.

    rate: frames a second, 0 = as fast as they are taken, None = as ACQUISITIONPERIOD says. An external trigger comes
    at that rate by itself once a run is armed. refuse: name -> return code of every request about it.
    plain_length: replies count their length without the comma before it, as another peer does.
    """

    def __init__(
        self, source: Source, *, host: str = "127.0.0.1", control_port: int = 0, data_port: int = 0,
        rate: float | None = None, quad: bool = False, faults: Faults | None = None,
        refuse: Mapping[str, int] | None = None, plain_length: bool = False,
    ) -> None:  # fmt: skip
        self.source, self.rate, self.quad = source, rate, quad
        self.faults, self.plain_length = faults or Faults(), plain_length
        self.commands = Values(self._told, lambda: self._run is not None, self._command, refuse or {})
        self.sent, self.runs = Sent(), 0
        self._clock = MonotonicClock()
        self._lock = threading.Condition()
        self._run: Run | None = None
        self._client: socket.socket | None = None
        self._batches: tuple[Any, Any] = (None, None)
        self._ending = threading.Event()
        self._listeners = [_listen(host, control_port), _listen(host, data_port)]
        self.host = host
        self.control_port, self.data_port = (each.getsockname()[1] for each in self._listeners)
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept_control, "merlin-control")
        self._spawn(self._accept_data, "merlin-data")

    def close(self) -> None:
        """End everything."""
        self._ending.set()
        self.abort()
        for each in self._listeners:
            each.close()
        with self._lock:
            self._drop_client()
            threads = list(self._threads)
        for thread in threads:
            thread.join(5.0)
        if isinstance(self.source, StemSource):
            self.source.close()

    def __enter__(self) -> MerlinServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def form(self) -> Format:
        """How frames go out as it is set now."""
        now = self.commands.now
        return Format(
            self.source.shape, int(now["COUNTERDEPTH"]), now["FILEFORMAT"] == 2, self.quad,
            now["ACQUISITIONTIME"] * 1e-3, now["THRESHOLD0"],
        )  # fmt: skip

    @property
    def status(self) -> int:
        """DETECTORSTATUS: 0 idle, 1 busy, 4 armed and waiting for a trigger."""
        run = self._run
        return 0 if run is None else 1 if run.allowed else 4

    def abort(self) -> None:
        """End the run and wait until its last message is out."""
        with self._lock:
            if self._run is not None:
                self._run.stop.set()
            self._lock.notify_all()
            self._lock.wait_for(lambda: self._run is None or self._ending.is_set(), 1.0)

    def drop_connections(self) -> None:
        """Close the data connection, as a detector does whose software ends."""
        with self._lock:
            self._drop_client()

    # --- control ------------------------------------------------------------------------------------------------

    def _accept_control(self) -> None:
        for connection in self._accepted(0):
            self._spawn(lambda taken=connection: self._serve(taken), "merlin-client")

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        connection.settimeout(_SLICE)
        with connection:
            while not self._ending.is_set():
                try:
                    got = connection.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if not got:
                    return
                received += got
                while (body := _first(received)) is not None:
                    received = received[15 + len(body) :]
                    try:
                        connection.sendall(self._framed(self.commands.answer(body.decode("ascii", "replace"))))
                    except OSError:
                        return

    def _framed(self, reply: str) -> bytes:
        length = len(reply) + (0 if self.plain_length else 1)
        return b"MPX,%010d,%s" % (length, reply.encode())

    def _told(self, name: str) -> str | None:
        ky, kx = self.source.shape
        return {
            "SOFTWAREVERSION": "0.1 simulated", "DETECTORSTATUS": str(self.status), "TEMPERATURE": "25.0",
            "IMAGEX": str(kx), "IMAGEY": str(ky),
        }.get(name)  # fmt: skip

    def _command(self, name: str) -> int:
        if name == "STARTACQUISITION":
            return self._start()
        if name in ("STOPACQUISITION", "ABORT", "RESET"):
            self.abort()
            return OK
        if name == "SOFTTRIGGER":
            with self._lock:
                if self._run is None or self._run.trigger != 5:
                    return BUSY
                self._run.allowed += self._run.per_trigger
                self._lock.notify_all()
            return OK
        return UNKNOWN

    def _start(self) -> int:
        values = self.commands.now
        with self._lock:
            if self._run is not None:
                return BUSY
            period = values["ACQUISITIONPERIOD"] * 1e-3 if self.rate is None else 1 / self.rate if self.rate else 0.0
            frames, trigger = int(values["NUMFRAMESTOACQUIRE"]), int(values["TRIGGERSTART"])
            run = Run(frames, int(values["NUMFRAMESPERTRIGGER"]), period, self.form, trigger)
            run.allowed = 0 if trigger == 5 else frames + max(0, self.faults.surplus)
            self._run = run
            self.runs += 1
        self._spawn(lambda: self._acquire(run), "merlin-run")
        return OK

    # --- data ---------------------------------------------------------------------------------------------------

    def _accept_data(self) -> None:
        for connection in self._accepted(1):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._drop_client()
                self._client = connection
                self._lock.notify_all()

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()

    def _listening(self) -> socket.socket | None:
        """Return the data connection; one that is just being made is waited for."""
        with self._lock:
            if self._client is not None and _is_over(self._client):
                self._drop_client()
            self._lock.wait_for(lambda: self._client is not None or self._ending.is_set(), 0.5)
            return self._client

    def _acquire(self, run: Run) -> None:
        client = self._listening()
        try:
            if client is not None:
                client.settimeout(_SLICE)
                self._send_run(client, run)
        except OSError:
            with self._lock:
                if self._client is client:
                    self._drop_client()
        finally:
            with self._lock:
                self._run = None
                self._lock.notify_all()

    def _send_run(self, client: socket.socket, run: Run) -> None:
        faults, form = self.faults, run.form
        self._garbage(client, run, 0)
        header = form.acquisition_header(run.frames, run.per_trigger, _TRIGGERS[run.trigger])
        _send(client, b"MPX,%010d,%s" % (len(header) + 1, header), run.stop)
        self.source.begin(run.frames)
        total, at, began = run.frames + faults.surplus, 0, self._clock.now_ns()
        size = form.messages(self.source.counts(0, 1)).shape[1] if isinstance(self.source, PoolSource) else 0
        batch = max(1, _AT_ONCE // size) if size else 1
        while at < total and not run.stop.is_set():
            allowed = min(run.allowed, total)
            if at >= allowed:
                with self._lock:
                    self._lock.wait_for(lambda sent=at: run.allowed > sent or run.stop.is_set(), _SLICE)  # type: ignore[misc]
                began = self._clock.now_ns() - round(at * run.period * 1e9)
                continue
            count = min(batch, allowed - at)
            if run.period:
                due = int((self._clock.now_ns() - began) / (run.period * 1e9)) - at
                if due < 1:
                    self._clock.wait_until(began + round((at + 1) * run.period * 1e9), run.stop)
                    continue
                count = min(count, due)
            self._send_frames(client, run, at, count)
            at += count

    def _send_frames(self, client: socket.socket, run: Run, first: int, count: int) -> None:
        """Send frames [first, first + count) of a run, whose numbers are one higher."""
        messages = self._messages(run.form, first, count)
        times = round(run.period * 1e9) * np.arange(first, first + len(messages), dtype=np.int64)
        run.form.number(messages, first + 1, times)
        if not self.faults.touches(first + 1, count):
            _send(client, memoryview(messages).cast("B"), run.stop)
            self.sent.frames += count
            return
        for number, message in enumerate(messages, first + 1):
            self._send_faulty(client, run, number, message)

    def _messages(self, form: Format, first: int, count: int) -> Any:
        """Return whole messages of these frames; those of a pool are made once and kept, twice in a row."""
        if not isinstance(self.source, PoolSource):
            return form.messages(self.source.counts(first, count))
        made_for, kept = self._batches
        if made_for != form:
            pool = form.messages(self.source.counts(0, self.source.size))
            times = -(-_AT_ONCE // pool[0].size // self.source.size) + 1
            kept = np.tile(pool, (times, 1))
            self._batches = form, kept
        at = first % self.source.size
        return kept[at : at + count]

    def _send_faulty(self, client: socket.socket, run: Run, number: int, message: Any) -> None:
        faults, sent = self.faults, self.sent
        if number in faults.stall:
            self._clock.wait_until(self._clock.now_ns() + round(faults.stall[number] * 1e9), run.stop)
        self._garbage(client, run, number)
        if number == faults.close:
            _send(client, message[: len(message) // 2].tobytes(), run.stop)
            raise ConnectionResetError("as asked")
        if number in faults.drop:
            sent.dropped += 1
            return
        if number in faults.corrupt:
            wrong = corrupted(message, faults.corrupt[number], run.form.header_bytes, run.form.raw)
            _send(client, wrong, run.stop)
            sent.corrupted += 1
        else:
            _send(client, message.tobytes(), run.stop)
            sent.frames += 1
        if number in faults.duplicate:
            _send(client, message.tobytes(), run.stop)
            sent.duplicated += 1

    def _garbage(self, client: socket.socket, run: Run, number: int) -> None:
        count = self.faults.garbage.get(number, 0)
        if count:
            _send(client, rubbish(count, number), run.stop)
            self.sent.garbage_bytes += count

    # --- threads ------------------------------------------------------------------------------------------------

    def _spawn(self, target: Any, name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive() or each.ident is None]
            self._threads.append(thread)
        thread.start()

    def _accepted(self, which: int) -> Any:
        listener = self._listeners[which]
        while not self._ending.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            yield connection


def _listen(host: str, port: int) -> socket.socket:
    made = socket.create_server((host, port), reuse_port=False)
    made.settimeout(_SLICE)
    return made


def _is_over(connection: socket.socket) -> bool:
    """True when the other end closed it."""
    connection.settimeout(0)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _first(received: bytes) -> bytes | None:
    """Return the body of the first whole message; what is none is answered as one unknown request."""
    if len(received) < 15:
        return None
    if received[:4] != b"MPX," or not received[4:14].isdigit():
        return received[15:]
    length = int(received[4:14]) - 1
    return received[15 : 15 + length] if len(received) >= 15 + length else None


def _send(client: socket.socket, data: Any, stop: threading.Event) -> None:
    """Send all of it, however slowly it is taken; a stopped run ends in the middle when nobody takes it."""
    view = memoryview(data)
    while view:
        try:
            view = view[client.send(view) :]
        except TimeoutError:
            if stop.is_set():
                raise
