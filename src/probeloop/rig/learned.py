"""What a learned map is held against: the scalarizer's value at every place, as the simulator alone can tell it.

SESSION/truth/learned.npz: value (ny, nx) in the scalarizer's units, NaN where the spectrum is invalid. Made from
noise-free spectra of the specimen as it was before the plan touched it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..data.commands import SpectrumKind
from ..data.control import StateChange
from ..data.driver import Foretelling
from ..data.errors import PlanError
from ..data.scan import Region
from ..data.settings import convert
from ..discover import find, load, load_class, load_instrument
from ..record.reader import Session
from ..record.truth import FOLDER, write_values
from .schema import Rig

NAME = "learned"


def learned_of(session: Path) -> dict[str, Any] | None:
    """Return what the newest plan that learned a map says of it, None where no plan did."""
    found = None
    for event in Session(session).events():
        if isinstance(event, StateChange) and event.target == "plan" and isinstance(event.data.get("learned"), dict):
            found = event.data["learned"]
    return found


def write_learned_truth(session: Path, rig: Rig) -> bool:
    """Write it; False where there is nothing to hold it against, or a simulator that can't tell.

    Raises ProbeloopError for a spectrum or scalarizer that can't be made.
    """
    told = learned_of(session)
    if told is None or not told.get("scalarizer"):
        return False
    entry, instrument = rig.plugins.get(str(told["scalarizer"])), rig.instrument
    found = find(instrument.use, "Instrument", rig.folders)
    if entry is None or found.kind != "Simulator" or not hasattr(load(found), "expected_spectra"):
        return False
    made: Any = load_instrument(instrument.use, instrument.parameters, rig.folders, kind="Simulator", spelled=True)
    simulator: Foretelling = made
    try:
        try:
            kind = msgspec.convert(told["spectrum"], SpectrumKind)
            region = msgspec.convert(told["region"], Region)
            ny, nx = (int(n) for n in told["shape"])
        except (msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
            raise PlanError(f"the plan says of what it learned: {error}", "look at its summary") from error
        places = region.positions((ny, nx))
        spec, spectra = simulator.expected_spectra(kind, places)
    finally:
        made.close()
    cls = load_class(entry.use, "Scalarizer", rig.folders)
    scalarizer = cls(convert(cls.Parameters, dict(entry.parameters), str(told["scalarizer"])))
    values = np.full(ny * nx, np.nan)
    for i, spectrum in enumerate(spectra):
        value, _, valid = scalarizer.scalarize(spectrum, spec)
        if valid:
            values[i] = value
    write_values(session / FOLDER, NAME, {"value": values.reshape(ny, nx)})
    return True
