"""A residual block that only predicts: what is linear one after the other is done at once, sums are made in place.

The batch norms go into the convolutions before them. The first block of a scale makes more channels than it takes:
its 3x3 convolution follows the 1x1 one with nothing between, so both are one 3x3 convolution of the channels that
come in, half as many (or a single one) to multiply. The 1x1 bias is not there outside the picture, where the 3x3
convolution sees zeros; at the edges its share is taken out again.
"""

from __future__ import annotations

import functools
from typing import Any

from .network import SLOPE, library
from .winograd import suits, winograd


def folded(block: Any, fewer: bool = False) -> Any:
    """Return a module that predicts as a `ResBlock` in evaluation mode does, to rounding.

    fewer: its 3x3 convolutions multiply less where they have channels enough, see `winograd`; then in bfloat16 only.
    """
    return _class()(block, fewer)


@functools.cache
def _class() -> Any:
    torch = library()
    nn, functional = torch.nn, torch.nn.functional
    module: Any = nn.Module
    fold = nn.utils.fusion.fuse_conv_bn_eval

    class Direct(module):  # type: ignore[misc]
        """A convolution as torch does it, called as that of `winograd` is."""

        def __init__(self, convolution: Any) -> None:
            super().__init__()
            self.convolution = convolution

        def forward(self, x: Any, residual: Any = None, slope: float = 1.0) -> Any:
            """(n, taken, ny, nx) to (n, made, ny, nx); slope 1: not rectified."""
            made = self.convolution(x)
            if residual is not None:
                made.add_(residual)
            return made if slope == 1 else functional.leaky_relu_(made, slope)

    class Folded(module):  # type: ignore[misc]
        """skip: the residual. first, second: 3x3 convolutions. at_once: `first` takes what `skip` takes."""

        def __init__(self, block: Any, fewer: bool) -> None:
            super().__init__()
            self.skip: Any = block.skip
            self.first: Any = fold(block.first, block.first_norm)
            self.second: Any = fold(block.second, block.second_norm)
            self.at_once = block.skip.in_channels < block.skip.out_channels
            if self.at_once:
                self.first, taps = _together(self.skip, self.first)
                self.register_buffer("rows", taps[:, ::2].sum(dim=2)[:, :, None])  # (made, 2, 1): first and last
                self.register_buffer("columns", taps[:, :, ::2].sum(dim=1)[:, None, :])
                self.register_buffer("corners", taps[:, ::2, ::2])
            self.first = winograd(self.first) if fewer and suits(self.first) else Direct(self.first)
            self.second = winograd(self.second) if fewer and suits(self.second) else Direct(self.second)

        def forward(self, x: Any) -> Any:
            """(n, taken, ny, nx) to (n, made, ny, nx); ny and nx at least 2."""
            residual = self.skip(x)
            if self.at_once:
                made = self.first(x)
                ny, nx = made.shape[-2:]
                made[:, :, :: ny - 1] -= self.rows
                made[:, :, :, :: nx - 1] -= self.columns
                made[:, :, :: ny - 1, :: nx - 1] += self.corners  # they were taken out twice
                made = functional.leaky_relu_(made, SLOPE)
            else:
                made = self.first(residual, slope=SLOPE)
            return self.second(made, residual, SLOPE)

    return Folded


def _together(skip: Any, first: Any) -> tuple[Any, Any]:
    """Return a 3x3 convolution that does both, and what the bias of `skip` gives through each tap, (made, 3, 3)."""
    torch = library()
    both = torch.nn.utils.skip_init(torch.nn.Conv2d, skip.in_channels, first.out_channels, 3, padding=1)
    with torch.no_grad():
        taps = torch.einsum("omyx,m->oyx", first.weight, skip.bias)
        both.weight.copy_(torch.einsum("omyx,mi->oiyx", first.weight, skip.weight[:, :, 0, 0]))
        both.bias.copy_(first.bias + taps.sum(dim=(1, 2)))
    return both, taps
