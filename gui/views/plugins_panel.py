"""Every plug-in: state and error, on or off, reload, and its parameters."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QScrollArea, QVBoxLayout, QWidget

from ..models.rig import Plugin
from ..models.station import Station
from .parameter_form import ParameterForm
from .style import BadgeLabel

_GOOD = ("running", "ready", "enabled", "restarted", "started", "reloaded", "idle")


class PluginCard(QFrame):
    """One plug-in."""

    def __init__(self, station: Station, plugin: Plugin) -> None:
        super().__init__()
        self._station, self.plugin = station, plugin
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.setAccessibleName(f"Plug-in {plugin.name}")
        self.badge = BadgeLabel(f"State of {plugin.name}")
        self.toggle = QPushButton()
        self.reload = QPushButton("Reload")
        self.reload.setToolTip("Load the source again, in a second process; if that fails, the old one keeps running")
        self.revision = QLabel()
        self.error = QLabel()
        self.error.setWordWrap(True)
        title = QLabel(f"<b>{plugin.name}</b>")
        title.setToolTip(f"{plugin.use or plugin.name}, in the process {plugin.process}")
        top = QHBoxLayout()
        top.setSpacing(6)
        top.addWidget(title)
        top.addStretch(1)
        top.addWidget(self.badge)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 6, 8, 8)
        column.setSpacing(6)
        column.addLayout(top)
        column.addWidget(self.error)
        self.form = ParameterForm(plugin.schema, plugin.values)
        self._schema = plugin.schema
        column.addWidget(self.form)
        buttons = QHBoxLayout()
        buttons.setSpacing(6)
        buttons.addWidget(self.revision)
        buttons.addStretch(1)
        buttons.addWidget(self.toggle)
        buttons.addWidget(self.reload)
        column.addLayout(buttons)
        self._column = column
        self.form.changed.connect(self._changed)
        self.toggle.clicked.connect(lambda: self._station.enable(self.plugin, not self.plugin.enabled))
        self.reload.clicked.connect(lambda: self._station.reload(self.plugin))
        self.show_plugin(plugin)

    def show_plugin(self, plugin: Plugin) -> None:
        """Show a newer state of it."""
        self.plugin = plugin
        if plugin.schema != self._schema:
            self._schema = plugin.schema
            form = ParameterForm(plugin.schema, plugin.values)
            form.changed.connect(self._changed)
            self._column.replaceWidget(self.form, form)
            self.form.deleteLater()
            self.form = form
        self.form.show_values(plugin.values)
        self.form.setVisible(bool(self.form.fields))
        kind = "ok" if plugin.state in _GOOD and plugin.enabled else "error" if plugin.error else "off"
        self.badge.show_badge(kind, plugin.state, ", ".join(plugin.topics))
        self.toggle.setText("Disable" if plugin.enabled else "Enable")
        self.revision.setText(f"rev. {plugin.revision}")
        self.revision.setToolTip("Number of the parameters in force, as read back from the plug-in")
        self.error.setText(plugin.error)
        self.error.setVisible(bool(plugin.error))

    def _changed(self, values: dict[str, Any]) -> None:
        self._station.set_parameters(self.plugin, values)


class PluginsPanel(QScrollArea):
    """The cards, in the order of the names."""

    def __init__(self, station: Station) -> None:
        super().__init__()
        self._station = station
        self.cards: dict[str, PluginCard] = {}
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAccessibleName("Plug-ins")
        inside = QWidget()
        self._column = QVBoxLayout(inside)
        self._column.setContentsMargins(6, 6, 6, 6)
        self._column.setSpacing(6)
        self._empty = QLabel("no plug-ins yet")
        self._column.addWidget(self._empty)
        self._column.addStretch(1)
        self.setWidget(inside)

    def refresh(self) -> None:
        """Look again."""
        plugins = dict(self._station.rig.plugins)
        for name in sorted(set(plugins) - set(self.cards)):
            self.cards[name] = PluginCard(self._station, plugins[name])
            at = sorted(self.cards).index(name)
            self._column.insertWidget(at, self.cards[name])
        self._empty.setVisible(not self.cards)
        for name, card in self.cards.items():
            if name in plugins and plugins[name] is not card.plugin:
                card.show_plugin(plugins[name])
