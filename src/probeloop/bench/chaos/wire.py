"""Rows 20 and 22: malformed messages to every service, and a reader that is too slow."""

from __future__ import annotations

import ctypes
import random
import threading
import time

from ...bus.event import EventWriter
from ...bus.header import HEADER
from ...bus.publish import Publisher
from ...bus.subscribe import Subscriber
from ...bus.topic import LINE, data_publisher, data_service
from ...data import commands as c
from ...data import control
from ...data.axes import Axis, StreamSpec
from ...data.errors import BusError, WireError
from .outcome import Fault, Outcome, survivors
from .rig import ChaosRig

_BODIES = 100
_JUNK_BYTES = 1 << 12
_JUNK = StreamSpec("junk", "frames", "<u2", (Axis("y", 4), Axis("x", 4)), (Axis("ky", 4), Axis("kx", 4)))
_SEEDS = (
    control.Describe(),
    control.Heartbeat("experiment", 1),
    control.SetParameters("haadf", {"inner": 0.01}, None),
    control.Submit(c.MoveProbe((0.0, 0.0)), "nobody", 1, dry_run=True),
    control.TakeControl("nobody"),
)
_SERVICES = ("instrument", "experiment", "recorder", "supervisor")


def mutated(body: bytes, rng: random.Random) -> bytes:
    """Return a message with bytes flipped, cut off, doubled or inserted; or no message at all."""
    made = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made)) if made else 0
        match rng.randrange(5):
            case 0 if made:
                made[at] ^= 1 << rng.randrange(8)
            case 1:
                del made[at:]
            case 2:
                made[at:at] = rng.randbytes(rng.randint(1, 40))
            case 3:
                made += made[at:]
            case _:
                made = bytearray(b"\x91" * rng.randint(1, 3000))
    return bytes(made)


def malformed(rig: ChaosRig, rng: random.Random) -> Outcome:
    """Every service answers every body, and goes on; a malformed event is passed over."""
    before = rig.pids()
    problems: tuple[str, ...] = ()
    refused, times = 0, []
    writer = EventWriter(rig.raw_bus())
    try:
        for _ in range(_BODIES):
            body = mutated(control.encode(rng.choice(_SEEDS)), rng)
            service = rng.choice(_SERVICES)
            begun = time.monotonic()
            try:
                reply = control.decode_reply(rig.client(service).call(body, 5.0))
            except (BusError, WireError) as error:
                problems += (f"{service} did not answer {body[:40]!r}: {error}",)
                continue
            times.append(time.monotonic() - begun)
            refused += isinstance(reply, control.Refused)
            if rng.random() < 0.2:
                writer.write(body)
    finally:
        writer.close()
    rig.all_flows(time.monotonic_ns())
    notes = {
        "bodies": float(_BODIES),
        "bodies_refused": float(refused),
        "answer_max_ms": 1e3 * max(times, default=0.0),
    }
    return Outcome("refused", None, notes=notes, problems=problems[:3] + survivors(rig, before))


def malformed_blocks(rig: ChaosRig, rng: random.Random) -> Outcome:
    """A topic on which every second block has a damaged header, or none: who reads it counts them and goes on."""
    before, bus = rig.pids(), rig.raw_bus()
    topic = f"junk{rng.getrandbits(20)}"
    publisher = Publisher(bus, topic, _JUNK_BYTES)
    publisher.announce(_JUNK, 1)
    raw = data_publisher(bus, data_service(bus, topic, publisher.sizes), topic, publisher.sizes, _JUNK_BYTES)
    reader = Subscriber(bus, topic, "lossless")
    delivered = 0
    try:
        rig.until(lambda: publisher.readers > 1, "a recorder that follows a new topic")
        for number in range(_BODIES):
            lines = rng.choice((1, 2, 4, 9, 16))
            sample = raw.loan_slice_uninit(lines)
            head = mutated(HEADER.pack(1, 0, number, 2, 3, 1, 0, -1, 5, 0, 256, 0, 1, 0, 0), rng)
            ctypes.memset(sample.payload_ptr, 0, lines * LINE)
            ctypes.memmove(sample.payload_ptr, head, min(len(head), lines * LINE))
            sample.assume_init().send()
            buffer = publisher.loan(1)
            buffer.data[:], buffer.scan_index[:] = 1, number % 16
            publisher.send(buffer, 1, 1)
            delivered += sum(block.data.shape == (block.count, 4, 4) for block in reader.drain())
        refused = reader.stats.wire_errors + reader.stats.unspecified
    finally:
        reader.close()
        raw.delete()
        publisher.close()
    rig.all_flows(time.monotonic_ns())
    rig.until(lambda: _answers(rig, "recorder"), "a recorder that answers")
    notes = {"blocks": float(_BODIES), "blocks_refused": float(refused)}
    problems = () if refused and delivered else (f"{refused} damaged blocks were refused, {delivered} delivered",)
    return Outcome("refused", None, notes=notes, problems=problems + survivors(rig, before))


def _answers(rig: ChaosRig, service: str) -> bool:
    try:
        return isinstance(rig.ask(service, control.Describe()), control.Description)
    except BusError:
        return False


def slow_reader(rig: ChaosRig, rng: random.Random) -> Outcome:
    """A reader that sleeps 10 ms a block loses, knows exactly how much, and holds up nobody."""
    before = rig.pids()
    witness = rig.witness.tallies["camera"]
    pause = threading.Event()
    frames, begun = witness.frames, time.monotonic()
    pause.wait(1.0)
    calm = (witness.frames - frames) / (time.monotonic() - begun)
    reader = Subscriber(rig.raw_bus(), "camera", "lossless")
    got, first, last, missed = 0, -1, -1, 0
    frames, lost, begun = witness.frames, witness.lost, time.monotonic()
    try:
        while time.monotonic() - begun < 2.0:
            block = reader.receive(0.2)
            if block is None:
                continue
            if first < 0:
                first, missed = block.index, reader.stats.lost  # what it missed before its first block
            got, last = got + block.count, block.index + block.count
            pause.wait(0.01)
        rate = (witness.frames - frames) / (time.monotonic() - begun)
        counted = reader.stats.lost - missed
    finally:
        reader.close()
    problems = survivors(rig, before)
    if got + counted != last - first:
        problems += (f"{got} frames and {counted} lost are not the {last - first} that were sent",)
    if rig.waits and witness.lost != lost:
        problems += (f"another reader lost {witness.lost - lost} frames",)
    notes = {"lost": float(counted), "rate_x_calm": rate / calm if calm else 0.0}
    return Outcome("contained", None, notes=notes, problems=problems)


FAULTS = (
    Fault("malformed-blocks", 20, "a topic with damaged headers", malformed_blocks),
    Fault("malformed", 20, "a hundred malformed requests, some as events too", malformed),
    Fault("slow-reader", 22, "a reader that sleeps 10 ms a block", slow_reader),
)
