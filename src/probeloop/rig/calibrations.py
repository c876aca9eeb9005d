"""Calibrations that are kept for later runs of a rig: one file for each instrument as the rig sets it up.

A simulated column of another seed, or a driver with another address, is another instrument and has its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from ..data.calibration import Calibration, CalibrationSet
from ..data.driver import Instrument, InstrumentInfo
from ..data.errors import RecordError
from .schema import Rig

_NOT_OF_THE_INSTRUMENT = ("pace", "threads", "can_wait")


def kept_folder() -> Path:
    """Return where they are: PROBELOOP_CALIBRATIONS, else a folder of this account."""
    named = os.environ.get("PROBELOOP_CALIBRATIONS", "")
    return Path(named) if named else Path(platformdirs.user_data_dir("probeloop", appauthor=False)) / "calibrations"


def kept_file(rig: Rig) -> Path:
    """Return the file of the rig's instrument, whether it exists or not."""
    entry = rig.instrument
    told = {key: value for key, value in entry.parameters.items() if key not in _NOT_OF_THE_INSTRUMENT}
    text = json.dumps([entry.use, told], sort_keys=True, default=str)
    return kept_folder() / f"{rig.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}.json"


def kept(rig: Rig) -> tuple[Calibration, ...]:
    """Return what is kept for the rig's instrument; raises RecordError for a file that can't be read."""
    path = kept_file(rig)
    try:
        found: tuple[Calibration, ...] = msgspec.json.decode(path.read_bytes(), type=tuple[Calibration, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.MsgspecError) as error:
        raise RecordError(f"can't read the kept calibrations {path}: {error}", "mend or remove that file") from None
    return found


def keep(rig: Rig, calibrations: Iterable[Calibration]) -> Path:
    """Keep calibrations for later runs, in place of kept ones of the same kind; return the file.

    What was kept before stays beside it as NAME.json.old. Raises RecordError when it can't be written.
    """
    path = kept_file(rig)
    with contextlib.suppress(RecordError):
        calibrations = superseded(kept(rig), tuple(calibrations))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.replace(path.with_suffix(".json.old"))
        partial = path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(tuple(calibrations))))
        partial.replace(path)
    except OSError as error:
        raise RecordError(
            f"can't keep the calibrations in {path}: {error.strerror}", "PROBELOOP_CALIBRATIONS=DIR"
        ) from None
    return path


def superseded(old: Iterable[Calibration], new: tuple[Calibration, ...]) -> tuple[Calibration, ...]:
    """Return the new ones, and those of the old whose kind is not among them."""
    kinds = {each.kind for each in new}
    return (*(each for each in old if each.kind not in kinds), *new)


class Calibrated:
    """An instrument that describes itself with other calibrations than its driver's; all else is the driver's."""

    def __init__(self, instrument: Instrument, calibrations: tuple[Calibration, ...]) -> None:
        self._instrument, self._calibrations = instrument, calibrations

    def __getattr__(self, name: str) -> Any:
        return getattr(self._instrument, name)

    def describe(self) -> InstrumentInfo:
        """Say what the instrument is, with the kept calibrations in the place of its own of the same kind."""
        info = self._instrument.describe()
        made = CalibrationSet(superseded(info.calibrations, self._calibrations))
        return msgspec.structs.replace(info, calibrations=made.calibrations)
