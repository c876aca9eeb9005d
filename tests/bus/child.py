"""The other process of the tests: python child.py ROLE RIG [ARGUMENTS]; says "ready", obeys lines on stdin."""

from __future__ import annotations

import sys
import threading

from bus_words import frames, send

from probeloop.bus.event import EventWriter
from probeloop.bus.heartbeat import Heartbeat
from probeloop.bus.node import Bus
from probeloop.bus.publish import Publisher
from probeloop.bus.request import Server
from probeloop.bus.subscribe import Poller, Subscriber
from probeloop.data.errors import ProbeloopError


def ready() -> None:
    print("ready", flush=True)


def read(bus: Bus, mode: str, credit: str) -> None:
    """Read `n` blocks for each line "n" and print (index, count, first pixel) of each."""
    reader = Subscriber(bus, "camera", mode, credit=credit == "credit")
    ready()
    for line in sys.stdin:
        for _ in range(int(line)):
            block = reader.receive(5.0)
            print(None if block is None else (block.index, block.count, int(block.data.flat[0])), flush=True)
        print(reader.stats.lost, flush=True)
    reader.close()


def beat_and_read(bus: Bus) -> None:
    """Beat every 20 ms; for each line "n" read until the next index is n (2: two blocks), and print what is lost."""
    reader, heart, stop = Subscriber(bus, "camera", "lossless", credit=True), Heartbeat(bus), threading.Event()

    def beat() -> None:
        while not stop.wait(0.02):
            heart.beat()

    threading.Thread(target=beat).start()
    ready()
    index = 0
    for line in sys.stdin:
        blocks = 0
        while blocks < 2 if int(line) == 2 else index < int(line):
            block = reader.receive(20.0)
            assert block is not None
            index, blocks = block.index + block.count, blocks + 1
        print(reader.stats.lost, flush=True)
    stop.set()
    reader.close()


def publish(bus: Bus) -> None:
    """Send `n` frames for each line "n", one a block, and print the next index."""
    publisher = Publisher(bus, "camera", 1 << 16)
    publisher.announce(frames(), 1)
    ready()
    for line in sys.stdin:
        for _ in range(int(line)):
            send(publisher, publisher.next_index % 1000)
        print(publisher.next_index, flush=True)
    publisher.close()


def beat(bus: Bus) -> None:
    """Beat every 10 ms until stdin closes."""
    heart, stop = Heartbeat(bus, "beater"), threading.Event()
    ready()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set())).start()
    while not stop.wait(0.01):
        heart.beat()


def serve(bus: Bus) -> None:
    """Answer requests backwards; "die" dies without an answer, "quit" ends."""
    server = Server(bus, "gate")
    poller = Poller(bus, server)
    ready()
    running = True
    while running:
        poller.wait(5.0)
        for body, respond in server.receive():
            if body == b"die":
                import os

                os._exit(1)
            respond(body[::-1])
            running = running and body != b"quit"
    poller.close()
    server.close()


def write(bus: Bus, count: str) -> None:
    """Write numbered events."""
    writer = EventWriter(bus)
    ready()
    for number in range(int(count)):
        writer.write(f"{number}".encode())
    writer.close()


def fill(bus: Bus, max_block_bytes: str) -> None:
    """Make a publisher and send through all of its memory; print the error or "fine"."""
    ready()
    try:
        publisher = Publisher(bus, "camera", int(max_block_bytes))
    except ProbeloopError as error:
        print(type(error).__name__, error, flush=True)
        return
    publisher.announce(frames(256), 1)
    reader = Subscriber(bus, "camera", "lossless")
    for value in range(100):
        send(publisher, value, 7)
    print("fine", reader.receive().count, flush=True)
    reader.close()
    publisher.close()


if __name__ == "__main__":
    role, rig, *rest = sys.argv[1:]
    with Bus(rig, role) as joined:
        {
            "read": read,
            "beat_and_read": beat_and_read,
            "publish": publish,
            "beat": beat,
            "serve": serve,
            "write": write,
            "fill": fill,
        }[role](joined, *rest)
