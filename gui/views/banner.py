"""The bar over everything: state, origin, what is uncalibrated, recording, dose, latency, and STOP."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSizePolicy, QWidget

from probeloop.api import display

from ..models.station import Station
from ..models.topics import percentile
from .stop_button import StopButton
from .style import BadgeLabel


class BannerView(QWidget):
    """Shows `station.banner`; never by colour alone."""

    stop_asked = Signal()

    def __init__(self, station: Station) -> None:
        super().__init__()
        self._station = station
        self.state = BadgeLabel("State of the instrument", large=True)
        self.origin = BadgeLabel("Origin of the data", large=True)
        self.uncalibrated = BadgeLabel("Uncalibrated quantities")
        self.recording = BadgeLabel("Recording")
        self.line = QLabel()
        self.line.setWordWrap(True)
        self.line.setMinimumWidth(120)
        self.line.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.dose = QLabel()
        self.dose.setAccessibleName("Dose spent and left")
        self.latency = QLabel()
        self.latency.setAccessibleName("Loop latency")
        for label in (self.dose, self.latency):
            label.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        self.rearm = QPushButton("&Re-arm")
        self.rearm.setToolTip("Permit new commands after a STOP or a fault. Nothing restarts by itself.")
        self.rearm.clicked.connect(self._station.rearm)
        self.stop = StopButton()
        self.stop.pressed.connect(self.stop_asked)
        row = QHBoxLayout(self)
        row.setContentsMargins(8, 6, 8, 6)
        row.setSpacing(10)
        row.addWidget(self.state)
        row.addWidget(self.origin)
        row.addWidget(self.line, 1)
        for widget in (self.uncalibrated, self.dose, self.latency, self.recording, self.rearm, self.stop):
            row.addWidget(widget)
        self.refresh()

    def refresh(self) -> None:
        """Look again."""
        station, rig = self._station, self._station.rig
        shown = station.banner
        self.state.show_badge(shown.kind, shown.word, shown.line)
        self.origin.show_badge(rig.origin, shown.origin, shown.origin_line)
        line = shown.line
        result = station.stopping.result
        if station.stopping.busy:
            line = "STOP sent, waiting for the instrument to confirm"
        elif result is not None and not result.confirmed:
            line = result.text
        self.line.setText(line)
        self.uncalibrated.setVisible(bool(shown.uncalibrated))
        self.uncalibrated.show_badge("uncalibrated", shown.uncalibrated, "no scale is shown where it is not known")
        recording = "recording" if rig.recording else "not recording"
        word = "REC" if rig.recording else "NOT RECORDING"
        self.recording.show_badge(recording, word, rig.session or "no record is being written")
        self.rearm.setVisible(bool(rig.fault))
        self.stop.tell_safe_state(rig.safe_state)
        self.dose.setText(self._dose())
        self.dose.setToolTip("Incident electrons since the start, and the most on one place of the sample")
        software, physical = percentile(rig.software_ns, 0.5), percentile(rig.physical_ns, 0.5)
        self.latency.setText(
            "loop\n" + " / ".join("–" if v is None else display(v / 1e9, "s") for v in (software, physical))
        )
        self.latency.setToolTip(
            "Median of the newest closed loops: software (end of exposure to command delivered) / "
            "physical (end of exposure to first valid frame, settling included)"
        )

    def _dose(self) -> str:
        rig = self._station.rig
        if rig.dose is None:
            return "dose\nnot counted"
        left = ""
        if rig.dose_limit:
            left = f", {max(0.0, 1 - rig.dose / rig.dose_limit):.0%} left"
        area = f"\nmax {display(rig.area_dose, 'e/m^2')}" if rig.area_dose else "\n"
        return f"dose {_electrons(rig.dose)}{' est.' if rig.dose_estimate else ''}{left}{area}".rstrip("\n")


def _electrons(count: float) -> str:
    """Return a count as 2.4 × 10⁶ e, plain where it is small."""
    if count < 1e4:
        return f"{count:.0f} e"
    mantissa, power = f"{count:.1e}".split("e")
    return f"{mantissa} × 10{str(int(power)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))} e"
