"""A Merlin that is not there: the control and the data port of the detector's software, with our frames.

`python -m probeloop.simulators.servers merlin --help`. What it sends is what a driver must cope with; what it does
wrong on purpose (`merlin_faults`) is exactly known.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading

from probeloop.api import ProbeloopError

from .merlin_faults import KINDS, Faults
from .merlin_frames import PoolSource, Source, StemSource
from .merlin_server import MerlinServer

__all__ = ["Faults", "MerlinServer", "PoolSource", "StemSource", "main"]


def main(arguments: list[str]) -> int:
    """Serve until SIGINT or SIGTERM."""
    options = _parser().parse_args(arguments)
    try:
        faults = Faults.parse(
            options.drop, options.duplicate, options.corrupt, options.garbage, options.stall, options.close,
            options.surplus,
        )  # fmt: skip
        side = options.pixels or (512 if options.quad else 256)
        source: Source
        if options.source == "stem":
            source = StemSource(
                side, options.field * 1e-9, tuple(options.scan) if options.scan else None, options.seed
            )
        else:
            source = PoolSource((side, side), options.mean, options.pool, options.seed)
        server = MerlinServer(
            source, host=options.host, control_port=options.port, data_port=options.data_port, rate=options.rate,
            quad=options.quad, faults=faults,
        )  # fmt: skip
    except (ProbeloopError, OSError) as error:
        sys.stderr.write(f"merlin: {error}\n")
        return 2
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with server:
        told = {"server": "merlin", "host": server.host, "control_port": server.control_port}
        print(json.dumps({**told, "data_port": server.data_port}), flush=True)
        stop.wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m probeloop.simulators.servers merlin",
        description="A Merlin that is not there: control and data port with simulated frames. Prints one JSON line "
        "with its ports when it is ready. Frames are numbered from 1 in every run.",
        epilog="example: python -m probeloop.simulators.servers merlin --source pool --rate 1000 --drop 7,8 "
        "--corrupt header:20,payload:30 --garbage 0:4096",
    )
    add = made.add_argument
    add("--host", default="127.0.0.1", help="address to listen at")
    add("--port", type=int, default=6341, help="control port, 0 = any that is free")
    add("--data-port", type=int, default=6342, help="data port, 0 = any that is free")
    add("--source", choices=("stem", "pool"), default="stem", help="the simulated 4D-STEM, or fast Poisson frames")
    add("--pixels", type=int, default=0, help="side of a frame; default 256, or 512 for four chips")
    add("--quad", action="store_true", help="four chips in a square")
    add("--rate", type=float, help="frames/s, 0 = as fast as they are taken; default: as the detector is set")
    add("--seed", type=int, default=1)
    add(
        "--scan",
        type=int,
        nargs=2,
        metavar=("NY", "NX"),
        help="stem: the scan's shape; default: as square as it gets",
    )
    add("--field", type=float, default=4.0, help="stem: side of the scanned square [nm]")
    add("--mean", type=float, default=0.15, help="pool: electrons a pixel")
    add("--pool", type=int, default=31, help="pool: different frames")
    add("--drop", default="", help="frames that are never sent: 7,8")
    add("--duplicate", default="", help="frames that are sent twice: 5")
    add("--corrupt", default="", help=f"KIND:NUMBER; {', '.join(KINDS)}. header: another width than the pixels have; "
        "length: a message 7 bytes longer than it is; payload: the highest bit of a pixel turned, which no counter "
        "can hold (raw frames of 1 bit: just a wrong pixel)")  # fmt: skip
    add("--garbage", default="", help="NUMBER:BYTES of rubbish before a frame, 0 = before the acquisition header")
    add("--stall", default="", help="NUMBER:SECONDS of silence before a frame")
    add("--close", type=int, default=0, metavar="NUMBER", help="end the data connection in the middle of this frame")
    add("--surplus", type=int, default=0, help="frames beyond those asked for; negative: so many less")
    return made
