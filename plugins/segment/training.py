"""Training of an ensemble: a baseline and members of it, or members from scratch, or samples around one (SWAG-like).

The strategies are those of the published work (see `network`): members from scratch differ in seed and in the order
of pictures; members of a baseline go on from its weights, each on pictures of its own; SWAG-like ones are drawn from
a normal distribution with mean and deviation of the last weights of one run (Maddox et al., NeurIPS 2019, diagonal
part). Half of a member's pictures come out of a range of its own (`OWN`: noisier, broader, sharper, more disturbed),
so that not all err alike. Pictures are made as they are needed, out of the training range of seeds, and a picture is
never seen twice; a share of them are cuts of scans by the simulated scanning probe, with noise drawn anew
(`specimens`). A run that was killed goes on at its last checkpoint, on the same pictures.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import DropInError, Settings, quantity

from .generators import GENERATORS, Kind
from .lamellae import USUAL, Ranges, lamellae
from .network import bfloat_is_faster, build, library
from .picture import Picture, generator, near
from .prepare import prepared
from .specimens import Field, cut, fields
from .weights import load

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Say = Callable[[str], None]
_KEEP_S = 30.0  # between checkpoints
_UNSURE = 2.5  # pixels around a wall that noise hides, which count little
_LITTLE = 0.3
_BETAS, _DECAY = (0.9, 0.99), 0.01  # of AdamW: a run is too short for the usual 0.999
_SIDES = 0.25  # weight of the side outputs' loss
_LAST = 30  # cycles whose weights the SWAG-like strategy averages
_AGAIN = 1000  # number of the baseline's second run, above that of any member
_EACH = 6  # scans of every simulated specimen
OWN = (  # of the members in turn; half of a member's pictures are drawn from its own
    USUAL,
    Ranges(snr=(4.0, 14.0)),
    Ranges(width=(1.6, 4.0), snr=(10.0, 60.0)),
    Ranges(artefacts=2.0, shares=(0.6, 0.15, 0.1, 0.15)),
    Ranges(width=(0.5, 1.3), snr=(6.0, 30.0), period=0.75),
)
_OWN_SHARE, _ALL_SHARE = 0.5, 0.2  # of a member's pictures from its own range; of a baseline's from any of them


class Training(Settings):
    """What a training is made of.

    kind: what is to be found, walls or columns of atoms. cycles: of the baseline, or of each member from scratch;
    again_cycles: of the baseline after a warm restart (0 = none; Loshchilov and Hutter, ICLR 2017); member_cycles: of
    each member after a baseline; a cycle is one batch. rate, again_rate, member_rate: of AdamW at its highest, then
    down along a cosine. threads: of torch; pictures are made in one more. simulated: share of pictures that are cut
    from scans of so many simulated specimens (walls alone). start: a file of weights whose first member a run begins
    with; "" = with random weights. held_out: pictures that the result is calibrated on.
    """

    kind: Kind = "walls"
    filters: Annotated[int, msgspec.Meta(ge=4, le=128)] = 16
    members: Annotated[int, msgspec.Meta(ge=1, le=20)] = 5
    strategy: Literal["from_baseline", "from_scratch", "swag"] = "from_baseline"
    cycles: Count = 2800
    again_cycles: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 9000
    member_cycles: Count = 500
    batch: Annotated[int, msgspec.Meta(ge=1, le=256)] = 4
    crop: Annotated[int, msgspec.Meta(ge=32, le=512, multiple_of=4)] = 128
    rate: Annotated[float, quantity("", gt=0, le=0.1)] = 5e-3
    again_rate: Annotated[float, quantity("", gt=0, le=0.1)] = 2.5e-3
    member_rate: Annotated[float, quantity("", gt=0, le=0.1)] = 2e-3
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    simulated: Annotated[float, quantity("", ge=0, le=1)] = 0.12
    specimens: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 30
    start: str = ""
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
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


def simulated(config: Training) -> list[Field]:
    """Return the scans of the simulated specimens that pictures are cut from."""
    return fields("training", config.seed, config.specimens, _EACH, config.crop)


def picture_of(rng: np.random.Generator, config: Training, own: Ranges | None, known: list[Field]) -> Picture:
    """Return a picture for training. known: `simulated` scans."""
    if config.kind != "walls":
        return GENERATORS[config.kind](rng, config.crop)
    chance = rng.random()
    if known and chance < config.simulated:
        return cut(rng, known, config.crop)
    ranges = USUAL
    if rng.random() < (_ALL_SHARE if own is None else _OWN_SHARE):
        ranges = own or OWN[int(rng.integers(len(OWN)))]
    return lamellae(rng, config.crop, ranges=ranges)


def batch_of(config: Training, stage: Stage, cycle: int, known: list[Field]) -> tuple[NDArray[np.float32], ...]:
    """Return the pictures as the network sees them, what is wall, and what a pixel counts: (n, 1, ny, nx) each."""
    shown, wall, weight = [], [], []
    for i in range(config.batch):
        rng = generator("training", config.seed, (stage.number << 40) + cycle * config.batch + i)
        picture = picture_of(rng, config, stage.own, known)
        turn = (slice(None, None, int(rng.choice([1, -1]))), slice(None, None, int(rng.choice([1, -1]))))
        shown.append(prepared(picture.values)[turn])
        wall.append(picture.wall[turn])
        hidden = near(picture.unseen, _UNSURE) & ~picture.wall
        weight.append(np.where(hidden, _LITTLE, 1.0)[turn])
    return tuple(np.stack(each)[:, None].astype(np.float32) for each in (shown, wall, weight))


class Trainer:
    """Runs the stages of a training with checkpoints in `folder`; `members` are the state dictionaries at the end."""

    def __init__(self, config: Training, folder: Path, say: Say) -> None:
        self.config, self.folder, self.say = config, folder, say
        self.plan = stages(config)
        self.total = sum(stage.cycles for stage in self.plan)
        self.losses: list[list[float]] = [[] for _ in self.plan]
        self.members: list[dict[str, Any]] = []
        self.baseline: dict[str, Any] | None = None
        self._at, self._cycle, self._spent = 0, 0, 0.0
        self._began = self._kept = self._said = time.monotonic()
        self._done_before = 0
        self.bfloat: bool | None = None
        self._known: list[Field] = []

    def run(self) -> list[dict[str, Any]]:
        """Train, from the last checkpoint on where there is one; return the members' state dictionaries."""
        torch = library()
        torch.set_num_threads(self.config.threads)
        self.folder.mkdir(parents=True, exist_ok=True)
        resumed = self._resumed()
        if self._at < len(self.plan) and self.config.kind == "walls" and self.config.simulated:
            self.say(f"scans {self.config.specimens} simulated specimens")
            self._known = simulated(self.config)
            self._began = time.monotonic()
        while self._at < len(self.plan):
            stage = self.plan[self._at]
            network, optimizer, moments = self._begun(stage, resumed)
            resumed = None
            self._trained(stage, network, optimizer, moments)
            state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
            if stage.shared:
                self.baseline = state
                if self.config.strategy == "swag" and stage is self.plan[-1]:
                    self.members = self._drawn(state, moments)
            else:
                self.members.append(state)
            self._at, self._cycle = self._at + 1, 0
            self._keep(None, None, {})
        return self.members

    def _begun(self, stage: Stage, resumed: dict[str, Any] | None) -> tuple[Any, Any, dict[str, Any]]:
        torch = library()
        torch.manual_seed(self.config.seed * 1000 + stage.number)
        network = build(self.config.filters)
        if self.config.start and not resumed:
            network.load_state_dict(self._first_member(Path(self.config.start)))
        if stage.from_baseline:
            assert self.baseline is not None
            network.load_state_dict(self.baseline)
        network = network.to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=stage.rate, betas=_BETAS, weight_decay=_DECAY)
        moments: dict[str, Any] = {}
        if resumed:
            network.load_state_dict(_under(resumed, "network."))
            moments = _under(resumed, "moments.")
            for i, parameter in enumerate(network.parameters()):
                optimizer.state[parameter] = {
                    name: resumed[f"optimizer.{i}.{name}"] for name in ("step", "exp_avg", "exp_avg_sq")
                }
        if self.bfloat is None:
            self.bfloat = bfloat_is_faster("cpu")
        return network, optimizer, moments

    def _first_member(self, path: Path) -> dict[str, Any]:
        members, card = load(path.expanduser())
        if card.filters != self.config.filters:
            raise DropInError(
                f"{path.name} has {card.filters} filters, the training {self.config.filters}",
                "set filters to the same",
            )
        state: dict[str, Any] = members[0].state_dict()
        return state

    def _trained(self, stage: Stage, network: Any, optimizer: Any, moments: dict[str, Any]) -> None:
        first = self._cycle
        for cycle, (shown, wall, weight) in zip(
            range(first, stage.cycles), _ahead(self.config, stage, self._known, first), strict=True
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(stage, cycle)
            value = _step(network, optimizer, shown, wall, weight, bool(self.bfloat))
            if not math.isfinite(value):
                raise DropInError(f"the loss of {stage.name} is no number at cycle {cycle}", "lower the rate")
            self.losses[self._at].append(value)
            self._cycle = cycle + 1
            if self.config.strategy == "swag" and stage is self.plan[-1] and stage.cycles - cycle <= _LAST:
                _gather(moments, network)
            now = time.monotonic()
            if now - self._kept > _KEEP_S:
                self._keep(network, optimizer, moments)
            if now - self._said > 5.0 or self._cycle == stage.cycles:
                self._progress(stage, now)

    def _progress(self, stage: Stage, now: float) -> None:
        self._said = now
        done = sum(map(len, self.losses))
        per_cycle = (now - self._began) / max(done - self._done_before, 1)
        left = int(per_cycle * (self.total - done))
        recent = float(np.mean(self.losses[self._at][-20:]))
        self.say(f"{stage.name}: {self._cycle}/{stage.cycles}, loss {recent:.4f}, "
                 f"{left // 60}:{left % 60:02d} left ({100 * done // self.total} %)")  # fmt: skip

    def _drawn(self, state: dict[str, Any], moments: dict[str, Any]) -> list[dict[str, Any]]:
        """Return members drawn around the mean of the last weights; running statistics are copied."""
        torch = library()
        chance, made = torch.Generator().manual_seed(self.config.seed), []
        count = moments["count"]
        for _ in range(self.config.members):
            member = dict(state)
            for name in _under(moments, "sum."):
                mean = moments[f"sum.{name}"] / count
                spread = (moments[f"square.{name}"] / count - mean**2).clamp(min=0).sqrt()
                member[name] = mean + spread * torch.randn(mean.shape, generator=chance)
            made.append(member)
        return made

    # --- checkpoints: one file, so that it is whole or not there ---

    @property
    def _file(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _keep(self, network: Any, optimizer: Any, moments: dict[str, Any]) -> None:
        from safetensors.torch import save as packed

        self._kept = time.monotonic()
        tensors: dict[str, Any] = {}
        if network is not None:
            tensors |= {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
            for i, parameter in enumerate(network.parameters()):
                tensors |= {f"optimizer.{i}.{k}": v for k, v in optimizer.state[parameter].items()}
            tensors |= {f"moments.{name}": tensor for name, tensor in moments.items()}
        if self.baseline is not None:
            tensors |= {f"baseline.{name}": tensor for name, tensor in self.baseline.items()}
        for i, member in enumerate(self.members):
            tensors |= {f"member.{i}.{name}": tensor for name, tensor in member.items()}
        state = {"config": msgspec.to_builtins(self.config), "at": self._at, "cycle": self._cycle,
                 "losses": self.losses, "bfloat": self.bfloat}  # fmt: skip
        partial = self._file.with_suffix(".partial")
        whole = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
        partial.write_bytes(packed(whole, {"state": json.dumps(state)}))
        partial.replace(self._file)

    def _resumed(self) -> dict[str, Any] | None:
        """Take up a checkpoint; return its tensors, or None where there is none, or it is of another training."""
        from safetensors import SafetensorError, safe_open

        if not self._file.exists():
            return None
        try:
            with safe_open(self._file, "pt") as file:
                state = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise DropInError(f"{self._file} is corrupt: {error}", "delete it to begin anew") from None
        if state["config"] != msgspec.to_builtins(self.config):
            raise DropInError(
                f"{self._file} is of a training with other settings", "delete it, or give another --out"
            )
        self._at, self._cycle, self.losses, self.bfloat = (state[k] for k in ("at", "cycle", "losses", "bfloat"))
        self.losses[self._at :] = [each[: self._cycle if i == 0 else 0] for i, each in
                                   enumerate(self.losses[self._at :])]  # fmt: skip
        self.baseline = _under(tensors, "baseline.") or None
        count = len({name.split(".")[1] for name in tensors if name.startswith("member.")})
        self.members = [_under(tensors, f"member.{i}.") for i in range(count)]
        self._done_before = sum(map(len, self.losses))
        if self._at < len(self.plan):
            self.say(f"goes on at {self.plan[self._at].name}, cycle {self._cycle}")
        return tensors if self._cycle else None


def rate_at(stage: Stage, cycle: int) -> float:
    """Return the learning rate: up within the first twentieth, then down along half a cosine."""
    warm = max(1, stage.cycles // 20)
    if cycle < warm:
        return stage.rate * (cycle + 1) / warm
    return stage.rate * 0.5 * (1 + math.cos(math.pi * (cycle - warm) / max(1, stage.cycles - warm)))


def _step(network: Any, optimizer: Any, shown: Any, wall: Any, weight: Any, bfloat: bool) -> float:
    torch = library()
    shown, wall, weight = (torch.from_numpy(each) for each in (shown, wall, weight))
    shown = shown.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat):
        fused, sides = network.with_sides(shown)
    count = weight.sum().clamp(min=1)

    def loss(logits: Any) -> Any:
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            logits.float(), wall.expand_as(logits), reduction="none"
        )
        return (each * weight).sum() / (count * logits.shape[1])

    main = loss(fused)
    optimizer.zero_grad(set_to_none=True)
    (main + _SIDES * loss(sides)).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return float(main.detach())


def _ahead(
    config: Training, stage: Stage, known: list[Field], first: int
) -> Iterator[tuple[NDArray[np.float32], ...]]:
    """Yield the batches of a stage; the next ones are made in another thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="pictures") as pool:
        waiting: list[Future[tuple[NDArray[np.float32], ...]]] = []
        try:
            for cycle in range(first, stage.cycles):
                while len(waiting) < 3 and cycle + len(waiting) < stage.cycles:
                    waiting.append(pool.submit(batch_of, config, stage, cycle + len(waiting), known))
                yield waiting.pop(0).result()
        finally:
            for each in waiting:
                each.cancel()


def _gather(moments: dict[str, Any], network: Any) -> None:
    torch = library()
    moments["count"] = moments.get("count", torch.zeros(1)) + 1
    for name, parameter in network.named_parameters():
        value = parameter.detach()
        moments[f"sum.{name}"] = moments.get(f"sum.{name}", torch.zeros_like(value)) + value
        moments[f"square.{name}"] = moments.get(f"square.{name}", torch.zeros_like(value)) + value**2


def _under(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
