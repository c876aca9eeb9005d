"""A form made of a JSON Schema: one row a parameter, with unit, range, and what is read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import QSignalBlocker, Qt, Signal
from PySide6.QtGui import QDoubleValidator
from PySide6.QtWidgets import QCheckBox, QComboBox, QFormLayout, QLabel, QLineEdit, QSpinBox, QWidget

from ..models.schema import Field, fields_of

_INT_MAX = 2**31 - 1


class ParameterForm(QWidget):
    """Shows values and takes new ones. `changed` carries one valid change of a person's: {name: value}."""

    changed = Signal(dict)

    def __init__(self, schema: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.fields = fields_of(schema)
        self._editors: dict[str, QWidget] = {}
        self.problem = QLabel()
        self.problem.setWordWrap(True)
        self.problem.hide()
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setHorizontalSpacing(10)
        form.setVerticalSpacing(4)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        for field in self.fields:
            editor = self._editor(field)
            editor.setAccessibleName(field.label)
            tip = f"{field.description}\n" if field.description else ""
            editor.setToolTip(f"{tip}{field.allowed}")
            self._editors[field.name] = editor
            form.addRow(field.label, editor)
        if not self.fields:
            form.addRow(QLabel("no parameters"))
        form.addRow(self.problem)
        self.show_values({f.name: f.default for f in self.fields if f.default is not None})
        self.show_values(values or {})

    def _editor(self, field: Field) -> QWidget:
        if field.kind == "choice":
            box = QComboBox()
            box.addItems([str(choice) for choice in field.choices])
            box.activated.connect(lambda _: self._edited(field))
            return box
        if field.kind == "yes_no":
            check = QCheckBox()
            check.clicked.connect(lambda _: self._edited(field))
            return check
        if field.kind == "whole" and not field.nullable:
            spin = QSpinBox()
            spin.setRange(int(max(-_INT_MAX, field.low if field.low is not None else -_INT_MAX)),
                          int(min(_INT_MAX, field.high if field.high is not None else _INT_MAX)))  # fmt: skip
            spin.setKeyboardTracking(False)
            spin.setGroupSeparatorShown(True)
            spin.valueChanged.connect(lambda _: self._edited(field))
            return spin
        line = QLineEdit()
        if field.kind == "number":
            validator = QDoubleValidator()
            validator.setNotation(QDoubleValidator.Notation.ScientificNotation)
            line.setValidator(validator if not field.nullable else None)  # type: ignore[arg-type]
            line.setAlignment(Qt.AlignmentFlag.AlignRight)
        line.setPlaceholderText("none" if field.nullable else "")
        line.editingFinished.connect(lambda: self._edited(field))
        return line

    def show_values(self, values: Mapping[str, Any]) -> None:
        """Show what was read back; an editor that a person is typing in is left alone."""
        for field in self.fields:
            editor = self._editors[field.name]
            if field.name not in values or (editor.hasFocus() and editor.property("typing")):
                continue
            value = values[field.name]
            with QSignalBlocker(editor):
                if isinstance(editor, QComboBox):
                    editor.setCurrentText(str(value))
                elif isinstance(editor, QCheckBox):
                    editor.setChecked(bool(value))
                elif isinstance(editor, QSpinBox):
                    if not editor.hasFocus():
                        editor.setValue(int(value or 0))
                elif isinstance(editor, QLineEdit) and not (editor.hasFocus() and editor.isModified()):
                    editor.setText(_text(value))

    def value_of(self, field: Field) -> Any:
        """Return what an editor holds, None for nothing. Raises ValueError when it can't be read."""
        editor = self._editors[field.name]
        if isinstance(editor, QComboBox):
            return field.choices[editor.currentIndex()]
        if isinstance(editor, QCheckBox):
            return editor.isChecked()
        if isinstance(editor, QSpinBox):
            return editor.value()
        assert isinstance(editor, QLineEdit)
        text = editor.text().strip()
        if field.kind == "text":
            return text
        if not text:
            return None
        if field.kind == "number":
            return float(text.replace(",", "."))
        return int(text) if field.kind == "whole" else json.loads(text)

    def values(self) -> dict[str, Any]:
        """Return everything that can be read; a field left empty is left out. Raises ValueError with all faults."""
        found: dict[str, Any] = {}
        faults = []
        for field in self.fields:
            try:
                value = self.value_of(field)
            except ValueError:
                faults.append(f"{field.name}: can't be read (allowed: {field.allowed})")
                continue
            if value is None and not field.required:
                continue
            fault = field.fault(value)
            if fault:
                faults.append(fault)
            found[field.name] = value
        self.show_problem("; ".join(faults))
        if faults:
            raise ValueError("; ".join(faults))
        return found

    def show_problem(self, text: str) -> None:
        """Show why something was not taken, "" = nothing."""
        self.problem.setText(text)
        self.problem.setVisible(bool(text))

    def _edited(self, field: Field) -> None:
        editor = self._editors[field.name]
        if isinstance(editor, QLineEdit):
            if not editor.isModified():
                return
            editor.setModified(False)
        try:
            value = self.value_of(field)
            fault = field.fault(value)
        except ValueError:
            fault = f"{field.name}: can't be read (allowed: {field.allowed})"
        self.show_problem(fault)
        if not fault:
            self.changed.emit({field.name: value})


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)
