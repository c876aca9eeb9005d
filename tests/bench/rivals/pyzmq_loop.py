"""The same closed loop over pyzmq: PUSH/PULL for patterns and values, REQ/REP for commands, PUB for events.

The gate with its threads and checks, the driver, the detector and the policy are those of the bench; only the bytes
go another way.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np
import zmq

from probeloop.bench.loop_parts import VALUE, Detector, LoopDriver
from probeloop.bench.loop_role import close_loops, ending, say
from probeloop.data.axes import StreamSpec
from probeloop.data.control import decode_reply, decode_request, encode
from probeloop.data.frame import BlockFlag, FrameBlock, FrameBuffer
from probeloop.instrument.attendants import Attendants
from probeloop.instrument.desk import ControlDesk
from probeloop.instrument.journal import EventJournal
from probeloop.instrument.requests import Requests
from probeloop.instrument.service import SWITCH, PumpThread

CONTEXT = zmq.Context()
NO_FLAGS = BlockFlag(0)


def address(rig: str, what: str) -> str:
    return f"ipc://{tempfile.gettempdir()}/{rig}-{what}.zmq"


def socket(kind: int, rig: str, what: str, *, bind: bool = False) -> Any:
    made = CONTEXT.socket(kind)
    (made.bind if bind else made.connect)(address(rig, what))
    return made


class ZmqOutlet:
    """Sends blocks as [spec, block]; has what the pump asks of a topic."""

    def __init__(self, sender: Any) -> None:
        self._socket, self._index, self._spec, self._encoded = sender, 0, None, b""

    def announce(self, spec: StreamSpec, generation: int) -> None:
        self._spec, self._encoded = spec, spec.encode()
        self._buffer = FrameBuffer.allocate(spec, 1)

    def loan(self, capacity: int) -> FrameBuffer:
        assert self._spec is not None
        return self._buffer if capacity == 1 else FrameBuffer.allocate(self._spec, capacity)

    def send(
        self, buffer: FrameBuffer, count: int, *, flags: BlockFlag = NO_FLAGS, generation: int,
        exposed_ns: int = 0, source_index: int = -1,
    ) -> int:  # fmt: skip
        index, self._index = self._index, self._index + count
        buffer.seal(
            count, index=index, generation=generation, flags=flags, exposed_ns=exposed_ns,
            published_ns=time.monotonic_ns(), source_index=source_index,
        )  # fmt: skip
        start = buffer.header.ctypes.data
        memory = buffer.header.base if buffer.header.base is not None else buffer.header
        while memory.base is not None and isinstance(memory.base, np.ndarray):
            memory = memory.base
        at = start - memory.ctypes.data
        self._socket.send_multipart([self._encoded, memory[at : at + memory.nbytes - 64]])
        return index

    def discard(self, buffer: FrameBuffer) -> None:
        pass

    def wait_for_credit(self, timeout_s: float, cancelled: Any = None) -> bool:
        return True

    def notices(self) -> list[str]:
        return []

    def refresh(self) -> None:
        pass


class ZmqTopic:
    """Reads what a ZmqOutlet sent."""

    def __init__(self, reader: Any) -> None:
        self._socket, self._encoded, self._spec = reader, b"", None

    def receive(self, timeout_s: float) -> FrameBlock | None:
        if not self._socket.poll(round(timeout_s * 1e3)):
            return None
        encoded, block = self._socket.recv_multipart(copy=False)
        if encoded.bytes != self._encoded:
            self._encoded = encoded.bytes
            self._spec = StreamSpec.decode(self._encoded)
        assert self._spec is not None
        return FrameBlock.parse(np.frombuffer(block.buffer, np.uint8), self._spec)


def instrument(rig: str) -> None:
    over, driver = ending(), LoopDriver()
    commands, events = socket(zmq.REP, rig, "commands", bind=True), socket(zmq.PUB, rig, "events", bind=True)
    outlet = ZmqOutlet(socket(zmq.PUSH, rig, "spectrum", bind=True))
    journal = EventJournal("instrument", time.monotonic_ns, events.send)
    pump = PumpThread(outlet, lambda: None)
    desk = ControlDesk(
        driver, driver.describe().limits, journal=journal, now_ns=time.monotonic_ns, outlet=lambda *_: outlet,
        acquire=lambda *a, **k: pump.acquire(desk.pump.run, *a, **k),
    )  # fmt: skip
    requests = Requests(desk)
    requests.arm("start")
    sys.setswitchinterval(SWITCH)
    pump.start()
    reading, ticked = threading.Lock(), 0

    def answer() -> None:
        nonlocal ticked
        with reading:  # a socket is one thread's at a time
            if commands.poll(25):
                commands.send(encode(requests.handle(decode_request(commands.recv()))))
            if time.monotonic_ns() - ticked > 25_000_000:
                ticked = time.monotonic_ns()
                desk.tick()

    attendants = Attendants(desk, answer)
    attendants.start()
    say(ready=True)
    over.wait()
    attendants.end()


def detector(rig: str) -> None:
    detect, over = Detector(), ending()
    source = ZmqTopic(socket(zmq.PULL, rig, "spectrum"))
    sink = ZmqOutlet(socket(zmq.PUSH, rig, "value", bind=True))
    sink.announce(VALUE, 0)
    say(ready=True)
    while not over.is_set():
        block = source.receive(0.1)
        if block is None or not block.count:
            continue
        values = detect(block.data)
        buffer = sink.loan(1)
        buffer.data[:] = values
        sink.send(buffer, 1, generation=block.generation, source_index=block.index, exposed_ns=block.exposed_ns)


def policy(rig: str) -> None:
    commands, values = socket(zmq.REQ, rig, "commands"), ZmqTopic(socket(zmq.PULL, rig, "value"))

    def ask(request: Any) -> Any:
        commands.send(encode(request))
        return decode_reply(commands.recv())

    close_loops(ask, values.receive)


if __name__ == "__main__":
    if sys.argv[1] != "try":
        {"instrument": instrument, "detector": detector, "policy": policy}[sys.argv[1]](sys.argv[2])
        for what in ("commands", "events", "spectrum", "value") if sys.argv[1] == "instrument" else ():
            path = address(sys.argv[2], what)[6:]
            if os.path.exists(path):
                os.unlink(path)
    os._exit(0)
