"""What a training is made of: its settings, and the runs of the optimizer that follow from them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec

from probeloop.api import Settings, quantity

from .generators import Kind
from .lamellae import USUAL, Ranges

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_AGAIN = 1000  # number of the baseline's second run, above that of any member
OWN = (  # of the members in turn; half of a member's pictures are drawn from its own
    USUAL,
    Ranges(snr=(4.0, 14.0)),
    Ranges(width=(1.6, 4.0), snr=(10.0, 60.0)),
    Ranges(artefacts=2.0, shares=(0.6, 0.15, 0.1, 0.15)),
    Ranges(width=(0.5, 1.3), snr=(6.0, 30.0), period=0.75),
)


class Training(Settings):
    """What a training is made of.

    kind: what is to be found, walls or columns of atoms. cycles: of the baseline, or of each member from scratch;
    again_cycles: of the baseline after a warm restart (0 = none; Loshchilov and Hutter, ICLR 2017); member_cycles: of
    each member after a baseline; a cycle is one batch, learned from `looks` times, flipped another way each time: for
    where pictures take longer to make than to learn from (Choi et al., arXiv 1907.05550). rate, again_rate,
    member_rate: of AdamW at its highest, then down along a cosine. device: where the networks learn. threads: of
    torch. makers: processes that make pictures; 1 = a thread beside the training. simulated: share of pictures that
    are cut from scans of so many simulated specimens (walls alone). start: a file of weights whose first member a run
    begins with; "" = with random weights. held_out: pictures that the result is calibrated on.
    """

    kind: Kind = "walls"
    filters: Annotated[int, msgspec.Meta(ge=4, le=128)] = 16
    members: Annotated[int, msgspec.Meta(ge=1, le=20)] = 5
    strategy: Literal["from_baseline", "from_scratch", "swag"] = "from_baseline"
    cycles: Count = 2800
    again_cycles: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 9000
    member_cycles: Count = 500
    batch: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    looks: Annotated[int, msgspec.Meta(ge=1, le=4)] = 1
    crop: Annotated[int, msgspec.Meta(ge=32, le=512, multiple_of=4)] = 128
    rate: Annotated[float, quantity("", gt=0, le=0.1)] = 5e-3
    again_rate: Annotated[float, quantity("", gt=0, le=0.1)] = 2.5e-3
    member_rate: Annotated[float, quantity("", gt=0, le=0.1)] = 2e-3
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    simulated: Annotated[float, quantity("", ge=0, le=1)] = 0.12
    specimens: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 30
    start: str = ""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    makers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    held_out: Annotated[int, msgspec.Meta(ge=8, le=10_000)] = 240


QUICK = Training(again_cycles=0, member_cycles=240)


class Stage(msgspec.Struct, frozen=True):
    """A run of the optimizer. number: which; it decides the pictures. own: range of some of them; None = any.

    from_baseline: begins with the weights of the baseline so far. shared: what it ends with is the baseline.
    """

    name: str
    number: int
    cycles: int
    rate: float
    own: Ranges | None = None
    from_baseline: bool = False
    shared: bool = False


def stages(config: Training) -> tuple[Stage, ...]:
    """Return the runs of a training, in order."""
    if config.strategy == "from_scratch":
        return tuple(Stage(f"member {i + 1}", i, config.cycles, config.rate, own_range(i))
                     for i in range(config.members))  # fmt: skip
    shared = [Stage("baseline", 0, config.cycles, config.rate, shared=True)]
    if config.again_cycles:
        again = Stage("baseline again", _AGAIN, config.again_cycles, config.again_rate, None, True, True)
        shared.append(again)
    if config.strategy == "swag":
        return tuple(shared)
    return (*shared, *(Stage(f"member {i + 1}", i + 1, config.member_cycles, config.member_rate, own_range(i), True)
                       for i in range(config.members)))  # fmt: skip


def own_range(member: int) -> Ranges:
    """Return what half of a member's pictures are drawn from."""
    return OWN[member % len(OWN)]


def rate_at(stage: Stage, cycle: int) -> float:
    """Return the learning rate: up within the first twentieth, then down along half a cosine."""
    warm = max(1, stage.cycles // 20)
    if cycle < warm:
        return stage.rate * (cycle + 1) / warm
    return stage.rate * 0.5 * (1 + math.cos(math.pi * (cycle - warm) / max(1, stage.cycles - warm)))
