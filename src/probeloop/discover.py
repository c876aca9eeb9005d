"""Finds drop-ins: plug-ins, policies, scalarizers, plans, drivers and simulators; imports the one that is asked for.

Listing reads sources (ast) and runs none of them, so a broken or heavy file costs its own line and nothing else.
A drop-in is a file NAME.py or a folder NAME/ with an __init__.py. Its only class of a kind is called NAME; every
class may be called by its own name in snake_case too.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, get_args, get_type_hints

import platformdirs

from .data.driver import Instrument
from .data.errors import DropInError
from .data.settings import Settings, convert

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
RESERVED = {"con", "prn", "aux", "nul", *(f"{w}{i}" for w in ("com", "lpt") for i in range(1, 10))}
KINDS = ("FrameTransform", "JoinTransform", "ScanTransform", "Scalarizer", "Policy", "Reward", "Plan")
INSTRUMENTS = ("Driver", "Simulator")
ROOMS = {"probeloop.plugins": "", "probeloop.drivers": "Driver", "probeloop.simulators": "Simulator"}
_VERBS = {"describe", "read_back", "make_safe", "close"}


@dataclass(frozen=True)
class Found:
    """One drop-in, or a file that is none.

    kind: one of KINDS or INSTRUMENTS, "" when it could not be told. origin: shipped | user | rig | the name of a
    package. error: why it can't be used, or None. source_hash: of the file, or of every source in its folder.
    """

    name: str
    kind: str
    path: Path
    origin: str
    error: str | None = None
    summary: str = ""
    source_hash: str = ""
    class_name: str = ""
    module: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it answers to."""
        return tuple(dict.fromkeys((self.name, snake_case(self.class_name)))) if self.class_name else (self.name,)


def snake_case(name: str) -> str:
    """Write a class name as a drop-in's name.

    >>> snake_case("CentreOfMass"), snake_case("FFTMap")
    ('centre_of_mass', 'fft_map')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def is_name(name: str) -> bool:
    """True for a name that is safe on every file system: small letters, digits, _; none that Windows reserves."""
    return NAME.fullmatch(name) is not None and name not in RESERVED


def user_folders() -> tuple[Path, ...]:
    """Return the user's plug-in folders: those in PROBELOOP_PLUGINS, else the one of this account."""
    named = os.environ.get("PROBELOOP_PLUGINS", "")
    if named:
        return tuple(Path(part) for part in named.split(os.pathsep) if part)
    return (Path(platformdirs.user_data_dir("probeloop", appauthor=False)) / "plugins",)


def found(folders: Iterable[str | Path] = ()) -> tuple[Found, ...]:
    """Return every drop-in, those with an error too; folders: the rig's own.

    Of two with one name and kind the first wins: rig, user, shipped, packages; the other says so.
    """
    every = [*on_disk(folders), *_in_packages()]
    seen: dict[tuple[str, str], Found] = {}
    for i, each in enumerate(every):
        first = seen.setdefault((each.name, each.kind), each)
        if first is not each and each.error is None and first.path != each.path:
            every[i] = replace(each, error=f"hidden by {first.path}, which has the same name")
    return tuple(every)


def on_disk(folders: Iterable[str | Path] = ()) -> list[Found]:
    """Return what lies in the rig's, the user's and the shipped folders; cheap when nothing changed."""
    every: list[Found] = []
    for folder in folders:
        every += _in_folder(Path(folder), "rig", "")
    for folder in user_folders():
        every += _in_folder(folder, "user", "")
    for room, instrument in ROOMS.items():
        for place in importlib.import_module(room).__path__:
            every += _in_folder(Path(place), "shipped", instrument, room)
    return every


