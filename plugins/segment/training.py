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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from probeloop.api import DropInError

from .batches import Batch, Pictures
from .ensemble import FLIPS
from .network import bfloat_is_faster, build, library
from .schedule import Stage, Training, rate_at, stages
from .weights import load

Say = Callable[[str], None]
_KEEP_S = 30.0  # between checkpoints
_BETAS, _DECAY = (0.9, 0.99), 0.01  # of AdamW: a run is too short for the usual 0.999
_SIDES = 0.25  # weight of the side outputs' loss
_LAST = 30  # cycles whose weights the SWAG-like strategy averages


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

    def run(self) -> list[dict[str, Any]]:
        """Train, from the last checkpoint on where there is one; return the members' state dictionaries."""
        library().set_num_threads(self.config.threads)
        resumed = self._resumed()
        if self._at == len(self.plan):
            return self.members
        library(self.config.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.config.kind == "walls" and self.config.simulated:
            self.say(f"scans {self.config.specimens} simulated specimens")
        with Pictures(self.config) as pictures:
            self._began = time.monotonic()
            while self._at < len(self.plan):
                self._stage(self.plan[self._at], pictures, resumed)
                resumed = None
        return self.members

    def _stage(self, stage: Stage, pictures: Pictures, resumed: dict[str, Any] | None) -> None:
        network, optimizer, moments = self._begun(stage, resumed)
        self._trained(stage, pictures, network, optimizer, moments)
        state = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        if stage.shared:
            self.baseline = state
            if self.config.strategy == "swag" and stage is self.plan[-1]:
                self.members = self._drawn(state, moments)
        else:
            self.members.append(state)
        self._at, self._cycle = self._at + 1, 0
        self._keep(None, None, {})

    def _begun(self, stage: Stage, resumed: dict[str, Any] | None) -> tuple[Any, Any, dict[str, Any]]:
        torch = library()
        torch.manual_seed(self.config.seed * 1000 + stage.number)
        network = build(self.config.filters)
        if self.config.start and not resumed:
            network.load_state_dict(self._first_member(Path(self.config.start)))
        if stage.from_baseline:
            assert self.baseline is not None
            network.load_state_dict(self.baseline)
        device = self.config.device
        network = network.to(device=device, memory_format=torch.channels_last).train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=stage.rate, betas=_BETAS, weight_decay=_DECAY)
        moments: dict[str, Any] = {}
        if resumed:
            network.load_state_dict(_under(resumed, "network."))
            moments = _under(resumed, "moments.")
            for i, parameter in enumerate(network.parameters()):
                optimizer.state[parameter] = {
                    name: resumed[f"optimizer.{i}.{name}"].to("cpu" if name == "step" else device)
                    for name in ("step", "exp_avg", "exp_avg_sq")
                }
        if self.bfloat is None:
            self.bfloat = bfloat_is_faster(device)
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

    def _trained(
        self, stage: Stage, pictures: Pictures, network: Any, optimizer: Any, moments: dict[str, Any]
    ) -> None:
        first = self._cycle
        for cycle, batch in zip(range(first, stage.cycles), pictures.batches(stage, first), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(stage, cycle)
            shown = _on_device(batch, self.config.device)
            value = _step(network, optimizer, shown, bool(self.bfloat))
            for axes in FLIPS[1 : self.config.looks]:
                _step(network, optimizer, [each.flip(axes) for each in shown], bool(self.bfloat))
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
        whole = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
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
        if _what(state["config"]) != _what(msgspec.to_builtins(self.config)):
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


def _on_device(batch: Batch, device: str) -> list[Any]:
    torch = library()
    return [torch.from_numpy(each).to(device) for each in batch]


def _step(network: Any, optimizer: Any, batch: list[Any], bfloat: bool) -> float:
    torch = library()
    shown, wall, weight = batch
    shown = shown.to(memory_format=torch.channels_last)
    with torch.autocast(shown.device.type, torch.bfloat16, enabled=bfloat):
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


def _gather(moments: dict[str, Any], network: Any) -> None:
    torch = library()
    moments["count"] = moments.get("count", torch.zeros(1)) + 1
    for name, parameter in network.named_parameters():
        value = parameter.detach().cpu()
        moments[f"sum.{name}"] = moments.get(f"sum.{name}", torch.zeros_like(value)) + value
        moments[f"square.{name}"] = moments.get(f"square.{name}", torch.zeros_like(value)) + value**2


def _what(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that decide what is learned, and not on what."""
    return {name: value for name, value in config.items() if name not in ("device", "threads", "makers")}


def _under(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
