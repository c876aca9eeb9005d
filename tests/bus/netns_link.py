"""Two network namespaces and a line between them that delays, loses and can be cut; as root, on Linux.

The line is a process between two TUN devices: it reads packets from one namespace and writes them into the other, in
order, later. (`tc netem` would do the same where the kernel has it; many of virtual machines do not.)

    python netns_link.py NAMESPACE NAMESPACE       obeys lines: delay MS JITTER | loss PERCENT | cut | heal
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import selectors
import shutil
import struct
import subprocess
import sys
import time
import uuid
from collections import deque

NEAR, FAR = "10.77.0.1", "10.77.0.2"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_MOST = 4096  # packets on their way in one direction


def missing() -> str:
    """Return in words what this machine lacks for it, or ""."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "no ip: apt-get install iproute2"
    if not os.path.exists("/dev/net/tun"):
        return "no /dev/net/tun"
    name = f"pl-{uuid.uuid4().hex[:8]}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=False)
    return ""


class Line:
    """The namespaces `near` (10.77.0.1) and `far` (10.77.0.2), joined by the line; a context manager."""

    def __enter__(self) -> Line:
        word = uuid.uuid4().hex[:8]
        self.near, self.far = f"pl-{word}-a", f"pl-{word}-b"
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        self._process = subprocess.Popen(
            [sys.executable, __file__, self.near, self.far], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def tell(self, order: str) -> None:
        """Change the line."""
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "done\n"

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", name], check=False)


class Way:
    """One direction: packets come out in the order in which they went in, each after its own delay."""

    def __init__(self, out: int, chance: random.Random) -> None:
        self._out, self._chance = out, chance
        self.delay = self.jitter = self.loss = 0.0
        self.cut = False
        self.waiting: deque[tuple[float, bytes]] = deque()

    def take(self, packet: bytes, now: float) -> None:
        if self.cut or self._chance.random() < self.loss or len(self.waiting) >= _MOST:
            return
        due = now + max(0.0, self.delay + self._chance.uniform(-self.jitter, self.jitter))
        self.waiting.append((max(due, self.waiting[-1][0]) if self.waiting else due, packet))

    def give(self, now: float) -> None:
        while self.waiting and self.waiting[0][0] <= now:
            _, packet = self.waiting.popleft()
            if not self.cut:
                try:
                    os.write(self._out, packet)
                except OSError:
                    return


def tun(namespace: str, address: str) -> int:
    """Return a TUN device that lives in a namespace, with an address."""
    libc, home = ctypes.CDLL(None, use_errno=True), os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    assert libc.setns(there, _CLONE_NEWNET) == 0
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"line", _IFF_TUN | _IFF_NO_PI))
    finally:
        assert libc.setns(home, _CLONE_NEWNET) == 0
        os.close(there)
        os.close(home)
    ip = ["ip", "-n", namespace]
    subprocess.run([*ip, "addr", "add", f"{address}/30", "dev", "line"], check=True)
    subprocess.run([*ip, "link", "set", "line", "up", "txqueuelen", "2000"], check=True)
    return fd


def forward(near: str, far: str) -> None:
    """Be the line until stdin closes."""
    chance = random.Random(1)
    fds = tun(near, NEAR), tun(far, FAR)
    ways = {fds[0]: Way(fds[1], chance), fds[1]: Way(fds[0], chance)}
    looking = selectors.DefaultSelector()
    for fd in (*fds, sys.stdin.fileno()):
        looking.register(fd, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        due = [way.waiting[0][0] for way in ways.values() if way.waiting]
        timeout = max(0.0, min(due) - time.monotonic()) if due else 1.0
        for key, _ in looking.select(timeout):
            if key.fd == sys.stdin.fileno():
                order = os.read(key.fd, 1000).decode().split()
                if not order:
                    return
                obey(order, list(ways.values()))
                print("done", flush=True)
                continue
            for _ in range(64):
                try:
                    packet = os.read(key.fd, 65536)
                except BlockingIOError:
                    break
                ways[key.fd].take(packet, time.monotonic())
        for way in ways.values():
            way.give(time.monotonic())


def obey(order: list[str], ways: list[Way]) -> None:
    for way in ways:
        if order[0] == "delay":
            way.delay, way.jitter = float(order[1]) / 1e3, float(order[2]) / 1e3
        elif order[0] == "loss":
            way.loss = float(order[1]) / 100
        else:
            way.cut = order[0] == "cut"


if __name__ == "__main__":
    forward(*sys.argv[1:])
