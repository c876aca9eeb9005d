"""What the benches of drivers are held against: real files, packed or decoded by others, and our own servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.errors import ProbeloopError, SourceError
from .parties import RIVALS
from .peers import CHECKOUT, Program, peers_folder, program, started

_PACKS_WITHIN = 120.0
_OURS_WITHIN = 60.0


def data_folder() -> Path:
    """Return the folder of measured files; raises SourceError where there is none."""
    named = os.environ.get("PROBELOOP_DATA")
    folder = Path(named) if named else CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        raise SourceError(f"no measured files in {folder}", "set PROBELOOP_DATA to their folder")
    return folder


def merlin_file(archive: str, stem: str, folder: Path) -> Path:
    """Unpack one acquisition of a Merlin into a folder of its own, and return its .hdr; raises SourceError."""
    path = data_folder() / "merlin" / f"{archive}.zip"
    place = folder / stem  # alone: readers take every .mib whose name begins alike
    try:
        with zipfile.ZipFile(path) as packed:
            packed.extractall(place, [f"{stem}.hdr", f"{stem}.mib"])
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path.name} has no {stem}: {error}", "see the README of the measured files") from None
    return place / f"{stem}.hdr"


def read_by_rosettasciio(mib: Path) -> NDArray[Any]:
    """Return the frames of a processed file, (n, ky, kx), the first row first; raises SourceError."""
    try:
        from rsciio.quantumdetector import file_reader
    except ImportError as error:
        raise SourceError(f"no RosettaSciIO: {error}", "pip install 'probeloop[formats]'") from None
    frames = np.asarray(file_reader(str(mib))[0]["data"])
    frames = frames.reshape(-1, *frames.shape[-2:])
    return frames[:, ::-1]  # it turns them upside down


def read_by_libertem(header: Path, shape: tuple[int, int]) -> NDArray[Any]:
    """Return the frames of a raw file, (n, ky, kx), as LiberTEM decodes them; raises ProbeloopError."""
    out = header.with_suffix(".npy")
    _run(program("libertem-live", "python"), "decode_mib.py", [str(header), *map(str, shape), str(out)])
    made: NDArray[Any] = np.load(out)
    return made


def packed_by_bitshuffle(frames: NDArray[Any], folder: Path) -> Path:
    """Write frames as a DECTRIS detector streams them (v1), packed by the library bitshuffle; return the dump."""
    source, out = folder / "frames.npy", folder / "stream.dump"
    np.save(source, frames)
    _run(program("libertem-live", "python"), "pack_dectris.py", ["pack", str(source), str(out)])
    return out


def unpacked_by_bitshuffle(blob: Path, shape: tuple[int, int], folder: Path) -> NDArray[Any]:
    """Return one packed frame of uint16, (height, width), as the library bitshuffle unpacks it."""
    out = folder / "unpacked.npy"
    _run(program("libertem-live", "python"), "pack_dectris.py", ["unpack", str(blob), *map(str, shape), str(out)])
    made: NDArray[Any] = np.load(out)
    return made


def eiger_frame(stream: str, shape: tuple[int, int], folder: Path) -> NDArray[Any]:
    """Return the one frame that the Eiger of tickit-devices sends in "v1" or "v2", (1, height, width) uint16.

    It comes from a real detector; bitshuffle unpacks it, from the file that tickit-devices reads too.
    """
    (data,) = peers_folder().glob("tickit/lib/python*/site-packages/tickit_devices/eiger/data")
    blob = data / "frame_sample"
    if stream == "v2":
        blob = folder / "blob"
        _run(
            program("tickit", "python"),
            "pack_dectris.py",
            ["extract", str(data / "stream2" / "image.cbor"), str(blob)],
        )
    return unpacked_by_bitshuffle(blob, shape, folder)[None]


def _run(python: str, script: str, arguments: Sequence[str]) -> None:
    path = RIVALS / script
    if not path.exists():
        raise ProbeloopError(f"{script} is not here", "run this from a checkout")
    done = subprocess.run(
        [python, str(path), *arguments], capture_output=True, text=True, check=False, timeout=_PACKS_WITHIN
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ProbeloopError(f"{script}: {last}", "make peers")


@contextmanager
def our_server(name: str, arguments: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Run one of our own wire-format servers, which says its ports in a line of JSON; yield that, and its pid."""
    command = [sys.executable, "-m", "probeloop.simulators.servers", name, *arguments]
    with started(command, folder / f"{name}-server.log") as running:
        yield {**json.loads(_line(running)), "pid": running.process.pid}


def _line(running: Program) -> str:
    return running.wait_for(r"(?m)^\{.*\}$", _OURS_WITHIN)[0]