def find(name: str, kind: str | None = None, folders: Iterable[str | Path] = ()) -> Found:
    """Return the drop-in called `name`; kind: one of KINDS or INSTRUMENTS, "Instrument" = either of these.

    Raises DropInError with near matches, or with the reason why the one of that name can't be used.
    """
    every = found(folders)
    kinds = INSTRUMENTS if kind == "Instrument" else (kind,) if kind else (*KINDS, *INSTRUMENTS)
    usable = [each for each in every if each.error is None and each.kind in kinds]
    for each in sorted((e for e in usable if name in e.names), key=lambda e: e.name != name):
        return each
    broken = next((e for e in every if e.error is not None and name in e.names and e.kind in ("", *kinds)), None)
    if broken is not None:
        raise DropInError(f"{name!r} in {broken.path} can't be loaded: {broken.error}", "mend the file")
    other = next((e for e in every if e.error is None and name in e.names), None)
    if other is not None:
        raise DropInError(f"{name!r} is a {other.kind}, not a {kind}", "probeloop list shows every drop-in")
    known = sorted({each.name for each in usable})
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    what = f"no {kind or 'drop-in'} is called {name!r}"
    raise DropInError(what, f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}")


def load_class(name: str, kind: str | None = None, folders: Iterable[str | Path] = ()) -> type[Any]:
    """Import the drop-in called `name` and return its class; raises DropInError with what went wrong, and where."""
    return load(find(name, kind, folders))


def load(drop_in: Found) -> type[Any]:
    """Import a drop-in that `found` or `find` gave; raises DropInError."""
    if drop_in.error is not None:
        raise DropInError(f"{drop_in.path} can't be loaded: {drop_in.error}", "mend the file")
    module = _import(drop_in)
    made = getattr(module, drop_in.class_name, None)
    if not isinstance(made, type):
        raise DropInError(f"{drop_in.path} has no class {drop_in.class_name}", "it must be defined at the top level")
    return made


def load_instrument(
    name: str,
    parameters: Mapping[str, Any],
    folders: Iterable[str | Path] = (),
    *,
    kind: str = "Instrument",
    spelled: bool = False,
    unpaced: bool = False,
) -> Instrument:
    """Make the driver or simulator called `name`, in this process.

    spelled: the parameters come from a file, where a number in a display unit carries it ("5 nm"). unpaced: whatever
    they say, as fast as possible where it has a `pace`.
    Raises DropInError, or SettingsError with every fault in the parameters.
    """
    cls = load_class(name, kind, folders)
    settings: type[Settings] = getattr(cls, "Parameters", Settings)
    if unpaced and "pace" in settings.__struct_fields__:
        optional = type(None) in get_args(get_type_hints(settings, include_extras=True)["pace"])
        parameters = {**parameters, "pace": None if optional else "unlimited"}
    made = cls(convert(settings, parameters, name, spelled=spelled))
    if not isinstance(made, Instrument):
        lacking = [verb for verb in ("clock", *sorted(_VERBS)) if not hasattr(made, verb)]
        raise DropInError(f"{name!r} is no instrument: it lacks {', '.join(lacking)}", "see drivers/template.py")
    return made


def load_simulator(name: str, parameters: Mapping[str, Any]) -> Any:
    """Make the simulator called `name` in this process, without a bus; raises DropInError or SettingsError."""
    return load_instrument(name, parameters, kind="Simulator")


def load_path(path: str | Path) -> tuple[type[Any], ...]:
    """Import the file or folder `path` and return its drop-in classes; raises DropInError when it has none."""
    place = Path(path).resolve()
    if place.name == "__init__.py":
        place = place.parent
    if not place.exists():
        raise DropInError(f"there is no {path}", "give the file or folder of a drop-in")
    here = None
    for room, instrument in ROOMS.items():
        if place.parent in (Path(home).resolve() for home in importlib.import_module(room).__path__):
            here = _unit(place, "shipped", instrument, room)
    if here is None:
        here = _unit(place, "user", "", "")
    faults = [each.error for each in here if each.error]
    if faults or not here:
        raise DropInError(f"{path} can't be loaded: {faults[0] if faults else 'it is no drop-in'}", "mend the file")
    return tuple(load(each) for each in here)


