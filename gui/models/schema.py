"""From a JSON Schema to fields that a form can show: unit, range, choices, default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["number", "whole", "choice", "yes_no", "text", "other"]


@dataclass(frozen=True)
class Field:
    """One parameter. low, high: allowed range in `unit`; open_low, open_high: the bound itself is not allowed."""

    name: str
    kind: Kind
    unit: str = ""
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    choices: tuple[Any, ...] = ()
    default: Any = None
    description: str = ""
    required: bool = False
    nullable: bool = False

    @property
    def label(self) -> str:
        """Return the name as a person reads it, with its unit."""
        words = self.name.replace("_", " ")
        return f"{words} [{self.unit}]" if self.unit else words

    @property
    def allowed(self) -> str:
        """Return in words what may be entered."""
        if self.kind == "choice":
            return " | ".join(map(str, self.choices))
        if self.kind == "yes_no":
            return "yes or no"
        if self.kind not in ("number", "whole"):
            return "text" if self.kind == "text" else "as JSON"
        low = "" if self.low is None else f"{self.low:g} {'<' if self.open_low else '≤'} "
        high = "" if self.high is None else f" {'<' if self.open_high else '≤'} {self.high:g}"
        word = "whole number" if self.kind == "whole" else "number"
        return f"{low}{word}{high}" + (f" {self.unit}" if self.unit else "")

    def fault(self, value: Any) -> str:
        """Return in words why `value` may not be entered, "" when it may."""
        if value is None:
            return "" if self.nullable else f"{self.name}: missing (allowed: {self.allowed})"
        if self.kind == "choice":
            return "" if value in self.choices else f"{self.name}: {value!r} (allowed: {self.allowed})"
        if self.kind in ("number", "whole"):
            good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if good and self.kind == "whole":
                good = float(value).is_integer()
            if good and self.low is not None:
                good = value > self.low if self.open_low else value >= self.low
            if good and self.high is not None:
                good = value < self.high if self.open_high else value <= self.high
            return "" if good else f"{self.name}: {value!r} (allowed: {self.allowed})"
        return ""


def fields_of(schema: Mapping[str, Any]) -> tuple[Field, ...]:
    """Return the fields of an object's schema, in its order; references are followed."""
    found = _resolve(schema, schema)
    required = set(found.get("required", ()))
    return tuple(
        _field(name, _resolve(entry, schema), name in required) for name, entry in found.get("properties", {}).items()
    )


def _resolve(entry: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    for _ in range(8):
        reference = entry.get("$ref")
        if reference is None:
            return entry
        target: Any = root
        for key in str(reference).removeprefix("#/").split("/"):
            target = target.get(key, {}) if isinstance(target, Mapping) else {}
        entry = {**target, **{key: value for key, value in entry.items() if key != "$ref"}}
    return entry


def _field(name: str, entry: Mapping[str, Any], required: bool) -> Field:
    nullable = False
    if "anyOf" in entry:
        kept = [each for each in entry["anyOf"] if each.get("type") != "null"]
        nullable = len(kept) < len(entry["anyOf"])
        if len(kept) == 1:
            entry = {**entry, **kept[0]}
    choices = tuple(entry.get("enum", ()))
    type_ = entry.get("type")
    kind: Kind
    if choices:
        kind = "choice"
    elif type_ == "number":
        kind = "number"
    elif type_ == "integer":
        kind = "whole"
    elif type_ == "boolean":
        kind = "yes_no"
    elif type_ == "string":
        kind = "text"
    else:
        kind = "other"
    return Field(
        name,
        kind,
        unit=str(entry.get("unit", "")),
        low=entry.get("minimum", entry.get("exclusiveMinimum")),
        high=entry.get("maximum", entry.get("exclusiveMaximum")),
        open_low="exclusiveMinimum" in entry,
        open_high="exclusiveMaximum" in entry,
        choices=choices,
        default=entry.get("default"),
        description=str(entry.get("description", "")),
        required=required,
        nullable=nullable,
    )
