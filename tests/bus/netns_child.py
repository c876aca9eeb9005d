"""The processes of the measurement: python netns_child.py ROLE ...

serve RIG BIND KEYS COMPRESS      an instrument and its relay, every topic lossless but "view", which is newest
pub BIND SECONDS                  plain pyzmq PUB without keys, blocks of 128 KiB, as fast as it goes
sub ADDRESS SECONDS               its SUB, which reads every byte; prints bytes/s
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

SIZE = 128 << 10


def serve(rig: str, bind: str, keys: str, compress: str) -> None:
    from probeloop.bus.node import Bus
    from probeloop.bus.relay.keys import KeyRing
    from probeloop.bus.relay.out import run_relay
    from probeloop.bus.relay.rules import Rules
    from probeloop.instrument.service import run_instrument
    from probeloop.testing.fake_driver import FakeDriver

    stop, ready = threading.Event(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    rules = Rules(
        bind=bind, key="host" if keys != "-" else None, topics=(("view", "newest"), ("*", "lossless")),
        compress=compress == "lz4",
    )  # fmt: skip
    ring = KeyRing(Path(keys)) if keys != "-" else KeyRing(Path("/nonexistent"))
    with Bus(rig, "instrument") as own, Bus(rig, "relay") as bus:
        options = {"stop": stop, "ready": ready.set}
        instrument = threading.Thread(target=run_instrument, args=(own, FakeDriver(modality="stem")), kwargs=options)
        instrument.start()
        ready.wait(10)
        run_relay(bus, rules, ring, lambda: ["instrument"], stop=stop, ready=lambda at: print(at, flush=True))
        instrument.join()


def pub(bind: str, seconds: str) -> None:
    import zmq

    context = zmq.Context()
    socket = context.socket(zmq.XPUB)
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    socket.SNDTIMEO = 1000
    socket.bind(bind)
    print(socket.LAST_ENDPOINT.decode(), flush=True)
    socket.recv()  # the subscription
    body, until = bytes(SIZE), time.monotonic() + float(seconds) + 1
    while time.monotonic() < until:
        try:
            socket.send(body)
        except zmq.Again:
            continue
    context.destroy(0)


def sub(address: str, seconds: str) -> None:
    import numpy as np
    import zmq

    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(address)
    total, count, begun = 0, 0, 0.0
    until = time.monotonic() + float(seconds) + 5
    while time.monotonic() < until:
        if not socket.poll(200):
            continue
        frame = socket.recv(copy=False)
        total += int(np.frombuffer(frame.buffer, np.uint64).sum())
        if not begun:
            begun, until = time.monotonic(), time.monotonic() + float(seconds)
            continue
        count += 1
    print(count * SIZE / max(1e-9, time.monotonic() - begun) if begun else 0.0, flush=True)
    context.destroy(0)


if __name__ == "__main__":
    {"serve": serve, "pub": pub, "sub": sub}[sys.argv[1]](*sys.argv[2:])
