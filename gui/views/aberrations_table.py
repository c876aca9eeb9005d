"""Aberrations: what the knob says, and what was measured. They are never the same column."""

from __future__ import annotations

from probeloop.api import display

from ..models.rig import Knob
from ..models.station import Station
from .tables import PlainTable

_COLUMNS = (
    ("Aberration", "coefficient in Krivanek's notation; C10 > 0 is overfocus"),
    ("Knob", "the knob's value, read back from the instrument"),
    ("Measured", "estimate from data, with its standard deviation"),
    ("Range", "what the gate lets the knob reach"),
    ("Method", "how the estimate was made"),
)


class AberrationsTable(PlainTable):
    """Shows `rig.knobs`."""

    def __init__(self, station: Station) -> None:
        super().__init__("Aberrations", _COLUMNS, (1, 2, 3), 4)
        self._station = station

    def refresh(self) -> None:
        """Look again."""
        self.show_rows([_row(knob) for knob in sorted(dict(self._station.rig.knobs).values(), key=lambda k: k.name)])


def _row(knob: Knob) -> tuple[str, ...]:
    measured = "not measured"
    if knob.measured is not None:
        sigma = f" ± {display(knob.sigma, 'm', 2)}" if knob.sigma is not None else ""
        measured = f"{display(knob.measured, 'm')}{sigma}"
    span = "–" if knob.low is None or knob.high is None else f"{display(knob.low, 'm')} … {display(knob.high, 'm')}"
    return knob.name, display(knob.readback, "m"), measured, span, knob.method
