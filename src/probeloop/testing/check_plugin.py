"""Holds a transform against its contract, on scans that no instrument made. Needs no pytest, no bus.

N = 1 and N = 256, a partial, an aborted and a serpentine scan, two generations of different shape. Every block is
overwritten after each call, as the bus does: a kept view gives itself away by other results. A JoinTransform is tried
on inputs that are all of one sort, and on each sort beside a map.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.assemble import assemble, empty_map
from ..data.axes import StreamSpec
from ..data.errors import CalibrationError, ContractError, ProbeloopError, SettingsError
from ..data.frame import BlockFlag, FrameBlock
from ..data.settings import Settings, convert, unbounded_floats
from ..plugin.contract import Context, DropIn, JoinTransform, ScanTransform
from ..plugin.join import Blocks
from ..plugin.output import check_arrays, completed, given
from .deadline import deadline
from .streams import every_calibration, example_specs, poison, renamed, scan_blocks

Result = tuple[str, dict[str, NDArray[Any]]]
Specs = tuple[StreamSpec, ...]
_SCENARIOS = (
    "one frame a block",
    "256 frames a block",
    "a partial scan",
    "an aborted scan",
    "a serpentine scan",
    "two generations of different shape",
)
FIRST_S = 60.0


def check_plugin(
    cls: type[DropIn],
    parameters: Settings | None = None,
    *,
    specs: Iterable[StreamSpec | Specs] | None = None,
    limit_s: float = 2.0,
    first_s: float = FIRST_S,
) -> list[str]:
    """Return every way in which a transform breaks its contract, in words; empty = it keeps it.

    specs: inputs to try it on, a tuple for a JoinTransform (default: every sort, those that it accepts). limit_s:
    longest a call may take [s]; first_s: the first one, which may compile.
    """
    faults = common_faults(cls)
    if faults:
        return faults
    trial = _Trial(cls, parameters, limit_s, first_s)
    inputs = _examples(cls) if specs is None else {_name(each): each for each in map(_several, specs)}
    accepted = 0
    refusals = []
    for name, spec in inputs.items():
        try:
            with deadline(first_s, "outputs"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                completed(trial.make(), "check", spec)
        except (CalibrationError, SettingsError) as error:
            refusals.append(f"{name}: {error}")
            continue
        except Exception as error:
            return [f"outputs() for {name}: {_words(error)}"]
        accepted += 1
        trial.cool()  # another type of data is compiled again
        for scenario in _SCENARIOS:
            fault = trial.run(scenario, spec)
            if fault:
                faults.append(f"{scenario} ({name}): {fault}")
                if "takes longer" in fault:
                    return faults
    if not accepted:
        return [f"it accepts none of the inputs: {'; '.join(refusals)}"]
    return faults


def _several(specs: StreamSpec | Specs) -> Specs:
    return (specs,) if isinstance(specs, StreamSpec) else specs


def _name(specs: Specs) -> str:
    return " + ".join(spec.name for spec in specs)


def _examples(cls: type[DropIn]) -> dict[str, Specs]:
    """Return inputs of every sort by name; for a JoinTransform topics of one sort, and those beside a map."""
    sorts = example_specs((16, 16))
    if not issubclass(cls, JoinTransform):
        return {name: (spec,) for name, spec in sorts.items()}
    n, a_map = len(cls.inputs), sorts["a map"]
    tried: dict[str, Specs] = {}
    for name, spec in sorts.items():
        tried[f"{n} times {name}"] = tuple(renamed(spec, f"{spec.name}{i}") for i in range(n))
    for name, spec in sorts.items():
        if spec is not a_map:
            others = tuple(renamed(a_map, f"{a_map.name}{i}") for i in range(1, n))
            tried[f"{name}, then a map"] = (spec, *others)
            tried[f"a map, then {name}"] = (*others, spec)
    return tried


def common_faults(cls: type[Any]) -> list[str]:
    """Return what is wrong with any drop-in before it is used: parameters without bounds, no words."""
    faults = []
    if not (isinstance(cls, type) and issubclass(cls, DropIn)):
        return [f"{cls!r} is no drop-in"]
    if getattr(cls, "__abstractmethods__", None):
        return [f"it lacks {', '.join(sorted(cls.__abstractmethods__))}()"]
    if issubclass(cls, JoinTransform):
        roles: Any = cls.inputs
        if (
            not isinstance(roles, tuple)
            or not all(isinstance(each, str) for each in roles)
            or len(set(roles)) < max(2, len(roles))
        ):
            return [f"its inputs are {roles!r}: name at least two, each another, as in ('signal', 'reference')"]
    if not (cls.__doc__ or "").strip() or cls.__doc__ is next((b.__doc__ for b in cls.__mro__[1:]), None):
        faults.append("its class has no docstring")
    endless = unbounded_floats(cls.Parameters)
    if endless:
        faults.append(f"numbers without two finite bounds: {', '.join(endless)} (use quantity(unit, ge=, le=))")
    try:
        convert(cls.Parameters, {})
    except SettingsError as error:
        faults.append(f"its default parameters are not allowed: {error}")
    return faults


class _Trial:
    """One class, run through scenarios twice: with memory that is taken away, and with memory that stays."""

    def __init__(self, cls: type[DropIn], parameters: Settings | None, limit_s: float, first_s: float) -> None:
        self._cls, self._parameters = cls, parameters
        self._limit_s, self._first_s = limit_s, first_s
        self._warm: set[str] = set()

    def make(self) -> DropIn:
        """Return a fresh instance that knows every calibration."""
        return self._cls(self._parameters, Context("check", 1, every_calibration()))

    def cool(self) -> None:
        """Allow the next call of each method to take long again."""
        self._warm.clear()

    def run(self, scenario: str, specs: Specs) -> str:
        """Return the fault of one scenario, "" when there is none."""
        results = []
        for taken_away in (True, False, False):
            try:
                results.append(list(self._results(_blocks(scenario, specs), taken_away)))
            except ContractError as error:
                return error.message
            except Exception as error:
                # whatever a stranger's code raises is its fault
                return _words(error)
        poisoned, first, second = results
        if not _same(first, second):
            return "gives other results for the same frames (take randomness from context.seed)"
        if not _same(poisoned, first):
            return "keeps a view of block.data: its results change when the bus uses that memory again (block.copy())"
        return ""

    def _results(self, blocks: Iterable[Blocks], taken_away: bool) -> Iterator[Result]:
        plugin = self.make()
        try:
            if isinstance(plugin, ScanTransform):
                yield from self._scan(plugin, (each[0] for each in blocks), taken_away)
            else:
                yield from self._frames(plugin, blocks, taken_away)
        finally:
            plugin.close()

    def _call(self, call: Callable[[], Any], what: str) -> Any:
        with deadline(self._limit_s if what in self._warm else self._first_s, what):
            made = call()
        self._warm.add(what)
        return made

    def _declare(self, plugin: DropIn, specs: Specs) -> dict[str, StreamSpec]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: dict[str, StreamSpec] = self._call(lambda: completed(plugin, "check", specs), "outputs")
        return found

    def _frames(self, plugin: Any, sets: Iterable[Blocks], taken_away: bool) -> Iterator[Result]:
        specs: dict[str, StreamSpec] = {}
        generation = -1
        kept = []
        for blocks in sets:
            first = blocks[0]
            if first.generation != generation:
                generation, specs = first.generation, self._declare(plugin, tuple(each.spec for each in blocks))
            if not first.count:
                continue
            before = [block.copy() for block in blocks]
            arrays = self._call(partial(plugin.process, given(plugin, blocks)), "process")
            found = check_arrays("process", specs, arrays, first.count)
            for block, then in zip(blocks, before, strict=True):
                _check_untouched(block, then, found)
            copies = {name: array.copy() for name, array in found.items()}
            for block in blocks if taken_away else ():
                poison(block)
            kept.append(blocks)
            yield f"{first.generation}:{first.index}", copies

    def _scan(self, plugin: Any, blocks: Iterable[FrameBlock], taken_away: bool) -> Iterator[Result]:
        specs: dict[str, StreamSpec] = {}
        generation = -1
        whole: NDArray[Any] = np.empty(0)
        mask: NDArray[np.bool_] = np.empty(0, bool)
        for block in blocks:
            if block.generation != generation:
                generation, specs = block.generation, self._declare(plugin, (block.spec,))
                whole = empty_map(block.spec)
                mask = np.zeros(block.spec.nav_shape, bool)
                self._call(partial(plugin.begin, block.spec), "begin")
            arrays = None
            if block.count and plugin.takes == "blocks":
                before = block.copy()
                arrays = self._call(partial(plugin.update, block), "update")
                _check_untouched(block, before, {})
                if taken_away:
                    poison(block)
            elif block.count:
                mask.reshape(-1)[assemble(block.spec, block, whole)] = True
                shown, seen = (whole, mask) if taken_away else (whole.copy(), mask.copy())
                arrays = self._call(partial(plugin.update, _read_only(shown), _read_only(seen)), "update")
            if arrays is not None:
                yield from _checked("update", specs, arrays, block)
            if block.flags & BlockFlag.SCAN_END:
                aborted = bool(block.flags & BlockFlag.ABORTED)
                arrays = self._call(partial(plugin.end, aborted), "end")
                if arrays is not None:
                    yield from _checked("end", specs, arrays, block)


def _checked(what: str, specs: dict[str, StreamSpec], arrays: Any, block: FrameBlock) -> Iterator[Result]:
    found = check_arrays(what, specs, arrays, 1, rows_are_free=True)
    yield f"{what} {block.generation}:{block.index}", {name: array.copy() for name, array in found.items()}


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def _check_untouched(block: FrameBlock, before: FrameBlock, found: Mapping[str, NDArray[Any]]) -> None:
    for name in ("data", "time_ns", "scan_index", "position", "dose", "frame_flags"):
        now, then = getattr(block, name), getattr(before, name)
        if now.flags.writeable or now.tobytes() != then.tobytes():
            raise ContractError(f"it changes block.{name}, which other readers read too")
    for name, array in found.items():
        if np.may_share_memory(array, block.data):
            raise ContractError(
                f"output {name!r} is a view of block.data, which is not valid after process (copy it)"
            )


def _blocks(scenario: str, specs: Specs) -> Iterator[Blocks]:
    """Yield the blocks of a scenario on streams like `specs`: of every stream the same pixels at a time."""
    every = [_blocks_of(scenario, spec, 10 * i) for i, spec in enumerate(specs)]
    return zip(*every, strict=True)


def _blocks_of(scenario: str, spec: StreamSpec, seed: int) -> Iterator[FrameBlock]:
    small = _resized(spec, (3, 4), 0)
    match scenario:
        case "one frame a block":
            yield from scan_blocks(small, 1, seed=seed)
        case "256 frames a block":
            yield from scan_blocks(_resized(spec, (16, 16), 0), 256, seed=seed)
        case "a partial scan":
            yield from scan_blocks(small, 5, ending="partial", seed=seed)
            yield from scan_blocks(small, 5, generation=2, first_index=6, seed=seed + 1)
        case "an aborted scan":
            yield from scan_blocks(small, 4, ending="aborted", seed=seed)
            yield from scan_blocks(small, 4, generation=2, first_index=6, seed=seed + 1)
        case "a serpentine scan":
            yield from scan_blocks(small, 5, order="serpentine", seed=seed)
        case _:
            yield from scan_blocks(small, 5, seed=seed)
            yield from scan_blocks(_resized(spec, (5, 2), 4), 3, generation=2, first_index=12, seed=seed + 2)


def _resized(spec: StreamSpec, shape: tuple[int, int], larger: int) -> StreamSpec:
    """Return a stream of the same sort on another map and, where it has axes, with more detector pixels."""
    alike = example_specs(shape, larger)
    for name, example in example_specs((16, 16)).items():
        if renamed(example, spec.name) == spec:
            return renamed(alike[name], spec.name)
    nav = tuple(msgspec.structs.replace(axis, size=size) for axis, size in zip(spec.nav, shape, strict=True))
    return msgspec.structs.replace(spec, nav=nav)


def _same(a: list[Result], b: list[Result]) -> bool:
    if [key for key, _ in a] != [key for key, _ in b]:
        return False
    for (_, left), (_, right) in zip(a, b, strict=True):
        for name, array in left.items():
            if array.shape != right[name].shape:
                return False
            if array.dtype.kind in "fc":
                if not np.allclose(array, right[name], rtol=1e-5, atol=1e-8, equal_nan=True):
                    return False
            elif array.tobytes() != right[name].tobytes():
                return False
    return True


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return str(error)
    if isinstance(error, ProbeloopError):
        return error.message
    if isinstance(error, ValueError) and "read-only" in str(error):
        return "it changes its input, which other readers read too (ValueError: read-only)"
    return f"it raises {type(error).__name__}: {error}"