def load_commands(name: str, folders: Iterable[str | Path] = ()) -> ModuleType | None:
    """Return the module `commands` (train, bench, plans) of a drop-in that is a folder, or None."""
    fitting = (e for e in found(folders) if e.error is None and (e.path.name == name or name in e.names))
    drop_in = next(fitting, None) or find(name, None, folders)
    if not (drop_in.path / "commands.py").is_file():
        return None
    package = _import(replace(drop_in, module=""))
    return _guarded(f"{package.__name__}.commands", drop_in.path / "commands.py")


def stamp(folders: Iterable[str | Path] = ()) -> int:
    """Return a number that is another one when a source in the watched folders is [0.5 ms]."""
    homes = [*folders, *user_folders(), *(p for room in ROOMS for p in importlib.import_module(room).__path__)]
    seen: list[tuple[str, int, int, int]] = []
    todo = [str(home) for home in homes]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.name.endswith(".py"):
                        at = entry.stat()
                        seen.append((entry.path, at.st_mtime_ns, at.st_ino, at.st_size))
                    elif "." not in entry.name and not entry.name.startswith("_") and entry.is_dir():
                        todo.append(entry.path)
        except OSError:
            continue
    return hash(tuple(sorted(seen)))


def _in_folder(folder: Path, origin: str, instrument: str, room: str = "") -> Iterator[Found]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        if origin == "rig":
            yield Found(folder.name, "", folder, origin, f"can't read the folder: {error.strerror}")
        return
    for path in entries:
        if path.name.startswith(("_", ".")):
            continue
        if path.suffix == ".py" or (path / "__init__.py").is_file():
            yield from _unit(path, origin, instrument, room)


def _unit(path: Path, origin: str, instrument: str, room: str) -> list[Found]:
    """Return the drop-ins of one file or folder."""
    name = path.stem if path.suffix == ".py" else path.name
    if not is_name(name):
        why = f"{name!r} is no name for a drop-in: small letters, digits and _, a letter first, 64 at most"
        return [Found(name[:64], "", path, origin, why)]
    try:
        sources = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        stats = [each.stat() for each in sources]
        stamp = tuple((s.st_mtime_ns, s.st_ino, s.st_size) for s in stats)
        classes, digest = _read(tuple(sources), stamp)
    except SyntaxError as error:
        return [Found(name, "", path, origin, f"line {error.lineno}: {error.msg}")]
    except (OSError, ValueError, RecursionError) as error:
        return [Found(name, "", path, origin, f"{type(error).__name__}: {error}")]
    kinds = [kind or instrument or "Driver" for _, kind, _, _ in classes]
    made = []
    for (class_name, _, summary, source), kind in zip(classes, kinds, strict=True):
        lone = kinds.count(kind) == 1 or (path.suffix == ".py" and class_name == classes[0][0])
        inside = source.relative_to(path).with_suffix("").parts if path.is_dir() else ()
        module = ".".join((name, *(part for part in inside if part != "__init__")))
        called = name if lone else snake_case(class_name)
        full = f"{room}.{module}" if room else module
        made.append(Found(called, kind, path, origin, None, summary, digest, class_name, full))
    if not made and path.is_file() and not room:
        why = f"it has no public class of {', '.join(KINDS)}, and none with {', '.join(sorted(_VERBS))}"
        return [Found(name, "", path, origin, why, source_hash=digest)]
    return made


