"""The loops that run compiled: sums over detector frames, 32 pixels at a time, in one pass over cold memory.

Numba has no vectors, and LLVM makes none of these sums that are fast and exact at once (docs/decisions/0011). So the
vector is spelled out: 32 numbers side by side in plain LLVM IR, which every processor has instructions for.

Pixels of up to 16 bits are summed in 32-bit lanes and those of 32 bits in 64-bit lanes, exactly; floats and 64-bit
integers in double. The caller picks bands that are short enough for no lane to run over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

LANES = 32  # one word of a mask; two AVX-512 registers of 32 bits each
CACHE_LINE = 64  # [bytes]
Generate = Callable[[Any, Any, Any, Any], Any]  # (context, builder, signature, arguments) -> value
_declared: Any = cgutils.get_or_insert_function


class Lanes(types.Type):
    """Type of LANES numbers side by side."""

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(name=f"Lanes({element})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, _vector(lanes.element))  # type: ignore[no-untyped-call]


def _vector(element: Any) -> ir.VectorType:
    if isinstance(element, types.Float):
        return ir.VectorType(ir.FloatType() if element.bitwidth == 32 else ir.DoubleType(), LANES)
    return ir.VectorType(ir.IntType(element.bitwidth), LANES)


def _summed_in(pixel: Any) -> Any:
    """Return the type that a lane sums pixels in."""
    if isinstance(pixel, types.Float) or pixel.bitwidth == 64:
        return types.float64
    if pixel.bitwidth <= 16:
        return types.int32 if pixel.signed else types.uint32
    return types.int64 if pixel.signed else types.uint64


def _operation(function: Callable[..., tuple[Any, Generate]]) -> Any:
    """Make compiled code call what the function generates."""
    return intrinsic(function)


def _widest(element: Any) -> Any:
    return types.float64 if isinstance(element, types.Float) else types.int64


def _cast(builder: Any, value: Any, element: Any, to: Any) -> Any:
    if element.bitwidth == to.bitwidth and isinstance(element, types.Float) == isinstance(to, types.Float):
        return value
    if isinstance(element, types.Float):
        return builder.fpext(value, _vector(to))
    if isinstance(to, types.Float):
        return (builder.sitofp if element.signed else builder.uitofp)(value, _vector(to))
    return (builder.sext if element.signed else builder.zext)(value, _vector(to))


def _address(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [at])


def _sum(builder: Any, value: Any, element: Any, to: Any) -> Any:
    scalar = value.type.element
    if isinstance(to, types.Float):
        kind = ir.FunctionType(scalar, [scalar, value.type])
        add = _declared(builder.module, kind, f"llvm.vector.reduce.fadd.v{LANES}f64")
        return builder.call(add, [ir.Constant(scalar, -0.0), value], fastmath=("reassoc",))
    kind = ir.FunctionType(scalar, [value.type])
    add = _declared(builder.module, kind, f"llvm.vector.reduce.add.v{LANES}i64")
    return builder.call(add, [value])


@_operation
def _zeros(typing: Any, pixels: Any) -> tuple[Any, Generate]:
    """Return lanes of 0 that pixels of this array can be summed in."""
    lanes = Lanes(_summed_in(pixels.dtype))
    return lanes(pixels), lambda context, builder, signature, arguments: ir.Constant(_vector(lanes.element), None)


@_operation
def _load(typing: Any, pixels: Any, at: Any) -> tuple[Any, Generate]:
    """Return pixels[at : at + LANES], as wide as they are summed."""
    lanes = Lanes(_summed_in(pixels.dtype))

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], *arguments)
        address = builder.bitcast(address, _vector(pixels.dtype).as_pointer())
        value = builder.load(address, align=pixels.dtype.bitwidth // 8)
        return _cast(builder, value, pixels.dtype, lanes.element)

    return lanes(pixels, types.intp), generate


@_operation
def _add(typing: Any, sums: Any, values: Any) -> tuple[Any, Generate]:
    """Return the sum, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return (builder.fadd if isinstance(sums.element, types.Float) else builder.add)(*arguments)

    return sums(sums, values), generate


