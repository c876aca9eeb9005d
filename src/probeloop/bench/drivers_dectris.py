"""The DECTRIS driver against two simulators of others, and its speed against a bare loop of dectris-compression."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..data.errors import ProbeloopError
from ..discover import load_instrument
from . import parties, peers
from .drivers_peers import (
    eiger_frame,
    merlin_file,
    our_server,
    packed_by_bitshuffle,
    read_by_rosettasciio,
)
from .drivers_read import Account, Reader, compared, rate_of, totals
from .rounds import interleaved

Stream = Literal["v1", "v2"]
FIELD = (100e-9, 100e-9)
LIBERTEM, TICKIT = "libertem-live", "tickit"
EIGER = (4362, 4148)  # height, width of the frame in tickit-devices, from a real detector
POOL, SEED, MEAN, SIDE, WIDTH = 64, 1, 0.15, 256, 64  # of our server; width of a line
_DWELL = 1e-4
_LISTENS = r"istening on tcp://[^:\s]+:(\d+)"
_CONFIG = """
- type: tickit_devices.eiger.Eiger
  name: eiger
  inputs: {{}}
  host: 127.0.0.1
  port: {api}
  stream_legacy_port: {v1}
  stream_cbor_port: {v2}
"""


def driver(stream: Stream, ports: dict[str, Any], **settings: Any) -> Reader:
    """Make the driver by its name; raises ProbeloopError when nobody answers."""
    given = {"field_of_view": list(FIELD), "stream": stream, "trigger": "internal", "timeout": 60.0,
             "api_port": ports["api_port"], "stream_port": ports[stream], **settings}  # fmt: skip
    return Reader(load_instrument("dectris", given, kind="Driver"), FIELD)


def real_frames(folder: Path) -> NDArray[Any]:
    """Return 9 frames of a real quad Merlin, (9, 512, 512) uint16, as something to pack."""
    header = merlin_file("Merlin_Single_Quad", "Quad_9_Frame_CounterDepth_12_Rows_256", folder)
    return np.ascontiguousarray(read_by_rosettasciio(header.with_suffix(".mib"))).astype("<u2")


def against_libertem(folder: Path, rows: int = 384) -> Account:
    """Play real frames, packed by bitshuffle and cut to be non-square, from LiberTEM's simulator of stream v1."""
    frames = real_frames(folder)[:, :rows]
    dump = packed_by_bitshuffle(frames, folder)
    (api,) = peers.free_ports(1)
    command = [peers.program(LIBERTEM, "libertem-live-dectris-sim"), str(dump), "--port", str(api), "--zmqport", "0"]
    with peers.started(command, folder / "dectris-sim.log") as running:
        running.wait_for_ports([api])
        ports = {"api_port": api, "v1": int(running.wait_for(_LISTENS)[1])}
        with driver("v1", ports) as reader:
            return compared(reader, (3, 3), frames)


@contextmanager
def tickit(folder: Path) -> Iterator[dict[str, Any]]:
    """Run the Eiger of tickit-devices, see tickit_bound.py; yield its ports. Raises ProbeloopError."""
    api, v1, v2 = peers.free_ports(3)
    config = folder / "eiger.yaml"
    config.write_text(_CONFIG.format(api=api, v1=v1, v2=v2))
    command = [peers.program(TICKIT, "python"), str(parties.RIVALS / "tickit_bound.py"), "all", str(config)]
    with peers.started(command, folder / "tickit.log") as running:
        running.wait_for_ports([api, v1, v2])
        yield {"api_port": api, "v1": v1, "v2": v2}


def against_tickit(stream: Stream, folder: Path) -> Account:
    """Take frames of a real Eiger from tickit-devices, all the same, and hold them against bitshuffle's unpacking."""
    source = eiger_frame(stream, EIGER, folder)
    with (
        tickit(folder) as ports,
        driver(stream, ports, series="header") as reader,
    ):  # its arm answers with another number
        return compared(reader, (2, 3), source, dwell=0.02)


def pool() -> NDArray[np.uint16]:
    """Return the frames that our server sends one after the other, made again: Poisson counts about a bright disc."""
    y, x = np.ogrid[:SIDE, :SIDE]
    disc = np.hypot((y - SIDE / 2) / SIDE, (x - SIDE / 2) / SIDE) < 0.2
    intensity = np.where(disc, 1.0, 0.1)
    intensity *= MEAN / intensity.mean()
    return np.random.default_rng(SEED).poisson(intensity, (POOL, SIDE, SIDE)).astype(np.uint16)


