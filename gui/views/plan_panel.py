"""The plan: choose, set, run, pause, resume, abort, how far it is; who holds control; the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtWidgets import (
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from ..models.rig import PlanState
from ..models.station import Station
from .parameter_form import ParameterForm


class PlanPanel(QWidget):
    """Asks the experiment's process."""

    def __init__(self, station: Station) -> None:
        super().__init__()
        self._station = station
        self._schema: Mapping[str, Any] = {}
        self.plan = QComboBox()
        self.plan.setAccessibleName("Plan")
        self.seed = QLineEdit()
        self.seed.setPlaceholderText("seed: the rig's")
        self.seed.setAccessibleName("Seed of the plan")
        self.seed.setToolTip("Whole number; everything random in the plan comes from it")
        self.form = ParameterForm({})
        self.run = QPushButton("&Run")
        self.pause = QPushButton("&Pause")
        self.resume = QPushButton("Re&sume")
        self.abort = QPushButton("&Abort")
        self.run.setToolTip("Run the plan (F5)")
        self.pause.setToolTip("Hold before the next step (F6)")
        self.resume.setToolTip("Go on (F6)")
        self.abort.setToolTip("End the plan in order: not a STOP")
        self.progress = QProgressBar()
        self.progress.setRange(0, 1000)
        self.progress.setAccessibleName("Progress of the plan")
        self.progress.setFormat("%p %")
        self.scalarizer = QComboBox()
        self.scalarizer.setAccessibleName("What is interesting")
        self.scalarizer.setToolTip(
            "What a spectrum is worth; all measured so far are valued anew, and the record says so"
        )
        self.interest = QLabel("&interesting:")
        self.interest.setBuddy(self.scalarizer)
        self.state = QLabel("no plan ran yet")
        self.state.setWordWrap(True)
        self.lease = QLabel()
        self.take = QPushButton("Take control")
        self.take.setToolTip("The lease on the instrument: with it, Ctrl+click on the map moves the probe")
        self.record = QPushButton("Record")
        self.record.setToolTip("Start or stop the record (Ctrl+R)")

        top = QHBoxLayout()
        top.addWidget(self.plan, 1)
        top.addWidget(self.seed)
        self.seed.setMaximumWidth(130)
        buttons = QHBoxLayout()
        for button in (self.run, self.pause, self.resume, self.abort):
            buttons.addWidget(button)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setFrameShape(QFrame.Shape.NoFrame)
        self._scroll.setWidget(self.form)
        interest = QHBoxLayout()
        interest.addWidget(self.interest)
        interest.addWidget(self.scalarizer, 1)
        bottom = QGridLayout()
        bottom.addWidget(self.lease, 0, 0)
        bottom.addWidget(self.take, 0, 1)
        bottom.addWidget(self.record, 0, 2)
        bottom.setColumnStretch(0, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 8, 8, 8)
        column.setSpacing(8)
        column.addLayout(top)
        column.addLayout(buttons)
        column.addWidget(self.progress)
        column.addLayout(interest)
        column.addWidget(self.state)
        column.addWidget(self._scroll, 1)
        column.addLayout(bottom)
        self.plan.currentTextChanged.connect(self._choose)
        self._followed, self._own_choice = "", False  # shows the plan that runs, until a person chose another
        self.plan.activated.connect(self._chosen)
        self.run.clicked.connect(self.run_plan)
        self.pause.clicked.connect(station.pause)
        self.resume.clicked.connect(station.resume)
        self.abort.clicked.connect(station.abort)
        self.take.clicked.connect(self._take)
        self.record.clicked.connect(self.toggle_record)
        self.scalarizer.activated.connect(lambda _: station.set_scalarizer(self.scalarizer.currentText()))
        self.refresh()

    def _choose(self, name: str) -> None:
        self._schema = self._station.rig.plans.get(name, {})
        self.form = ParameterForm(self._schema, self._station.rig.plan_values.get(name))
        self._scroll.setWidget(self.form)

    def _chosen(self) -> None:
        self._own_choice = True

    def run_plan(self) -> None:
        """Run the chosen plan with the form's values."""
        try:
            values = self.form.values()
            seed = int(self.seed.text()) if self.seed.text().strip() else None
        except ValueError as error:
            self.form.show_problem(str(error))
            return
        if self.plan.currentText():
            self._station.run_plan(self.plan.currentText(), values, seed)

    def pause_or_resume(self) -> None:
        """Do the one that makes sense."""
        if self._station.rig.plan.state == "paused":
            self._station.resume()
        else:
            self._station.pause()

    def toggle_record(self) -> None:
        """Start or stop the record."""
        self._station.record(not self._station.rig.recording)

    def _take(self) -> None:
        station = self._station
        if station.in_control:
            station.release_control()
        elif not station.rig.holder:
            station.take_control()
        else:
            self._confirm(station.rig.holder)

    def _confirm(self, holder: str) -> None:
        """Ask before control is taken from someone: that ends what they do."""
        box = QMessageBox(self)
        box.setWindowTitle("Take control")
        box.setText(f"{holder} holds control. Taking it ends what {holder} is doing.")
        box.setStandardButtons(QMessageBox.StandardButton.Cancel)
        take = box.addButton("Take control", QMessageBox.ButtonRole.AcceptRole)
        box.setDefaultButton(QMessageBox.StandardButton.Cancel)
        take.clicked.connect(lambda: self._station.take_control(force=True))
        box.open()

    def refresh(self) -> None:
        """Look again."""
        rig = self._station.rig
        names = sorted(rig.plans)
        if [self.plan.itemText(i) for i in range(self.plan.count())] != names:
            chosen = self.plan.currentText() or rig.plan.name
            self.plan.clear()
            self.plan.addItems(names)
            if chosen in names:
                self.plan.setCurrentText(chosen)
        if rig.plan.name != self._followed and rig.plan.name in names and not self._own_choice:
            self._followed = rig.plan.name
            self.plan.setCurrentText(rig.plan.name)
        if rig.plans.get(self.plan.currentText(), {}) != self._schema:
            self._choose(self.plan.currentText())
        plan = rig.plan
        paused = plan.state == "paused"
        self.run.setEnabled(bool(names) and not plan.running and not rig.fault)
        self.pause.setEnabled(plan.running and not paused)
        self.resume.setEnabled(paused)
        self.abort.setEnabled(plan.running)
        self._show_scalarizers(plan.running)
        share, scan = self._station.progress()
        self.progress.setValue(round(1000 * min(1.0, max(0.0, share))) if plan.running else 0)
        self.progress.setFormat(f"{share:.0%}" + (" of this scan" if scan else "") if plan.running else "–")
        self.state.setText(words(plan))
        self.lease.setText(f"control: {rig.holder or 'nobody'}")
        self.take.setText("Release" if self._station.in_control else "Take control")
        self.record.setText("Stop recording" if rig.recording else "Record")

    def _show_scalarizers(self, running: bool) -> None:
        """Show which scalarizer counts; a rig with one, or without a running plan, has nothing to choose."""
        rig = self._station.rig
        names = list(rig.scalarizers)
        if [self.scalarizer.itemText(i) for i in range(self.scalarizer.count())] != names:
            self.scalarizer.clear()
            self.scalarizer.addItems(names)
        if not self.scalarizer.view().isVisible():
            self.scalarizer.setCurrentIndex(names.index(rig.scalarizer) if rig.scalarizer in names else -1)
        for each in (self.interest, self.scalarizer):
            each.setVisible(running and len(names) > 1)


def words(plan: PlanState) -> str:
    """Return in words how it stands with a plan."""
    if not plan.name:
        return "no plan ran yet"
    text = f"{plan.name}: {plan.state}"
    if plan.running and plan.eta is not None:
        text += f", {_duration(plan.eta)} left"
    said = plan.reason if not plan.running and plan.reason else plan.message
    while said.startswith(f"{plan.state}: "):  # who ended it says so too
        said = said.removeprefix(f"{plan.state}: ")
    return f"{text}. {said}" if said else text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
