"""Measures the relay: on loopback beside plain pyzmq PUB/SUB, and over a line with delay, loss and a cut.

    python tests/bus/netns_measure.py            (as root, Linux; 90 s)

Both hosts of the line are this machine, so the true one-way latency and the true clock offset (0) are known.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.append(str(Path(__file__).parent))
from netns_link import NEAR, Line, missing

from probeloop.bus.event import EventReader
from probeloop.bus.node import Bus
from probeloop.bus.publish import Publisher
from probeloop.bus.relay.keys import KeyRing
from probeloop.bus.relay.sockets import new_pair
from probeloop.bus.subscribe import Subscriber
from probeloop.data import control
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.control import Gap, decode_event
from probeloop.rig.client import Connection

CHILD = Path(__file__).with_name("netns_child.py")
BLOCK = StreamSpec("bulk", "frames", "<u2", sig=(Axis("ky", 256), Axis("kx", 256)), can_wait=True)  # 128 KiB
VIEW = msgspec.structs.replace(BLOCK, name="view", can_wait=False)
VALUES = StreamSpec("values", "values", "<f4")
STOPS = 40
pause = threading.Event().wait


class Pair:
    """A rig with its relay, and the same rig mirrored; in namespaces, or both on loopback."""

    def __init__(self, stack: ExitStack, folder: Path, *, line: Line | None, keys: bool, compress: bool) -> None:
        self.rig = f"m-{uuid.uuid4().hex[:8]}"
        ring = KeyRing(folder / "keys")
        if keys and not ring.own():
            ring.trust(ring.new("host", new_pair), "server")
            ring.trust(ring.new("anna", new_pair), "viewer")
        bind = f"tcp://{NEAR if line else '127.0.0.1'}:{5590 if line else '*'}"
        serve = ["serve", self.rig, bind, str(folder / "keys") if keys else "-", "lz4" if compress else "none"]
        self.far = stack.enter_context(Bus(self.rig, "source"))
        served = stack.enter_context(_process([*_inside(line and line.near), sys.executable, str(CHILD), *serve]))
        assert served.stdout is not None
        at = served.stdout.readline().strip()
        connect = [*_inside(line and line.far), sys.executable, "-m", "probeloop.cli", "connect", at]
        mirror = stack.enter_context(
            _process([*connect, *(["--key", "anna"] if keys else [])], PROBELOOP_CONFIG=str(folder))
        )
        assert mirror.stdout is not None
        said = mirror.stdout.readline()
        assert "connected" in said, said
        self.near_name = f"{self.rig}-remote"
        self.near = stack.enter_context(Bus(self.near_name, "reader"))

    def ready(self, *topics: str) -> None:
        """Wait until the relay reads these topics: a source that began before would run ahead of it."""
        with Connection(self.rig, "look") as connection:
            until = time.monotonic() + 30
            while time.monotonic() < until:
                reply = connection.request("relay", control.Describe(), 5.0)
                assert isinstance(reply, control.Description)
                if any(reader["topics"].keys() >= set(topics) for reader in reply.state["readers"]):
                    return
                pause(0.05)
        raise AssertionError(f"{topics} are not relayed")

    def link(self) -> dict[str, Any]:
        """What the mirror says of its link."""
        with Connection(self.near_name, "look") as connection:
            reply = connection.request("link", control.Describe(), 5.0)
            assert isinstance(reply, control.Description)
            return reply.state


def _inside(namespace: str | None) -> list[str]:
    return ["ip", "netns", "exec", namespace] if namespace else []


@contextmanager
def _process(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as made:
        try:
            yield made
        finally:
            made.send_signal(signal.SIGTERM)
            try:
                made.wait(10)
            except subprocess.TimeoutExpired:
                made.kill()


class Source(threading.Thread):
    """Publishes blocks: as fast as the credits let (rate None), or so many a second, waiting for nobody."""

    def __init__(self, bus: Bus, spec: StreamSpec, rate: float | None, noise: float = 0.15) -> None:
        super().__init__(name=spec.name)
        self._publisher = Publisher(bus, spec.name, 200 << 10, source_waits=spec.can_wait)
        self._spec, self._rate, self.over = spec, rate, threading.Event()
        frames = np.random.default_rng(1).poisson(noise, (16, 256, 256)).astype("<u2")
        self._frames: Any = frames if spec.kind == "frames" else np.arange(16, dtype="<f4")
        self._publisher.announce(spec, 1)
        self.sent = 0

    def run(self) -> None:
        due, looked = time.monotonic(), 0.0
        while not self.over.is_set():
            if time.monotonic() - looked > 0.1:
                looked = time.monotonic()
                self._publisher.refresh()
            if self._rate is None:
                if not self._publisher.wait_for_credit(0.1, self.over.is_set):
                    continue
            else:
                due += 1 / self._rate
                if self.over.wait(max(0.0, due - time.monotonic())):
                    break
            buffer = self._publisher.loan(1)
            buffer.data[0] = self._frames[self.sent % 16]
            buffer.time_ns[0] = time.monotonic_ns()  # a column that nobody stamps anew
            self._publisher.send(buffer, 1, generation=1, exposed_ns=int(buffer.time_ns[0]))
            self.sent += 1

    def end(self) -> None:
        self.over.set()
        self.join()
        self._publisher.close()


def throughput(pair: Pair, seconds: float) -> tuple[float, int]:
    """Return bytes/s of 128 KiB blocks, every byte read, and how many were lost."""
    source = Source(pair.far, BLOCK, None)
    reader = Subscriber(pair.near, "bulk", "lossless", credit=True)
    pair.ready("bulk")
    source.start()
    count, begun, until = 0, 0.0, time.monotonic() + 20
    total = 0
    while time.monotonic() < until:
        block = reader.receive(0.2)
        if block is None:
            continue
        total += int(block.data.view(np.uint64).sum())
        if not begun:
            begun = time.monotonic()
            until = begun + seconds
            continue
        count += block.count
    took = time.monotonic() - begun
    lost = reader.stats.lost
    reader.close()
    source.end()
    return count * 131072 / took, lost


def stops(pair: Pair, count: int) -> dict[str, float]:
    """Return how long a STOP takes until it is confirmed [ms], while blocks fill the line."""
    source = Source(pair.far, BLOCK, None)
    reader = Subscriber(pair.near, "bulk", "lossless", credit=True)
    pair.ready("bulk")
    source.start()
    over = threading.Event()
    drain = threading.Thread(target=lambda: [reader.receive(0.1) for _ in iter(over.is_set, True)])
    drain.start()
    took = []
    with Connection(pair.near_name, "stop") as connection:
        door = connection.stop_door()
        pause(2.0)
        for _ in range(count):
            reply, spent = door.stop("measured", 10.0)
            assert isinstance(reply, control.Accepted), reply
            took.append(spent / 1e6)
            pause(0.05)
        door.close()
    over.set()
    drain.join()
    reader.close()
    source.end()
    return {"p50_ms": round(statistics.median(took), 1), "longest_ms": round(max(took), 1), "n": count}


def plain(line: Line | None, seconds: float) -> float:
    """Return bytes/s of plain PUB/SUB without keys."""
    bind = f"tcp://{NEAR}:5591" if line else "tcp://127.0.0.1:*"
    with _process([*_inside(line and line.near), sys.executable, str(CHILD), "pub", bind, str(seconds + 6)]) as pub:
        assert pub.stdout is not None
        at = pub.stdout.readline().strip()
        out = subprocess.run(
            [*_inside(line and line.far), sys.executable, str(CHILD), "sub", at, str(seconds)],
            capture_output=True, text=True, check=True, timeout=seconds + 60,
        )  # fmt: skip
    return float(out.stdout)


class Watch(threading.Thread):
    """Reads a topic at the near end; remembers true and shown latency, and when blocks came."""

    def __init__(self, bus: Bus, topic: str) -> None:
        super().__init__(name=f"watch-{topic}")
        self._reader = Subscriber(bus, topic, "lossless")
        self.true: list[float] = []
        self.wrong: list[float] = []
        self.came: list[float] = []
        self.indices: list[int] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            block = self._reader.receive(0.1)
            if block is None:
                continue
            now, made = time.monotonic_ns(), int(block.time_ns[0])
            self.came.append(now / 1e9)
            self.true.append((now - made) / 1e9)
            self.wrong.append((block.exposed_ns - made) / 1e9 if block.exposed_ns else 0.0)
            self.indices.append(block.index)

    def end(self) -> dict[str, Any]:
        """Return figures [ms]; error: of the stamps, whose truth is known here."""
        self.over.set()
        self.join()
        lost = self._reader.stats.lost
        self._reader.close()
        p50, p99 = (float(np.percentile(self.true, q)) * 1e3 for q in (50, 99))
        return {
            "blocks": len(self.true), "lost": lost, "p50_ms": round(p50, 2), "p99_ms": round(p99, 2),
            "stamp_error_ms": round(max(map(abs, self.wrong)) * 1e3, 3),
        }  # fmt: skip


def latencies(pair: Pair, seconds: float) -> dict[str, Any]:
    """Return the one-way latency of 50 values a second (lossless) and of 100 frames a second (newest)."""
    sources = [Source(pair.far, VALUES, 50), Source(pair.far, VIEW, 100)]
    watches = [Watch(pair.near, spec.name) for spec in (VALUES, VIEW)]
    pair.ready("values", "view")
    for each in (*watches, *sources):
        each.start()
    pause(seconds)
    link = pair.link()
    for source in sources:
        source.end()
    pause(1.0)
    found = {name: watch.end() for name, watch in zip(("values", "view"), watches, strict=True)}
    clock = {f"clock_{key}_ms": round(link[f"clock_{key}"] * 1e3, 3) for key in ("offset", "error")}
    return {**found, **clock}


def cut(pair: Pair, line: Line, seconds: float) -> dict[str, Any]:
    """Cut the line for `seconds` while values and frames flow; return what was lost, named, and how long it took."""
    frames = msgspec.structs.replace(BLOCK, name="camera", can_wait=False)
    sources = [Source(pair.far, VALUES, 20), Source(pair.far, frames, 100)]
    watches = [Watch(pair.near, "values"), Watch(pair.near, "camera")]
    events = EventReader(pair.near)
    pair.ready("values", "camera")
    for each in (*watches, *sources):
        each.start()
    pause(3.0)
    line.tell("cut")
    pause(seconds)
    healed = time.monotonic()
    line.tell("heal")
    pause(12.0)
    for source in sources:
        source.end()
    pause(3.0)
    named = {"values": 0, "camera": 0}
    for event in map(decode_event, events.read()):
        if isinstance(event, Gap):
            named[event.topic] += event.count
    events.close()
    back = min((at for at in watches[0].came if at > healed), default=float("nan"))
    made: dict[str, Any] = {"reconnect_s": round(back - healed, 2)}
    for watch, source, topic in zip(watches, sources, ("values", "camera"), strict=True):
        seen = watch.indices
        figures = watch.end()
        missing_frames = (seen[-1] - seen[0] + 1 - len(seen)) if seen else source.sent
        made[topic] = {
            "sent": source.sent, "arrived": len(seen), "lost": missing_frames, "named": named[topic],
            "in_order": seen == sorted(set(seen)), "longest_wait_ms": round(max(watch.true) * 1e3),
        }  # fmt: skip
        assert figures["lost"] == missing_frames
    return made


def measure(rounds: int = 3, seconds: float = 3.0, say: Any = lambda line: None) -> dict[str, Any]:
    """Return every figure; bytes/s in MB/s."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loopback: dict[str, list[float]] = {}
        for _ in range(rounds):
            loopback.setdefault("plain PUB/SUB, no keys", []).append(plain(None, seconds) / 1e6)
            for keys, compress in ((False, False), (True, False), (True, True)):
                with ExitStack() as stack:
                    pair = Pair(stack, folder, line=None, keys=keys, compress=compress)
                    speed, lost = throughput(pair, seconds)
                    assert lost == 0
                what = f"relay, {'keys' if keys else 'no keys'}{', lz4' if compress else ''}"
                loopback.setdefault(what, []).append(speed / 1e6)
        found["loopback_mb_s"] = {what: round(statistics.median(all_)) for what, all_ in loopback.items()}
        say(found)
        with ExitStack() as stack:
            pair = Pair(stack, folder, line=None, keys=True, compress=True)
            found["loopback"] = latencies(pair, seconds)
        with ExitStack() as stack:
            found["loopback"]["stop"] = stops(Pair(stack, folder, line=None, keys=True, compress=False), STOPS)
        say(found["loopback"])
        for title, orders in (
            ("delay 20±5 ms", ("delay 20 5",)),
            ("delay 20±5 ms, loss 2 %", ("delay 20 5", "loss 2")),
        ):
            with Line() as line:
                for order in orders:
                    line.tell(order)
                figures: dict[str, Any] = {"plain_mb_s": round(plain(line, 2 * seconds) / 1e6, 2)}
                for compress in (False, True):
                    with ExitStack() as stack:
                        pair = Pair(stack, folder, line=line, keys=True, compress=compress)
                        speed, lost = throughput(pair, 2 * seconds)
                        figures["relay_lz4_mb_s" if compress else "relay_mb_s"] = round(speed / 1e6, 2)
                        figures["lost"] = figures.get("lost", 0) + lost
                with ExitStack() as stack:
                    pair = Pair(stack, folder, line=line, keys=True, compress=True)
                    figures |= latencies(pair, 3 * seconds)
                with ExitStack() as stack:
                    pair = Pair(stack, folder, line=line, keys=True, compress=False)
                    figures["stop"] = stops(pair, STOPS)
                if "loss 2" in orders:
                    with ExitStack() as stack:
                        pair = Pair(stack, folder, line=line, keys=True, compress=True)
                        figures["cut of 5 s"] = cut(pair, line, 5.0)
            found[title] = figures
            say(figures)
    return found


if __name__ == "__main__":
    lacks = missing()
    if lacks:
        sys.exit(f"not measured: {lacks}")
    print(json.dumps(measure(say=lambda figures: print(json.dumps(figures), file=sys.stderr, flush=True)), indent=1))