@functools.lru_cache(maxsize=512)
def _read(sources: tuple[Path, ...], stamp: Any) -> tuple[list[tuple[str, str, str, Path]], str]:
    """Return ((class name, kind or "" for an instrument, summary, file), ...) and the hash of the sources."""
    del stamp  # only makes a changed file another key
    digest = hashlib.sha256()
    bases: dict[str, tuple[list[str], bool, str, Path]] = {}
    for source in sources:
        raw = source.read_bytes()
        digest.update(raw)
        for node in ast.parse(raw, str(source)).body:
            if isinstance(node, ast.ClassDef):
                named = [b.attr if isinstance(b, ast.Attribute) else getattr(b, "id", "") for b in node.bases]
                verbs = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
                text = (ast.get_docstring(node) or "").partition("\n")[0]
                bases[node.name] = (named, verbs >= _VERBS, text, source)

    def kind_of(name: str, seen: frozenset[str]) -> str | None:
        if name in KINDS:
            return name
        if name not in bases or name in seen:
            return None
        named, instrument, *_ = bases[name]
        kind = next((k for base in named if (k := kind_of(base, seen | {name})) is not None), None)
        return "" if kind is None and instrument and "Protocol" not in named else kind

    classes = []
    for name, (_, _, text, source) in bases.items():
        kind = kind_of(name, frozenset())
        if kind is not None and not name.startswith("_"):
            classes.append((name, kind, text, source))
    return classes, digest.hexdigest()[:12]


@functools.cache
def _entry_points(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """Return what installed packages offer; reading all their metadata takes 30 ms, and a process installs none."""
    return tuple(importlib.metadata.entry_points(group=group))


def _in_packages() -> Iterator[Found]:
    for group, instrument in ROOMS.items():
        for entry in _entry_points(group):
            origin = entry.dist.name if entry.dist is not None else "a package"
            try:
                spec = importlib.util.find_spec(entry.module)
                if spec is None or spec.origin is None:
                    raise ImportError(f"no module {entry.module}")
                path = Path(spec.origin)
                classes, digest = _read((path,), path.stat().st_mtime_ns)
                wanted = [c for c in classes if entry.attr in ("", c[0])]
                if not wanted:
                    raise ImportError(f"{entry.value} is no drop-in")
            except Exception as error:  # whatever a stranger's package does, the list goes on
                yield Found(entry.name, "", Path(entry.value), origin, f"{type(error).__name__}: {error}")
                continue
            for class_name, kind, text, _ in wanted:
                yield Found(
                    entry.name, kind or instrument or "Driver", path, origin, None, text, digest, class_name,
                    entry.module,
                )  # fmt: skip


class _Exact(importlib.machinery.SourceFileLoader):
    """Compiles what is in the file now: a cached .pyc may be a second old, and of the same size."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        return compile(self.get_data(path), path, "exec", dont_inherit=True)


def _import(drop_in: Found) -> ModuleType:
    """Import a drop-in's module; one that is not shipped or installed gets a name with the hash of its source."""
    if drop_in.origin not in ("user", "rig"):
        stem = drop_in.path.stem if drop_in.path.suffix == ".py" else drop_in.path.name
        room = next((r for r in ROOMS for home in importlib.import_module(r).__path__
                     if drop_in.path.parent.samefile(home)), "")  # fmt: skip
        return _guarded(drop_in.module or f"{room}.{stem}", drop_in.path)
    stem, *inside = (drop_in.module or drop_in.path.stem).split(".")
    name = f"probeloop_dropin_{stem}_{drop_in.source_hash}"
    if name not in sys.modules:
        package = drop_in.path.is_dir()
        file = drop_in.path / "__init__.py" if package else drop_in.path
        spec = importlib.util.spec_from_file_location(
            name,
            file,
            loader=_Exact(name, str(file)),
            submodule_search_locations=[str(drop_in.path)] if package else None,
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            raise _explained(error, file) from error
    return _guarded(".".join([name, *inside]), drop_in.path)


def _guarded(module: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise _explained(error, path) from error


def _explained(error: BaseException, path: Path) -> BaseException:
    """Return what a failed import was, in one line with the line of the drop-in that it happened in."""
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        return error
    trace, line = error.__traceback__, ""
    while trace is not None:
        at = trace.tb_frame.f_code.co_filename
        if at.startswith(str(path)):
            line = f"{Path(at).name}:{trace.tb_lineno}: "
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        line = f"{Path(error.filename or path).name}:{error.lineno}: "
    return DropInError(f"{path.name} failed to import: {line}{type(error).__name__}: {error}", "mend the file")


def installed(module: str) -> bool:
    """True when a library can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None
