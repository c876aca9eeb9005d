"""The Merlin driver against `libertem-live-mib-sim` on real files, and its speed against a reader of bare bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.errors import ProbeloopError
from ..discover import load_instrument
from . import parties, peers
from .drivers_peers import merlin_file, our_server, read_by_libertem, read_by_rosettasciio
from .drivers_read import Account, Reader, compared, rate_of, totals
from .rounds import interleaved

ENVIRONMENT, SIMULATOR = "libertem-live", "libertem-live-mib-sim"
FIELD = (100e-9, 100e-9)
POOL, SEED, MEAN, SIDE = 31, 1, 0.15, 256  # of our server
WIDTH = 64
_DWELL = 1e-4  # asked of the detector; the server sends as fast as it is read


@dataclass(frozen=True)
class Case:
    """One acquisition that a real Merlin wrote. shape: of the scan; depth: bits of a counter."""

    name: str
    archive: str
    stem: str
    shape: tuple[int, int]
    depth: int
    pixels: tuple[int, int]
    raw: bool = False
    garbage: bool = False


_NINE, _SQUARE = "Merlin_Single_Quad", (3, 3)
CASES = (
    Case("6 bit", "Merlin_navigation4x2_ROI", "001_4x2_6bit", (2, 4), 6, (256, 256)),
    Case("12 bit", _NINE, "Single_9_Frame_CounterDepth_12_Rows_256", _SQUARE, 12, (256, 256)),
    Case("12 bit, 64 rows", "Merlin_navigation4x2_signalNx256_ROI",
         "003_merlin_test_roi_sig256x64_nav4x2_hot_pixel_52x_39y", (2, 4), 12, (64, 256)),
    Case("24 bit", _NINE, "Single_9_Frame_CounterDepth_24_Rows_256", _SQUARE, 24, (256, 256)),
    Case("quad, 12 bit", _NINE, "Quad_9_Frame_CounterDepth_12_Rows_256", _SQUARE, 12, (512, 512)),
    Case("R64, 1 bit", _NINE, "Single_9_Frame_CounterDepth_1_Rows_256RAW", _SQUARE, 1, (256, 256), raw=True),
    Case("R64 quad, 1 bit", _NINE, "Quad_9_Frame_CounterDepth_1_Rows_256RAW", _SQUARE, 1, (512, 512), raw=True),
    Case("12 bit, garbage", _NINE, "Single_9_Frame_CounterDepth_12_Rows_256", _SQUARE, 12, (256, 256), garbage=True),
)  # fmt: skip


def driver(**settings: Any) -> Reader:
    """Make the driver by its name; raises ProbeloopError when nobody answers."""
    return Reader(load_instrument("merlin", {"field_of_view": list(FIELD), **settings}, kind="Driver"), FIELD)


def against_peer(case: Case, folder: Path, scans: int = 2) -> Account:
    """Play a real file from LiberTEM's simulator and hold every frame against it; raises ProbeloopError."""
    header = merlin_file(case.archive, case.stem, folder / case.name.replace(" ", "_").replace(",", ""))
    if case.raw:
        source = read_by_libertem(header, case.shape)
    else:
        source = read_by_rosettasciio(header.with_suffix(".mib"))
    control, data, trigger = peers.free_ports(3)
    command = [
        peers.program(ENVIRONMENT, SIMULATOR), "--host", "127.0.0.1", "--control-port", str(control),
        "--data-port", str(data), "--trigger-port", str(trigger), "--wait-trigger", "--nav-shape",
        *map(str, case.shape), *(["--garbage"] if case.garbage else []), str(header),
    ]  # fmt: skip
    with peers.started(command, header.parent / "sim.log") as running:
        running.wait_for_ports((control, data, trigger))
        settings = {"control_port": control, "data_port": data, "trigger": "soft", "pixels": list(case.pixels),
                    "file_format": "raw" if case.raw else "processed", "timeout": 30.0}  # fmt: skip
        with driver(**settings) as reader:
            reader.set_detector(bit_depth=case.depth)
            return compared(reader, case.shape, source, scans=scans)


