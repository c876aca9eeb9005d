"""The window's door to STOP: a thread of its own, with ports of its own, that waits for a flag.

Whoever presses the key only sets the flag; no request, map or dialog of the window stands before it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from probeloop.api import Accepted, ProbeloopError, Refused

from .connection import Link, StopSender

_TRIES = 10
_EACH_S = 1.0


@dataclass(frozen=True)
class StopResult:
    """What came of a STOP. latency_ns: from the key to the confirmation."""

    confirmed: bool
    text: str
    latency_ns: int


class StopThread:
    """Waits for `press` and sends Stop until the instrument confirms it, or ten tries have failed."""

    def __init__(self, link: Link, reason: str = "operator pressed STOP") -> None:
        self._link, self._reason = link, reason
        self._pressed = threading.Event()
        self._closing = threading.Event()
        self._finished = threading.Event()
        self._pressed_ns = 0
        self.result: StopResult | None = None
        self._thread = threading.Thread(target=self._run, name="window-stop", daemon=True)
        self._thread.start()

    def press(self) -> None:
        """STOP. Returns at once; may be called from any thread, any number of times."""
        if not self._pressed.is_set():
            self._pressed_ns = time.monotonic_ns()
            self.result = None
            self._finished.clear()
            self._pressed.set()

    def wait(self, timeout_s: float) -> StopResult | None:
        """Wait for what came of it [s]."""
        self._finished.wait(timeout_s)
        return self.result

    @property
    def busy(self) -> bool:
        """True between the key and the answer."""
        return self._pressed.is_set()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._pressed.set()
        self._thread.join(2 * _EACH_S + 1)

    def _run(self) -> None:
        door: StopSender | None = None
        while not self._closing.is_set():
            if door is None:
                try:
                    door = self._link.stop_door()  # made before it is needed
                except ProbeloopError:
                    self._pressed.wait(0.5)
            if door is not None:
                self._pressed.wait()
            if self._pressed.is_set() and not self._closing.is_set():
                self.result = self._send(door)
                self._pressed.clear()
                self._finished.set()
        if door is not None:
            door.close()

    def _send(self, door: StopSender | None) -> StopResult:
        text = "the instrument's process can't be reached"
        for _ in range(_TRIES):
            if self._closing.is_set():
                break
            try:
                if door is None:
                    break
                reply, _ = door.stop(self._reason, _EACH_S)
            except ProbeloopError as error:
                text = error.message
                self._closing.wait(0.05)
                continue
            took = time.monotonic_ns() - self._pressed_ns
            if isinstance(reply, Accepted):
                return StopResult(True, f"stopped, confirmed after {took / 1e6:.0f} ms", took)
            text = reply.reason if isinstance(reply, Refused) else "the answer makes no sense"
        took = time.monotonic_ns() - self._pressed_ns
        return StopResult(False, f"STOP NOT CONFIRMED: {text}. Use the instrument's hardware switch", took)
