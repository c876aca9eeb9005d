"""3x3 convolutions with 2.25 times fewer multiplications, for bfloat16 on a processor.

After Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016: F(2x2, 3x3). The picture is
cut into tiles of 2 x 2 pixels. A tile and the pixels around it, 4 x 4, become 16 sums; each of the 16 is multiplied
by its own matrix over the channels; and sums of the 16 that come out are the 2 x 2 pixels.

The multiplications are torch's. The sums are compiled loops: they compute in float32 and round once each way, do
some tiles at a time so that what lies between stays in the cache, and take the bias, the residual and the rectifier
along. Their vector is spelled out, 16 channels side by side in plain LLVM IR: with so many places to read and write
LLVM makes none by itself.
A bfloat16 is the upper half of a float32; it is rounded with whole numbers, which every processor has.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .network import library

LANES = 16  # channels side by side: one AVX-512 register of float32
LEAST = 64  # channels; with fewer the sums take longer than the multiplications that they save
_STRIP = 65536  # tiles x channels at a time: 2 MB for their 16 sums
_WIDE = ir.VectorType(ir.FloatType(), LANES)
_WORDS = ir.VectorType(ir.IntType(32), LANES)
_SHORT = ir.VectorType(ir.IntType(16), LANES)
_spare: list[NDArray[np.uint16]] = []  # memory of convolutions that are done, for the next one in any thread


def _operation(function: Callable[..., Any]) -> Any:
    """Make compiled code call what the function generates."""
    return intrinsic(function)


def suits(convolution: Any) -> bool:
    """Return True for a 3x3 convolution (a torch `Conv2d`) that is faster this way, by its channels."""
    taken, made = convolution.in_channels, convolution.out_channels
    return bool(min(taken, made) >= LEAST and taken % LANES == 0 and made % LANES == 0)


def winograd(convolution: Any) -> Any:
    """Return a module that does as a 3x3 convolution with padding 1 does, in bfloat16 and to its rounding.

    It takes x (n, taken, ny, nx), a residual (n, made, ny, nx) or None, and a slope, and returns the rectified sum
    (n, made, ny, nx) in the memory of the residual where there is one. Channels are multiples of LANES. Any thread.
    """
    return _class()(convolution)


@functools.cache
def _class() -> Any:
    torch = library()
    module: Any = torch.nn.Module

    class Winograd(module):  # type: ignore[misc]
        """weight: (16, taken, made). bias: (made,)."""

        def __init__(self, convolution: Any) -> None:
            super().__init__()
            to = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
            with torch.no_grad():
                weight = torch.einsum("ay,oiyx,bx->abio", to, convolution.weight.float(), to).flatten(0, 1)
            self.register_buffer("weight", weight.contiguous())
            self.register_buffer("bias", convolution.bias.detach().clone())

        def forward(self, x: Any, residual: Any = None, slope: float = 1.0) -> Any:
            """(n, taken, ny, nx) to (n, made, ny, nx), both channels last. slope 1: not rectified."""
            shape = (x.shape[0], self.weight.shape[2], *x.shape[2:])
            if residual is None:
                out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
            else:
                out = residual.contiguous(memory_format=torch.channels_last)
            x = x.contiguous(memory_format=torch.channels_last)
            bias, taken, made = _words(self.bias), x.shape[1], shape[1]
            space = _space(16 * (_STRIP + 2 * max(taken, made)))
            for one, other in zip(_pixels(x), _pixels(out), strict=True):
                self._picture(space, one, other, bias, residual is not None, np.float32(slope))
            _spare.append(space)
            return out

        def _picture(self, space: Any, x: Any, out: Any, bias: Any, add: bool, slope: np.float32) -> None:
            """Write into `out` (ny, nx, made) what comes of `x` (ny, nx, taken), strip by strip."""
            count, taken, made = -(-x.shape[0] // 2) * -(-x.shape[1] // 2), x.shape[2], out.shape[2]
            most = _STRIP // max(taken, made) | 1
            before, after = torch.from_numpy(space).view(torch.bfloat16)
            for first in range(0, count, most):
                tiles = min(most, count - first)
                _to_sums(x, first, tiles, space[0])
                odd = tiles | 1  # else the 16 sums of a tile fall into the same lines of the cache
                sums = before[: 16 * odd * taken].view(16, odd, taken)
                torch.bmm(sums, self.weight, out=after[: 16 * odd * made].view(16, odd, made))
                _from_sums(space[1], bias, first, tiles, out, add, slope)

    return Winograd


def _space(size: int) -> NDArray[np.uint16]:
    """Return memory (2, size or more); it is new where none is left over, since to have new pages takes long."""
    try:
        space = _spare.pop()  # another thread may have taken the last one
    except IndexError:
        space = np.empty((2, 0), np.uint16)
    return space if space.shape[1] >= size else np.empty((2, size), np.uint16)


def _words(x: Any) -> Any:
    """Return the same memory as whole numbers."""
    return x.view(library().uint16).numpy()


def _pixels(x: Any) -> Any:
    """Return (n, channels, ny, nx), channels last, as (n, ny, nx, channels) of whole numbers, the same memory."""
    return _words(x.permute(0, 2, 3, 1))


def _address(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
    start = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(start, [at]), _SHORT.as_pointer())


def _all(kind: Any, number: float) -> Any:
    return ir.Constant(kind, [number] * LANES)


def _read(builder: Any, address: Any) -> Any:
    """Return LANES float32."""
    words = builder.zext(builder.load(address, align=2), _WORDS)
    return builder.bitcast(builder.shl(words, _all(_WORDS, 16)), _WIDE)


def _write(builder: Any, value: Any, address: Any) -> None:
    """Write LANES float32, rounded to nearest, to even where there are two."""
    words = builder.bitcast(value, _WORDS)
    odd = builder.and_(builder.lshr(words, _all(_WORDS, 16)), _all(_WORDS, 1))
    words = builder.add(words, builder.add(odd, _all(_WORDS, 0x7FFF)))
    builder.store(builder.trunc(builder.lshr(words, _all(_WORDS, 16)), _SHORT), address, align=2)


def _places(builder: Any, at: Any, down: Any, right: Any, rows: int, columns: int) -> list[list[Any]]:
    """Return indices of rows x columns pixels from `at` on."""
    lines = [builder.add(at, builder.mul(down, down.type(i))) for i in range(rows)]
    return [[builder.add(line, builder.mul(right, right.type(j))) for j in range(columns)] for line in lines]


@_operation
def _tile_to_sums(typing: Any, x: Any, at: Any, down: Any, right: Any, sums: Any, to: Any, skew: Any) -> Any:
    """Write the 16 sums of 4 x 4 pixels, at x[at + i down + j right], to sums[to + (4 i + j) skew]: B' d B."""

    def along(b: Any, d: Any) -> list[Any]:
        return [b.fsub(d[0], d[2]), b.fadd(d[1], d[2]), b.fsub(d[2], d[1]), b.fsub(d[1], d[3])]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, at, down, right, sums, to, skew = arguments
        kinds = signature.args
        places = _places(builder, at, down, right, 4, 4)
        pixels = [[_read(builder, _address(context, builder, kinds[0], x, p)) for p in line] for line in places]
        made = zip(*(along(builder, column) for column in zip(*pixels, strict=True)), strict=True)
        targets = _places(builder, to, builder.mul(skew, skew.type(4)), skew, 4, 4)
        for line, target in zip(made, targets, strict=True):
            for value, place in zip(along(builder, line), target, strict=True):
                _write(builder, value, _address(context, builder, kinds[4], sums, place))
        return context.get_dummy_value()

    number = types.intp
    return types.void(x, number, number, number, sums, number, number), generate