@_operation
def _add_where(typing: Any, sums: Any, values: Any, bits: Any) -> tuple[Any, Generate]:
    """Return the sum, lane by lane, in those whose bit is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        before, more, word = arguments
        chosen = builder.bitcast(word, ir.VectorType(ir.IntType(1), LANES))
        after = (builder.fadd if isinstance(sums.element, types.Float) else builder.add)(before, more)
        return builder.select(chosen, after, before)

    return sums(sums, values, types.uint32), generate


@_operation
def _total(typing: Any, sums: Any) -> tuple[Any, Generate]:
    """Return the sum over all lanes, int64 or float64."""
    widest = _widest(sums.element)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _sum(builder, _cast(builder, arguments[0], sums.element, widest), sums.element, widest)

    return widest(sums), generate


@_operation
def _total_by_lane(typing: Any, sums: Any) -> tuple[Any, Generate]:
    """Return the sum over all lanes of their number, 0 to LANES - 1, times what is in them; int64 or float64."""
    widest = _widest(sums.element)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = _cast(builder, arguments[0], sums.element, widest)
        number = ir.Constant(wide.type, [ir.Constant(wide.type.element, lane) for lane in range(LANES)])
        times = builder.fmul if isinstance(widest, types.Float) else builder.mul
        return _sum(builder, times(wide, number), sums.element, widest)

    return widest(sums), generate


@_operation
def _fetch(typing: Any, pixels: Any, at: Any) -> tuple[Any, Generate]:
    """Ask for the memory of pixels[at : at + LANES], and don't wait for it; `at` may lie outside."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        address = _address(context, builder, signature.args[0], *arguments)
        address = builder.bitcast(address, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, word, word, word])
        ask = _declared(builder.module, kind, "llvm.prefetch.p0")
        for offset in range(0, LANES * pixels.dtype.bitwidth // 8, CACHE_LINE):
            line = builder.gep(address, [word(offset)])
            builder.call(ask, [line, word(0), word(3), word(1)])  # to read, keep in every cache, data
        return context.get_dummy_value()

    return types.void(pixels, types.intp), generate


@numba.njit(nogil=True, cache=True, error_model="numpy")
def frame_sums(
    pixels: Any, edge: Any, shape: Any, bits: Any, spans: Any, rows: Any, band: Any, moments: Any, out: Any
) -> None:
    """Add to out (N, K + 3), int64 or float64: K masked sums; with `moments` sum(I), sum(I kx) and sum(I ky).

    pixels: the frames (N, ky, kx) = shape, flat. edge (LANES,): the end of the last row, padded, which can't be read
    in one piece. bits (K, ky, chunks): masks, a word for each LANES pixels, lowest bit first. spans (K, ky, 2): first
    and end chunk in use. rows: first and end row in use. band: rows at a time.

    While a band is summed the next one is fetched: memory that is read this way costs a quarter of what it does else.
    Sums of sums stand for the products of a moment: a chunk that is the third of eight enters six times.
    """
    frames, height, width = shape
    masks, _, chunks = bits.shape
    whole = width // LANES
    within = numba.uint32((1 << (width - whole * LANES)) - 1)  # of a chunk that the edge cuts
    for n in range(frames):
        frame = n * height * width
        for first in range(rows[0], rows[1], band):
            end = min(first + band, rows[1])
            following = frame + end * width if end < rows[1] else frame + (height + rows[0]) * width
            if moments:
                band_sum, by_chunk, by_row = _zeros(pixels), _zeros(pixels), _zeros(pixels)
                for y in range(first, end):
                    row, at = _zeros(pixels), frame + y * width
                    ahead = following + (y - first) * width
                    for chunk in range(whole):
                        _fetch(pixels, ahead + chunk * LANES)
                        row = _add(row, _load(pixels, at + chunk * LANES))
                        by_chunk = _add(by_chunk, row)
                    if chunks > whole:
                        if n == frames - 1 and y == height - 1:
                            row = _add(row, _load(edge, 0))
                        else:
                            row = _add_where(row, _load(pixels, at + whole * LANES), within)
                        by_chunk = _add(by_chunk, row)
                    band_sum = _add(band_sum, row)
                    by_row = _add(by_row, band_sum)
                total = _total(band_sum)
                out[n, masks] += total
                out[n, masks + 1] += LANES * (chunks * total - _total(by_chunk)) + _total_by_lane(band_sum)
                out[n, masks + 2] += end * total - _total(by_row)
            for k in range(masks):
                inside = _zeros(pixels)
                for y in range(first, end):
                    at, ahead = frame + y * width, following + (y - first) * width
                    for chunk in range(spans[k, y, 0], min(spans[k, y, 1], whole)):
                        if not moments:
                            _fetch(pixels, ahead + chunk * LANES)
                        inside = _add_where(inside, _load(pixels, at + chunk * LANES), bits[k, y, chunk])
                    if spans[k, y, 1] > whole:
                        if n == frames - 1 and y == height - 1:
                            inside = _add_where(inside, _load(edge, 0), bits[k, y, whole])
                        else:
                            inside = _add_where(inside, _load(pixels, at + whole * LANES), bits[k, y, whole])
                out[n, k] += _total(inside)
