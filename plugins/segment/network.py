"""ResHedNet: residual blocks at three scales, whose side outputs are fused into one map of walls.

After Liu, Kelley, Funakubo, Kalinin and Ziatdinov, Adv. Sci. 9 (2022) 2203957; residual blocks from He et al., CVPR
2016; fused side outputs from Xie and Tu, ICCV 2015 (holistically-nested edge detection). Built anew from the
published facts: one channel in, one class out, 64 filters in the published size.
"""

from __future__ import annotations

import copy
import functools
import importlib
from typing import Any

from probeloop.api import DropInError

STRIDE = 4  # the coarsest scale has a pixel for this many of the picture
PUBLISHED = 64
BLOCKS = (3, 4, 5)
SLOPE = 0.01


def build(filters: int = PUBLISHED) -> Any:
    """Return a new network (a torch module `ResHedNet`) with random weights; `torch.manual_seed` decides which.

    Raises DropInError when there is no torch.
    """
    return _classes()[1](filters)


@functools.cache
def _classes() -> tuple[Any, Any]:
    """Return the classes of a block and of the network, made once torch is wanted: it takes seconds to import."""
    torch = library()
    nn, functional = torch.nn, torch.nn.functional
    module: Any = nn.Module

    class ResBlock(module):  # type: ignore[misc]
        """1x1 convolution as the residual, two 3x3 convolutions with batch norm, their sum rectified."""

        def __init__(self, taken: int, made: int) -> None:
            super().__init__()
            self.skip = nn.Conv2d(taken, made, 1)
            self.first = nn.Conv2d(made, made, 3, padding=1)
            self.first_norm: Any = nn.BatchNorm2d(made)
            self.second = nn.Conv2d(made, made, 3, padding=1)
            self.second_norm: Any = nn.BatchNorm2d(made)

        def forward(self, x: Any) -> Any:
            """(n, taken, ny, nx) to (n, made, ny, nx)."""
            residual = self.skip(x)
            x = functional.leaky_relu(self.first_norm(self.first(residual)), SLOPE)
            x = self.second_norm(self.second(x)) + residual
            return functional.leaky_relu(x, SLOPE)

    class ResHedNet(module):  # type: ignore[misc]
        """Three scales of 3, 4 and 5 residual blocks with `filters`, 2 x and 4 x `filters`; side outputs fused."""

        def __init__(self, filters: int = PUBLISHED) -> None:
            super().__init__()
            self.filters = filters
            widths = (1, filters, 2 * filters, 4 * filters)
            self.scales = nn.ModuleList(
                nn.Sequential(*(ResBlock(taken if i == 0 else made, made) for i in range(count)))
                for taken, made, count in zip(widths[:3], widths[1:], BLOCKS, strict=True)
            )
            self.sides = nn.ModuleList(nn.Sequential(nn.Conv2d(made, 1, 1), nn.BatchNorm2d(1)) for made in widths[1:])
            self.fuse = nn.Conv2d(3, 1, 1)

        def forward(self, x: Any) -> Any:
            """(n, 1, ny, nx), ny and nx multiples of 4, to logits (n, 1, ny, nx)."""
            return self.with_sides(x)[0]

        def with_sides(self, x: Any) -> tuple[Any, Any]:
            """Return logits (n, 1, ny, nx) and those of the side outputs (n, 3, ny, nx), finest first."""
            shape, sides = x.shape[-2:], []
            for i, (scale, side) in enumerate(zip(self.scales, self.sides, strict=True)):
                x = scale(x if i == 0 else functional.max_pool2d(x, 2))
                made = side(x)
                if i:
                    made = functional.interpolate(made, size=shape, mode="bilinear", align_corners=False)
                sides.append(made)
            together = torch.cat(sides, dim=1)
            return self.fuse(together), together

    return ResBlock, ResHedNet


def library(device: str = "cpu") -> Any:
    """Return torch; raises DropInError when it isn't installed, or for "cuda" when it sees no GPU."""
    torch = needed("torch", "torch")
    if device != "cpu" and not torch.cuda.is_available():
        raise DropInError(
            f"no GPU that torch {torch.__version__} can use", "nvidia-smi shows what the driver sees; or use the cpu"
        )
    return torch


def needed(module: str, package: str) -> Any:
    """Return a module of an optional package; raises DropInError when it isn't installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DropInError(f"no {package} ({error})", "pip install 'probeloop[ml]'") from None


def count_parameters(network: Any) -> int:
    """Return how many numbers are learned."""
    return sum(p.numel() for p in network.parameters())


def for_inference(network: Any, device: str = "cpu", bfloat: bool = True) -> Any:
    """Return a copy that only predicts: convolutions folded (see `folded`), channels last, bfloat16.

    In bfloat16 on a processor that multiplies it itself, wide 3x3 convolutions multiply less (see `winograd`).
    Raises DropInError where there is no such device.
    """
    torch = library(device)
    from .folded import folded

    fewer = bfloat and device == "cpu" and bfloat_is_faster(device)
    made = copy.deepcopy(network).eval()
    made.scales = torch.nn.ModuleList(
        torch.nn.Sequential(*(folded(block, fewer) for block in scale)) for scale in made.scales
    )
    fold = torch.nn.utils.fusion.fuse_conv_bn_eval
    made.sides = torch.nn.ModuleList(fold(side[0], side[1]) for side in made.sides)
    made = made.to(device=device, memory_format=torch.channels_last)
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made.to(torch.bfloat16) if bfloat else made


def bfloat_is_faster(device: str) -> bool:
    """Return True where the processor multiplies bfloat16 itself: elsewhere it takes longer than float32.

    It goes by what the processor is, not by a measurement, so that the same map gives the same numbers every time.
    """
    if device != "cpu":
        return True
    has = library().cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("sve_bf16") or has.get("arm_bf16"))
