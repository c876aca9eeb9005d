"""The closed loop on the bus: `python -m probeloop.bench.loop_role instrument|detector|policy RIG`."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ..bus.node import Bus
from ..bus.publish import Publisher
from ..bus.request import Client
from ..bus.subscribe import Subscriber
from ..data.commands import Unblank
from ..data.control import (
    Accepted,
    Describe,
    Description,
    ReleaseControl,
    Request,
    Submit,
    TakeControl,
    decode_reply,
    encode,
)
from ..data.errors import ProbeloopError
from ..data.frame import block_bytes
from ..instrument.service import run_instrument
from .loop_parts import HOLDER, VALUE, Detector, LoopDriver, Policy

_ANSWER_S = 2.0

Ask = Callable[[Request], Any]


def say(**answer: Any) -> None:
    """Print a line of JSON for the bench."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def ending() -> threading.Event:
    """Return an event that is set when stdin ends."""
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    return over


def instrument(rig: str) -> None:
    """Serve the driver with the gate, as any rig's instrument process does."""
    with Bus(rig, "instrument") as bus:
        run_instrument(bus, LoopDriver(), stop=ending(), ready=lambda: say(ready=True))


def detector(rig: str) -> None:
    """Read patterns, publish sums."""
    detect, over = Detector(), ending()
    with Bus(rig, "detector") as bus:
        source = Subscriber(bus, "spectrum", "lossless")
        sink = Publisher(bus, VALUE.name, block_bytes(VALUE, 1))
        generation = -1
        say(ready=True)
        while not over.is_set():
            block = source.receive(0.1)
            if block is None or not block.count:
                continue
            values = detect(block.data)
            if block.generation != generation:
                generation = block.generation
                sink.announce(VALUE, generation)
            buffer = sink.loan(block.count)
            buffer.data[:] = values
            sink.send(
                buffer, block.count, generation=generation, source_index=block.index, exposed_ns=block.exposed_ns
            )
        source.close()
        sink.close()


def policy(rig: str) -> None:
    """Take control, then for each line on stdin close the loop for so many seconds; say what the gate measured."""
    with Bus(rig, "policy") as bus:
        client, values = Client(bus, "instrument"), Subscriber(bus, VALUE.name, "lossless")

        def ask(request: Request) -> Any:
            return decode_reply(client.call(encode(request), _ANSWER_S))

        close_loops(ask, values.receive)
        client.close()
        values.close()


def must(reply: Any) -> Accepted:
    """Return a reply that says yes; raises ProbeloopError for any other: a bench of refusals measures nothing."""
    if not isinstance(reply, Accepted):
        raise ProbeloopError(f"the gate says no: {reply}", "mend the bench")
    return reply


def close_loops(ask: Ask, receive: Callable[[float], Any]) -> None:
    """Be the policy, whatever the transport: ask(request) -> reply, receive(seconds) -> block of values or None."""
    say(ready=True)
    for line in sys.stdin:
        taken = must(ask(TakeControl(HOLDER)))
        deciding = Policy(taken.epoch)
        must(ask(Submit(Unblank(), HOLDER, taken.epoch)))
        must(ask(deciding.first()))
        until, loops = time.monotonic() + float(json.loads(line)["seconds"]), 0
        while time.monotonic() < until:
            block = receive(1.0)
            if block is None:
                raise ProbeloopError(f"no value came after {loops} loops", "see Describe")
            must(ask(deciding.decide(block)))
            loops += 1
        while receive(0.1) is not None:
            pass
        told = ask(Describe())
        latency = told.state["loop_latency_us"] if isinstance(told, Description) else {}
        must(ask(ReleaseControl(HOLDER)))
        say(loops=loops, p50_us=latency.get("p50"), p99_us=latency.get("p99"))


if __name__ == "__main__":
    {"instrument": instrument, "detector": detector, "policy": policy}[sys.argv[1]](sys.argv[2])
