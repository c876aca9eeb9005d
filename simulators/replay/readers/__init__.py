"""Readers: one file format each, all give `Measured` with [y, x] order and the file's own scale."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from probeloop.api import ProbeloopError, SourceError

from ..measured import Measured

Reader = Callable[[Path], list[Measured]]


def locate(file: str) -> Path:
    """Return where `file` is: below PROBELOOP_DATA, the rig's folder or this one; raises SourceError."""
    path = Path(file).expanduser()
    if path.is_absolute():
        places = [path]
    else:
        data = os.environ.get("PROBELOOP_DATA", "")
        shared = Path(data) if data else Path(__file__).resolve().parents[4] / "shared" / "data"
        rig = os.environ.get("PROBELOOP_RIG_FOLDER", "")
        places = [shared / path, *([Path(rig) / path] if rig else []), Path.cwd() / path]
    for place in places:
        if place.exists():
            return place
    looked = ", ".join(str(place.parent) for place in places)
    raise SourceError(f"no file {file}", f"looked in {looked}: set PROBELOOP_DATA, or --set instrument.file=PATH")


def read(path: Path) -> list[Measured]:
    """Read every dataset of a file; raises SourceError, one line, for what is no microscopy."""
    reader = _reader(path)
    try:
        found = reader(path)
    except ProbeloopError:
        raise
    except ModuleNotFoundError as error:
        wanted = f"the package {error.name!r}" if error.name else f"another package ({error})"
        move = 'pip install "rosettasciio[all]"' if error.name != "h5py" else 'pip install "probeloop[formats]"'
        raise SourceError(f"{path.name} needs {wanted}", move) from error
    except Exception as error:  # readers meet torn and foreign files: whatever they raise is the file's fault
        said = " ".join(str(error).split())[:200]
        raise SourceError(
            f"{path.name} can't be read ({type(error).__name__}: {said})", "is it whole, and microscopy?"
        ) from error
    if not found:
        raise SourceError(f"{path.name} holds no map, spectra or patterns", "give another file")
    return found


def _reader(path: Path) -> Reader:
    reader: Reader
    if path.is_dir() and path.suffix != ".zspy":
        from .session import read as reader
    elif path.suffix in (".h5", ".hdf5", ".hf5"):
        from .nsid import read as reader
    elif path.suffix == ".ibw":
        from .igor import read as reader
    elif path.suffix == ".npy":
        from .npy import read as reader
    else:
        from .rosetta import read as reader
    return reader