def server_arguments(rate: float = 0.0, *more: str) -> list[str]:
    """Return the arguments of our server: frames of the pool at `rate` [frames/s], 0 = as fast as they are read."""
    return ["--source", "pool", "--pool", str(POOL), "--seed", str(SEED), "--mean", str(MEAN), "--pixels",
            str(SIDE), str(SIDE), "--rate", f"{rate:g}", *more]  # fmt: skip


def speed(stream: Stream, folder: Path, rounds: int, tell: Callable[[int, int], None], frames: int) -> dict[str, Any]:
    """Measure the driver against a bare loop on the same server, in the same rounds; raises ProbeloopError."""
    rival = parties.rival("dectris_loop")
    if rival is None:
        raise ProbeloopError("the bare loop dectris_loop.py can't run", "pip install 'probeloop[dectris-fast]'")
    source, shape = pool(), (frames // WIDTH, WIDTH)
    accounts: list[Account] = []
    with our_server("dectris", server_arguments(), folder) as ports:
        told = {"host": "127.0.0.1", "api_port": ports["api_port"], "stream_port": ports[stream], "stream": stream,
                "frames": frames, "config": _config(frames), "stream_config": _stream_config(stream)}  # fmt: skip
        bare = parties.start(rival)
        try:
            parties.read(bare, "dectris_loop")

            def theirs() -> float:
                parties.tell(bare, told)
                answer = parties.read(bare, "dectris_loop")
                if not answer["whole"]:
                    raise ProbeloopError(f"the bare loop got {answer['frames']} frames", "nothing here counts")
                return frames / float(answer["seconds"])

            def ours() -> float:
                with driver(stream, ports) as reader:
                    fps, account = rate_of(reader, shape, _DWELL, source, range(0, frames, 97))
                accounts.append(account)
                return fps

            figures = interleaved({"probeloop": ours, "bare loop": theirs}, rounds, 1, tell)
        finally:
            parties.end(bare)
    return {
        "x_bare_reader": figures.ratio("probeloop", "bare loop"),
        "fps": figures.median("probeloop"),
        "bare_reader_fps": figures.median("bare loop"),
        "spread": {name: list(figures.spread(name)) for name in figures.values},
        "frame": f"{SIDE}x{SIDE}, 16 bit, bslz4",
        "frames_a_round": frames,
        "rounds": rounds,
        "lost": sum(each.lost for each in accounts),
        "equal": all(each.equal for each in accounts),
        "errors": sorted({text for each in accounts for text in each.errors}),
        "server": "probeloop's own, on both sides",
    }


def _config(frames: int) -> dict[str, Any]:
    return {"trigger_mode": "ints", "compression": "bslz4", "count_time": 0.9 * _DWELL, "frame_time": _DWELL,
            "nimages": frames, "ntrigger": 1}  # fmt: skip


def _stream_config(stream: Stream) -> dict[str, str]:
    return {"mode": "enabled", "format": "cbor" if stream == "v2" else "legacy", "header_detail": "basic"}


def bench(
    stream: Stream, folder: Path, rounds: int, tell: Callable[[str], Callable[[int, int], None]], frames: int = 32_768
) -> dict[str, Any]:
    """Return the figures of the driver with one of the streams; what can't be run is under `missing`, by name."""
    missing: list[str] = []
    cases: dict[str, Any] = {}
    wanted: dict[str, tuple[tuple[str, ...], Callable[[Path], Account]]] = {
        "tickit-devices Eiger": ((TICKIT, LIBERTEM), lambda place: against_tickit(stream, place)),
    }
    if stream == "v1":
        wanted = {"libertem-live-dectris-sim": ((LIBERTEM,), against_libertem), **wanted}
    progress = tell(f"dectris {stream}, peer")
    for number, (name, (environments, run)) in enumerate(wanted.items()):
        lacking = "; ".join(filter(None, map(peers.missing, environments)))
        place = folder / f"peer{number}"
        place.mkdir(parents=True, exist_ok=True)
        try:
            if lacking:
                raise ProbeloopError(lacking)
            cases[name] = run(place).as_dict()
        except ProbeloopError as error:
            missing.append(f"{name}: {error}")
        progress(number + 1, len(wanted))
    made: dict[str, Any] = {"cases": cases}
    try:
        made["speed"] = speed(stream, folder, rounds, tell(f"dectris {stream}, round"), frames)
    except ProbeloopError as error:
        missing.append(f"speed: {error}")
        made["speed"] = {}
    return {**totals(cases), "x_bare_reader": made["speed"].get("x_bare_reader"), **made, "missing": missing}
