"""A server of the protocol of `drivers/template.py`, with the faults that a real camera has on a bad day."""

from __future__ import annotations

import json
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Faults:
    """drop, twice: numbers of frames. close_after, lie_after, stall_after: frames that are good before."""

    drop: set[int] = field(default_factory=set)
    twice: set[int] = field(default_factory=set)
    extra: int = 0
    close_after: int | None = None
    lie_after: int | None = None
    stall_after: int | None = None
    half_of: int | None = None
    answer: bytes | None = None
    state: dict[str, Any] = field(default_factory=dict)


class RawCamera:
    """Serves height x width uint16 frames; a context manager. Frame n is filled with n, its first pixel with 7."""

    def __init__(self, faults: Faults | None = None, *, width: int = 6, height: int = 4, pace: float = 0.0) -> None:
        self.faults, self.width, self.height, self.pace = faults or Faults(), width, height, pace
        self.exposure, self.acquiring, self.runs = 1e-3, False, 0
        self._stop = threading.Event()  # of the run that is on
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, name="raw camera")]
        self._threads[0].start()

    def frame(self, number: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
        made = np.full((self.height, self.width), number, "<u2")
        made[0, 0] = 7
        return made

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="raw camera, a client")
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            try:
                line = stream.readline()
                if line:
                    self._answer(connection, json.loads(line))
            except OSError:
                return

    def _answer(self, connection: socket.socket, request: dict[str, Any]) -> None:
        if self.faults.answer is not None:
            connection.sendall(self.faults.answer)
            return
        reply: dict[str, Any] = {"ok": True}
        match request["do"]:
            case "state":
                reply |= {"width": self.width, "height": self.height, "dtype": "<u2", "exposure_s": self.exposure}
                reply |= {"acquiring": self.acquiring, **self.faults.state}
            case "set":
                self.exposure = request["exposure_s"]
            case "stop":
                self._stop.set()
                self.acquiring = False
            case "run" if self.acquiring:
                reply = {"ok": False, "error": "busy"}
            case "run":
                self._stop, self.acquiring = threading.Event(), True
                self.runs += 1
        connection.sendall(json.dumps(reply).encode() + b"\n")
        if request["do"] == "run" and reply["ok"]:
            stop = self._stop
            try:
                self._run(connection, request["frames"], stop)
            finally:
                if stop is self._stop:
                    self.acquiring = False

    def _run(self, connection: socket.socket, frames: int, stop: threading.Event) -> None:
        faults, size = self.faults, 2 * self.width * self.height
        for number in range(frames + faults.extra):
            if stop.wait(self.pace) or self._over.is_set():
                return
            if number == faults.close_after:
                return
            if number == faults.stall_after:
                self._wait(stop)
                return
            body = self.frame(number).tobytes()
            if number == faults.half_of:
                connection.sendall(struct.pack("<II", size, number) + body[: size // 2])
                return
            lie = size - 2 if number == faults.lie_after else size
            for _ in range((number not in faults.drop) + (number in faults.twice)):
                connection.sendall(struct.pack("<II", lie, number) + body)
        connection.sendall(struct.pack("<II", 0, 0))

    def _wait(self, stop: threading.Event) -> None:
        while not stop.wait(0.02) and not self._over.is_set():
            pass

    def __enter__(self) -> RawCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5.0)
