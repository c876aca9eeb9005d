"""Settings: frozen, checked on the way in, all faults reported together.

Struct construction does not validate, so nothing but `convert` makes Settings out of what a person, a file or
another process sent.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from reprlib import Repr
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
import msgspec.inspect

from .errors import ProbeloopError, Problem, SettingsError
from .units import convert as convert_unit
from .units import is_si, split_quantity

T = TypeVar("T", bound="Settings")
_SHORT = Repr()  # of what was sent: one line of it, however long or deep
_SHORT.maxstring = _SHORT.maxother = 60


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
    known = ", ".join(fields) or "nothing"
    problems.extend(Problem(_join(where, str(name)), "unknown", known) for name in values if name not in fields)
    for name, field in fields.items():
        path = _join(where, name)
        if name not in values:
            if field.required:
                problems.append(Problem(path, "missing", allowed(hints[name])))
            continue
        try:
            value, hint = values[name], hints[name]
            if isinstance(hint, type) and issubclass(hint, Settings) and isinstance(value, Mapping):
                good[name] = convert(hint, value, path, spelled=spelled)
            else:
                good[name] = msgspec.convert(_with_unit(value, hint, spelled), hint, strict=True)
                if not _finite(good[name]):
                    problems.append(Problem(path, f"{_SHORT.repr(value)} is not finite", allowed(hint)))
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


_NOT_FINITE = "holds a number that is not finite"


def revalidate(value: Any, kind: Any) -> Any:
    """Encode and decode `value` as `kind` again; raises SettingsError when it isn't one or holds NaN or inf.

    A struct built in Python skipped every check; the gate calls this on whatever it is handed.
    """
    try:
        body = msgspec.json.encode(value)  # writes null for what is not finite, which no float takes
        again = _decoder(kind).decode(body)
        finite = b"null" not in body or _finite(value)  # where None is allowed too, it decodes
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        words = str(error) if _finite(value) else _NOT_FINITE
        raise SettingsError([Problem(type(value).__name__, words)]) from error
    except (msgspec.MsgspecError, RecursionError) as error:
        raise SettingsError([Problem(type(value).__name__, str(error))]) from error
    if not finite:
        raise SettingsError([Problem(type(value).__name__, _NOT_FINITE)])
    return again


@functools.lru_cache(maxsize=64)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)  # making one takes longer than a hundred commands


def unit_of(annotation: Any) -> str:
    """Return the unit that `quantity` gave to an annotated type, or ""."""
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.extra and "unit" in meta.extra:
            return str(meta.extra["unit"])
    return ""


def allowed(annotation: Any) -> str:
    """Return in words what an annotated type lets through: its range and unit, choices or type."""
    return _words(msgspec.inspect.type_info(annotation))


def _words(info: Any, unit: str = "") -> str:
    if isinstance(info, msgspec.inspect.Metadata):
        return _words(info.type, str((info.extra or {}).get("unit", "")))
    if isinstance(info, msgspec.inspect.FloatType | msgspec.inspect.IntType):
        low = f"{info.ge:g} <= " if info.ge is not None else f"{info.gt:g} < " if info.gt is not None else ""
        high = f" <= {info.le:g}" if info.le is not None else f" < {info.lt:g}" if info.lt is not None else ""
        word = "whole number" if isinstance(info, msgspec.inspect.IntType) else "number"
        return f"{low}{word}{high}" + (f" [{unit}]" if unit else "")
    if isinstance(info, msgspec.inspect.LiteralType):
        return " | ".join(map(str, info.values))
    if isinstance(info, msgspec.inspect.UnionType):
        return " | ".join(map(_words, info.types))
    if isinstance(info, msgspec.inspect.TupleType):
        return f"[{', '.join(map(_words, info.item_types))}]"
    if isinstance(info, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        return f"list of {_words(info.item_type)}"
    if isinstance(info, msgspec.inspect.DictType):
        return f"table of {_words(info.value_type)}"
    if isinstance(info, msgspec.inspect.StructType):
        return info.cls.__name__
    name = type(info).__name__.removesuffix("Type").lower()
    return {"str": "text", "bool": "true | false"}.get(name, name)


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
            if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
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
    """Return `value` with every spelled quantity, however deep, as a number in the unit of its annotation."""
    unit = unit_of(annotation)
    if unit:
        if isinstance(value, str):
            number, written = split_quantity(value)
            return convert_unit(number, written, unit)
        if spelled and isinstance(value, int | float) and not is_si(unit):
            raise ProbeloopError(f"{value!r} has no unit", f'write "{value} {unit}"')
        return value
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _with_unit(value, arguments[0], spelled)
    if origin in (Union, UnionType):
        return _arm_with_unit(value, arguments, spelled)
    if origin in (tuple, list) and isinstance(value, list | tuple):
        fixed = origin is tuple and arguments[-1:] != (...,)
        kinds = arguments if fixed else arguments[:1] * len(value)
        made = [_with_unit(v, kind, spelled) for v, kind in zip(value, kinds, strict=False)]
        return [*made, *value[len(kinds) :]]  # too many: msgspec says so
    if origin is dict and isinstance(value, Mapping):
        return {key: _with_unit(v, arguments[1], spelled) for key, v in value.items()}
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct) and isinstance(value, Mapping):
        hints = get_type_hints(annotation, include_extras=True)
        return {k: _with_unit(v, hints[k], spelled) if k in hints else v for k, v in value.items()}
    return value


def _arm_with_unit(value: Any, arms: tuple[Any, ...], spelled: bool) -> Any:
    if isinstance(value, str) and str in arms:
        return value
    for arm in arms:
        tag = arm.__struct_config__.tag if isinstance(arm, type) and issubclass(arm, msgspec.Struct) else None
        if tag is not None and isinstance(value, Mapping) and value.get("type") != tag:
            continue
        made = _with_unit(value, arm, spelled)
        if made is not value:
            return made
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
    return f"{_SHORT.repr(value)}: {str(error).rstrip('.')}"


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