def pool(depth: int = 12) -> NDArray[np.uint32]:
    """Return the frames that our server sends one after the other, made again: what its help says of `--pool`."""
    rng = np.random.default_rng(SEED)
    frames = rng.poisson(MEAN, (POOL, SIDE, SIDE)).astype(np.uint32)
    frames[:, 0, :8] += np.arange(POOL, dtype=np.uint32)[:, None] % 60
    return np.minimum(frames, np.uint32((1 << depth) - 1))


def server_arguments(rate: float = 0.0, *more: str) -> list[str]:
    """Return the arguments of our server: frames of the pool at `rate` [frames/s], 0 = as fast as they are read."""
    return ["--port", "0", "--data-port", "0", "--source", "pool", "--pool", str(POOL), "--seed", str(SEED),
            "--mean", str(MEAN), "--pixels", str(SIDE), "--rate", f"{rate:g}", *more]  # fmt: skip


def speed(folder: Path, rounds: int, tell: Callable[[int, int], None], frames: int = 32_768) -> dict[str, Any]:
    """Measure the driver against a bare reader of the same server, in the same rounds; raises ProbeloopError."""
    rival = parties.rival("merlin_bytes")
    if rival is None:
        raise ProbeloopError("the bare reader merlin_bytes.py is not here", "run this from a checkout")
    source = pool()
    shape = (frames // WIDTH, WIDTH)
    accounts: list[Account] = []
    with our_server("merlin", server_arguments(), folder) as ports:
        where = {"control_port": ports["control_port"], "data_port": ports["data_port"]}
        bare = parties.start(rival)
        try:
            parties.read(bare, "merlin_bytes")

            def theirs() -> float:
                parties.tell(bare, {"host": "127.0.0.1", **where, "frames": frames, "before": _BEFORE})
                answer = parties.read(bare, "merlin_bytes")
                if not answer["whole"]:
                    raise ProbeloopError(f"the bare reader got {answer['bytes']} bytes", "nothing here counts")
                return frames / float(answer["seconds"])

            def ours() -> float:
                with driver(**where, trigger="internal") as reader:
                    reader.set_detector(bit_depth=12)
                    fps, account = rate_of(reader, shape, _DWELL, source, range(0, frames, 97))
                accounts.append(account)
                return fps

            figures = interleaved({"probeloop": ours, "bare reader": theirs}, rounds, 1, tell)
        finally:
            parties.end(bare)
    return {
        "x_bare_reader": figures.ratio("probeloop", "bare reader"),
        "fps": figures.median("probeloop"),
        "bare_reader_fps": figures.median("bare reader"),
        "spread": {name: list(figures.spread(name)) for name in figures.values},
        "frame": f"{SIDE}x{SIDE}, 12 bit",
        "frames_a_round": frames,
        "rounds": rounds,
        "lost": sum(each.lost for each in accounts),
        "equal": all(each.equal for each in accounts),
        "errors": sorted({text for each in accounts for text in each.errors}),
        "server": "probeloop's own, on both sides: LiberTEM's simulator is slower than either",
    }


_BEFORE = (
    "SET,COUNTERDEPTH,12", "SET,FILEFORMAT,0", "SET,TRIGGERSTART,0", "SET,ACQUISITIONTIME,0.1",
    "SET,ACQUISITIONPERIOD,0.1",
)  # fmt: skip


def bench(folder: Path, rounds: int, tell: Callable[[str], Callable[[int, int], None]]) -> dict[str, Any]:
    """Return the figures of the driver; what can't be run is under `missing`, by name."""
    missing: list[str] = []
    cases: dict[str, Any] = {}
    lacking = peers.missing(ENVIRONMENT)
    if lacking:
        missing.append(f"{SIMULATOR}: {lacking}")
    progress = tell("merlin, case")
    for number, case in enumerate(CASES if not lacking else ()):
        try:
            cases[case.name] = against_peer(case, folder).as_dict()
        except ProbeloopError as error:
            missing.append(f"{case.name}: {error}")
        progress(number + 1, len(CASES))
    made: dict[str, Any] = {"peer": SIMULATOR, "cases": cases}
    try:
        made["speed"] = speed(folder, rounds, tell("merlin, round"))
    except ProbeloopError as error:
        missing.append(f"speed: {error}")
        made["speed"] = {}
    return {**totals(cases), "x_bare_reader": made["speed"].get("x_bare_reader"), **made, "missing": missing}
