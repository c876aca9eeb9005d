"""Settings: frozen, checked on the way in, all faults reported together.

Struct construction does not validate, so nothing but `convert` makes Settings out of what a person, a file or
another process sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform, get_type_hints

import msgspec
import msgspec.inspect

from .errors import ProbeloopError, Problem, SettingsError
from .units import convert as convert_unit
from .units import is_si, split_quantity

T = TypeVar("T", bound="Settings")


if TYPE_CHECKING:
    # type checkers must know that subclasses are frozen without being told in every class line

    @dataclass_transform(frozen_default=True, kw_only_default=True)
    class _Frozen:
        __struct_fields__: tuple[str, ...]
        __struct_defaults__: tuple[Any, ...]

        def __init__(self, **values: Any) -> None: ...

else:
    _Frozen = msgspec.Struct


class Settings(
    _Frozen, **({} if TYPE_CHECKING else {"frozen": True, "kw_only": True, "forbid_unknown_fields": True})
):
    """Base of every set of parameters. Override `problems` for rules across fields."""

    def problems(self) -> Iterable[str]:
        """Yield every rule across fields that is broken, in words."""
        return ()


def convert(cls: type[T], values: Mapping[str, Any], where: str = "", *, spelled: bool = False) -> T:
    """Make a `cls` of a mapping, field by field; raises SettingsError with every fault and its key path.

    where: key path of the mapping, for the messages. spelled: values come from a file, where a number in a
    display unit must carry it ("60 mrad"); from a control message bare numbers are in the field's unit.
    """
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in msgspec.structs.fields(cls)}  # type: ignore[arg-type]
    problems: list[Problem] = []
    good: dict[str, Any] = {}
    for name in values:
        if name not in fields:
            problems.append(Problem(_join(where, str(name)), "unknown", ", ".join(fields) or "nothing"))
    for name, field in fields.items():
        path = _join(where, name)
        if name not in values:
            if field.required:
                problems.append(Problem(path, "missing", allowed(hints[name])))
            continue
        try:
            value = _with_unit(values[name], hints[name], spelled)
            if isinstance(hints[name], type) and issubclass(hints[name], Settings) and isinstance(value, Mapping):
                good[name] = convert(hints[name], value, path, spelled=spelled)
            else:
                good[name] = msgspec.convert(value, hints[name], strict=True)
                if not _finite(good[name]):
                    problems.append(Problem(path, f"{value!r} is not finite", allowed(hints[name])))
        except SettingsError as error:
            problems.extend(error.problems)
        except (msgspec.MsgspecError, ProbeloopError, RecursionError) as error:
            problems.append(Problem(path, _plain(error, values[name]), allowed(hints[name])))
    if problems:
        raise SettingsError(problems)
    made = cls(**good)
    broken = [Problem(where or cls.__name__, text) for text in made.problems()]
    if broken:
        raise SettingsError(broken)
    return made


def to_mapping(settings: msgspec.Struct) -> dict[str, Any]:
    """Return the values as plain data (for TOML, JSON or msgpack)."""
    made: dict[str, Any] = msgspec.to_builtins(settings)
    return made


def revalidate(value: Any, kind: Any) -> Any:
    """Encode and decode `value` as `kind` again; raises SettingsError when it isn't one or holds NaN or inf.

    A struct built in Python skipped every check; the gate calls this on whatever it is handed.
    """
    try:
        again = msgspec.convert(msgspec.to_builtins(value), kind)
    except (msgspec.MsgspecError, RecursionError, TypeError) as error:
        raise SettingsError([Problem(type(value).__name__, str(error))]) from error
    if not _finite(again):
        raise SettingsError([Problem(type(value).__name__, "holds a number that is not finite")])
    return again


def unit_of(annotation: Any) -> str:
    """Return the unit that `quantity` gave to an annotated type, or ""."""
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.extra and "unit" in meta.extra:
            return str(meta.extra["unit"])
    return ""


def allowed(annotation: Any) -> str:
    """Return in words what an annotated type lets through: its range and unit, choices or type."""
    info = msgspec.inspect.type_info(annotation)
    inner = info.type if isinstance(info, msgspec.inspect.Metadata) else info
    unit = unit_of(annotation)
    if isinstance(inner, msgspec.inspect.FloatType | msgspec.inspect.IntType):
        low = f"{inner.ge:g} <= " if inner.ge is not None else f"{inner.gt:g} < " if inner.gt is not None else ""
        high = f" <= {inner.le:g}" if inner.le is not None else f" < {inner.lt:g}" if inner.lt is not None else ""
        word = "whole number" if isinstance(inner, msgspec.inspect.IntType) else "number"
        return f"{low}{word}{high}" + (f" [{unit}]" if unit else "")
    if isinstance(inner, msgspec.inspect.LiteralType):
        return " | ".join(map(str, inner.values))
    return type(inner).__name__.removesuffix("Type").lower()


def json_schema(cls: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type, units included."""
    return msgspec.json.schema(cls)


def unbounded_floats(cls: Any) -> list[str]:
    """Return the key path of every float reachable from `cls` that has not two finite bounds."""
    found: list[str] = []
    seen: set[Any] = set()

    def walk(node: Any, path: str) -> None:
        if isinstance(node, msgspec.inspect.Metadata):
            node = node.type
        if isinstance(node, msgspec.inspect.FloatType):
            low = node.ge if node.ge is not None else node.gt
            high = node.le if node.le is not None else node.lt
            if low is None or high is None:
                found.append(path)
        elif isinstance(node, msgspec.inspect.StructType):
            if node.cls in seen:
                return
            seen.add(node.cls)
            for field in node.fields:
                walk(field.type, f"{path}.{field.name}")
        elif isinstance(node, msgspec.inspect.UnionType):
            for each in node.types:
                walk(each, path)
        elif isinstance(node, msgspec.inspect.TupleType):
            for i, each in enumerate(node.item_types):
                walk(each, f"{path}[{i}]")
        elif isinstance(node, msgspec.inspect.ListType | msgspec.inspect.VarTupleType | msgspec.inspect.SetType):
            walk(node.item_type, f"{path}[]")
        elif isinstance(node, msgspec.inspect.DictType):
            walk(node.value_type, f"{path}{{}}")

    walk(msgspec.inspect.type_info(cls), getattr(cls, "__name__", "value"))
    return found


def _with_unit(value: Any, annotation: Any, spelled: bool) -> Any:
    unit = unit_of(annotation)
    if not unit:
        return value
    if isinstance(value, str):
        number, written = split_quantity(value)
        return convert_unit(number, written, unit)
    if spelled and isinstance(value, int | float) and not is_si(unit):
        raise ProbeloopError(f"{value!r} has no unit", f'write "{value} {unit}"')
    return value


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, msgspec.Struct):
        return all(_finite(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list | tuple | set | frozenset) else True


def _plain(error: Exception, value: Any) -> str:
    return f"{value!r}: {str(error).rstrip('.')}"


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
