"""Starts `tickit` in its own environment, with one fault mended: tickit_bound.py all CONFIG.yaml.

tickit 0.4.3 binds its stream's socket and also connects it to that same address. A PUSH socket hands its messages to
all its peers in turn, so now and then every second one goes to itself and is lost. Here it only binds.
"""

from __future__ import annotations

import sys

import aiozmq
import zmq
from tickit.adapters.io.zeromq_push_io import ZeroMqPushIo
from tickit.cli import main


async def bound(host: str, port: int) -> aiozmq.ZmqStream:
    return await aiozmq.create_zmq_stream(zmq.PUSH, bind=f"tcp://{host}:{port}")


if __name__ == "__main__":
    host, port, _ = ZeroMqPushIo.__init__.__defaults__
    ZeroMqPushIo.__init__.__defaults__ = (host, port, bound)
    sys.exit(main())