@_operation
def _sums_to_tile(
    typing: Any, sums: Any, at: Any, skew: Any, bias: Any, channel: Any, out: Any, to: Any, down: Any, right: Any,
    add: Any, slope: Any,
) -> Any:  # fmt: skip
    """Write 2 x 2 pixels, at out[to + i down + j right], of the 16 sums at sums[at + (4 i + j) skew]: A' m A.

    The bias[channel] comes on top, what is there where `add` says so, and all that is negative times the slope.
    """

    def along(b: Any, m: Any) -> list[Any]:
        return [b.fadd(b.fadd(m[0], m[1]), m[2]), b.fsub(b.fsub(m[1], m[2]), m[3])]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, at, skew, bias, channel, out, to, down, right, add, slope = arguments
        kinds = signature.args
        places = _places(builder, at, builder.mul(skew, skew.type(4)), skew, 4, 4)
        m = [[_read(builder, _address(context, builder, kinds[0], sums, p)) for p in line] for line in places]
        made = zip(*(along(builder, column) for column in zip(*m, strict=True)), strict=True)
        shift = _read(builder, _address(context, builder, kinds[3], bias, channel))
        slopes = builder.insert_element(_all(_WIDE, 0), slope, ir.IntType(32)(0))
        slopes = builder.shuffle_vector(slopes, slopes, _all(_WORDS, 0))
        for line, target in zip(made, _places(builder, to, down, right, 2, 2), strict=True):
            for value, place in zip(along(builder, line), target, strict=True):
                address = _address(context, builder, kinds[5], out, place)
                before = builder.select(add, _read(builder, address), _all(_WIDE, 0))
                value = builder.fadd(builder.fadd(value, shift), before)
                below = builder.fcmp_ordered("<", value, _all(_WIDE, 0))
                _write(builder, builder.select(below, builder.fmul(value, slopes), value), address)
        return context.get_dummy_value()

    n = types.intp
    return types.void(sums, n, n, bias, n, out, n, n, n, types.boolean, types.float32), generate


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _to_sums(x: Any, first: Any, tiles: Any, sums: Any) -> None:
    """Write the sums (16, tiles or one more, channels) of tiles from `first` on of x (ny, nx, channels)."""
    ny, nx, channels = x.shape
    skew = (tiles | 1) * channels
    wide = (nx + 1) // 2
    edge = np.zeros((4, 4, channels), x.dtype)
    for tile in range(tiles):
        top, left = 2 * ((first + tile) // wide) - 1, 2 * ((first + tile) % wide) - 1
        to = tile * channels
        source, at, down = x, (top * nx + left) * channels, nx * channels
        if top < 0 or left < 0 or top + 4 > ny or left + 4 > nx:  # outside there are zeros
            source, at, down = edge, 0, 4 * channels
            edge[:] = 0
            for i in range(max(0, -top), min(4, ny - top)):
                for j in range(max(0, -left), min(4, nx - left)):
                    edge[i, j] = x[top + i, left + j]
        for channel in range(0, channels, LANES):
            _tile_to_sums(source, at + channel, down, channels, sums, to + channel, skew)


@nb.njit(nogil=True, cache=True, error_model="numpy")
def _from_sums(sums: Any, bias: Any, first: Any, tiles: Any, out: Any, add: Any, slope: Any) -> None:
    """Write those tiles of out (ny, nx, channels)."""
    ny, nx, channels = out.shape
    skew = (tiles | 1) * channels
    wide = (nx + 1) // 2
    edge = np.zeros((2, 2, channels), out.dtype)
    for tile in range(tiles):
        top, left = 2 * ((first + tile) // wide), 2 * ((first + tile) % wide)
        at = tile * channels
        target, to, down = out, (top * nx + left) * channels, nx * channels
        high, broad = min(2, ny - top), min(2, nx - left)
        whole = high == 2 and broad == 2
        if not whole:
            target, to, down = edge, 0, 2 * channels
            edge[:high, :broad] = out[top : top + high, left : left + broad]
        for channel in range(0, channels, LANES):
            _sums_to_tile(sums, at + channel, skew, bias, channel, target, to + channel, down, channels, add, slope)
        if not whole:
            out[top : top + high, left : left + broad] = edge[:high, :broad]
