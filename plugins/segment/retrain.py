"""Iterative retraining: an ensemble learns from the pixels of new maps that it is sure of, and must not forget.

After ELIT (Ghosh et al., npj Comput. Mater. 7 (2021) 100): what the ensemble says with confidence of strange maps
becomes their label, and every member is trained a little further on it. Here half of each batch is of the training
generator, the batch norms stay as they are, and the result is kept only when it passes two checks: on held-out
calibration pictures the boundary F1 may drop by less than `DROP`, and on the lines of the maps that were held out the
members must agree more than before. Agreement is not truth: what all members got wrong with confidence they learn,
too. So the operator starts it, is told what came of it, and looks at the walls.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from probeloop.api import DropInError, Problem, Settings, SettingsError, quantity

from .batches import batch_of
from .calibration import calibrated
from .ensemble import Ensemble, Prediction
from .generators import generator_of
from .lamellae import lamellae
from .network import library
from .picture import NEAR, generator, near
from .prepare import fault, logarithm, prepared
from .recorded import LEAST, Chosen, read_maps, recorded
from .schedule import Stage, Training, rate_at
from .scores import Matched, matched, thinned
from .weights import SHIPPED, Card, as_stored, load, save

Map = NDArray[np.float32]
Say = Callable[[str], None]
DROP = 0.02
SURE = 0.15  # probability of a wrong label, up to which a pixel is learned from
_HELD = 4  # of this many lines the last is held out, where there are enough
_ENOUGH = 96  # lines
_FIRST_STAGE = 1000  # of the training seeds: no stage of a training comes so far
_CHECKED = 10**7  # of the calibration seeds: pictures that nothing is set on
_FAMILIAR = 5  # times `frames`, pictures for the frame score
_PIECES, _SIZE = 8, 128  # of a map, and their pixels a side
_WALLS = 0.2  # probability of wall from which on the members' agreement counts
_SAYS_S = 5.0  # between two words on how far it is
_KNOWN = 2  # per cent that are done, from which on what is left is said


class Retraining(Settings):
    """How much is learned. The process keeps to one thread, `memory_mb` beyond what it began with, and `seconds`.

    cycles: batches of each member, half of maps, half of the generator. rate: of Adam at its highest, then down
    along a cosine. frames: calibration pictures that threshold, error estimate and frame score are set on anew.
    checked: those that nothing may be forgotten on.
    """

    cycles: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 180
    rate: Annotated[float, quantity("", gt=0, le=0.01)] = 2e-4
    batch: Annotated[int, msgspec.Meta(ge=2, le=64, multiple_of=2)] = 8
    crop: Annotated[int, msgspec.Meta(ge=32, le=256, multiple_of=4)] = 96
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    frames: Annotated[int, msgspec.Meta(ge=2, le=10_000)] = 120
    checked: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 60
    memory_mb: Annotated[int, msgspec.Meta(ge=64, le=64_000)] = 1000
    seconds: Annotated[float, quantity("s", gt=0, le=86400)] = 3600.0


_OF_A_SESSION = ("topic", "channel", "contrast")
_FIELDS = tuple(Retraining.__struct_fields__)


class Lesson(msgspec.Struct, frozen=True):
    """A map as the networks see it, what is taken for wall, and what a pixel counts, (ny, nx) each.

    first lines, of which the last `held` are kept for the check.
    """

    shown: Map
    wall: Map
    weight: Map
    held: int


class Progress:
    """How far a retraining is: said every few seconds with the time that is left, and ended where it must be.

    alive: whether anybody waits for it. total: work of the whole, in pixels that one network looks at.
    """

    def __init__(self, seconds: float, say: Say, alive: Callable[[], bool]) -> None:
        """Begin to count [s] of which it may take `seconds`."""
        self.say, self._alive = say, alive
        self._began = self._said = time.monotonic()
        self._until = self._began + seconds
        self.total = self._done = 0.0

    def step(self, what: str = "", work: float = 0.0) -> None:
        """Count work that is done. Raises DropInError when nobody waits any more, and when the time is up."""
        now = time.monotonic()
        self._done += work
        if not self._alive():
            raise DropInError("nobody waits for it any more", "start it again")
        if now > self._until:
            raise DropInError("the time is up", "give it more seconds, or fewer cycles")
        if what and now - self._said > _SAYS_S:
            self._said = now
            left = int((now - self._began) * max(0.0, self.total / max(self._done, 1.0) - 1))
            share = min(99, int(100 * self._done / max(self.total, 1.0)))
            known = share >= _KNOWN  # before, the start of the libraries counts too much
            self.say(f"{what}, {left // 60}:{left % 60:02d} left ({share} %)" if known else what)


def run(config: dict[str, Any], out: Path, say: Say) -> dict[str, Any]:
    """Retrain as `config` says: the fields of `Retraining`, and what to learn from.

    on: a file of maps (`beside.write_maps`), or the folder of a session, of which `topic`, `channel` and `contrast`
    are taken as `recorded.recorded` says. start: the weights to begin with; "" = the shipped ones. beside: the
    process that waits for it; then it takes the lowest priority, removes the file of maps once they are read, and
    ends when that process does. Raises SettingsError, DropInError, RecordError.
    """
    given = dict(config)
    on, start = Path(str(given.pop("on"))).expanduser(), Path(str(given.pop("start", "") or SHIPPED)).expanduser()
    topic, channel, contrast, parent = (given.pop(name, "") for name in ("topic", "channel", "contrast", "beside"))
    problems = []
    try:
        settings = msgspec.convert(given, Retraining)
    except msgspec.ValidationError as error:
        problems.append(Problem("retraining", str(error), " | ".join(["on", "start", *_OF_A_SESSION, *_FIELDS])))
    if contrast not in ("", "difference", "ratio"):
        problems.append(Problem("contrast", f"{contrast!r} is none", "difference | ratio"))
    problems += _unwritable(out)
    if problems:
        raise SettingsError(problems)
    if parent:
        os.nice(19)
    chosen = Chosen(read_maps(on)) if on.is_file() else recorded(on, str(topic), str(channel), str(contrast))
    if parent:
        on.unlink(missing_ok=True)
    say(str(chosen))
    library()
    _bounded(settings.memory_mb)
    try:
        maps = chosen.maps
        if "ratio" in (contrast, chosen.contrast):
            maps = [logarithm(each.astype(np.float64), np.isfinite(each)).astype(np.float32) for each in maps]
        return retrain(settings, maps, start, out, say, lambda: not parent or os.getppid() == parent)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise DropInError(
            f"more than {settings.memory_mb} MiB were needed", "a smaller batch or crop, or more memory_mb"
        ) from None


def _unwritable(out: Path) -> list[Problem]:
    """Return why the file can't be written: better told before than after minutes of work. Its folder is made."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [Problem("out", f"no folder {out.parent}: {error.strerror}", "a file in a folder that can be written")]
    if out.is_dir():
        return [Problem("out", f"{out} is a folder", "a file, such as walls-here.safetensors")]
    if not os.access(out.parent, os.W_OK):
        return [Problem("out", f"{out.parent} can't be written", "a file in a folder that can be")]
    return []


def _bounded(megabytes: int) -> None:
    """Let this process allocate `megabytes` [MiB] more than it has now (Linux; elsewhere there is no limit)."""
    try:
        import resource

        lines = Path("/proc/self/status").read_text().splitlines()
        used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = used + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))
    except (ImportError, OSError, StopIteration, ValueError):
        return


def retrain(
    settings: Retraining, maps: list[Map], start: Path, out: Path, say: Say, alive: Callable[[], bool]
) -> dict[str, Any]:
    """Retrain the ensemble of `start` on maps (ny, nx), NaN = not measured; write `out` where it passes the checks.

    Returns kept, text (for the operator), out and the figures. Raises DropInError for weights or maps that can't be
    used, when the time is up, and when `alive` says that nobody waits for it any more.
    """
    torch = library()
    torch.set_num_threads(1)
    progress = Progress(settings.seconds, say, alive)
    members, card = load(start)
    if generator_of(card.trained) is not lamellae:
        raise DropInError(f"{start.name} finds no walls, and only walls are labelled", 'leave retrain = "off"')
    usable = [each for each in maps if min(each.shape) >= LEAST and not fault(each)]
    if not usable:
        raise DropInError("no map to learn from", f"maps of at least {LEAST} x {LEAST} pixels, not constant")
    progress.total = _work(settings, len(members), usable)
    before, lessons = Ensemble(members, card), []
    for each in usable:
        lessons.append(lesson(each, before.predict(each), card))
        progress.step("labels what the members are sure of", len(members) * each.size)
    if not any((each.weight * each.wall).any() for each in lessons):
        raise DropInError("no wall in the maps that the members are sure of", "nothing can be learned from them")
    states = []
    for number, member in enumerate(load(start)[0]):
        states.append(_taught(member, number, len(members), lessons, settings, progress))
    again = as_stored(states, card)
    told = {**card.trained, "retrained": [*card.trained.get("retrained", []), _account(settings, usable)]}
    told_card = msgspec.structs.replace(card, trained=told)
    one = len(members) * _SIZE**2

    def step() -> None:
        progress.step("sets threshold, error estimate and frame score", one)

    made = calibrated(
        again, told_card, settings.seed, settings.frames, _SIZE, pieces(usable, settings.seed),
        familiar=_FAMILIAR, wrong=0.0, step=step,
    )  # fmt: skip
    figures = _compared(before, Ensemble(again, made), usable, lessons, settings, progress)
    lost = figures["f1_before"] - figures["f1_after"]
    kept = lost < DROP and figures["disagreement_after"] < figures["disagreement_before"]
    if kept:
        save(out, [each.state_dict() for each in again], made)
    return {"kept": kept, "text": _told(kept, lost, figures), "out": str(out), **figures}


def _work(settings: Retraining, members: int, maps: list[Map]) -> float:
    """Return about how many pixels a network looks at; a pixel that is learned from costs three times as much."""
    taught = 3.0 * settings.cycles * settings.batch * settings.crop**2
    pictures = (_FAMILIAR * settings.frames + _PIECES * len(maps) + 2 * settings.checked) * _SIZE**2
    return members * (taught + pictures + 3.0 * sum(each.size for each in maps))


def lesson(values: Map, made: Prediction, card: Card) -> Lesson:
    """Return what is learned from a map (ny, nx), of what the ensemble `made` of it.

    Walls are what training calls so: pixels within NEAR of the thinned line. A pixel counts where the members' label
    is likely right, and where it was measured.
    """
    there = np.isfinite(values)
    sure = (made.doubt <= SURE) & there
    found = made.mean >= card.threshold
    wall = near(thinned(found), NEAR)
    same = np.where(found, near(wall, 1.0), ~wall)  # thinned and as it is: where these differ nothing is known
    weight = sure & same
    lines = len(values)
    held = lines // _HELD if lines >= _ENOUGH else 0
    return Lesson(prepared(values, there), wall.astype(np.float32), weight.astype(np.float32), held)


def crops(lessons: list[Lesson], count: int, size: int, rng: np.random.Generator) -> tuple[Map, ...]:
    """Return pieces of the maps, mirrored by chance: shown, wall, weight, (count, 1, size, size) each."""
    made: list[list[Map]] = [[], [], []]
    for _ in range(count):
        one = lessons[int(rng.integers(len(lessons)))]
        ny, nx = one.shown.shape[0] - one.held, one.shown.shape[1]
        top, left = int(rng.integers(0, max(1, ny - size + 1))), int(rng.integers(0, max(1, nx - size + 1)))
        flip = (slice(None, None, int(rng.choice([1, -1]))), slice(None, None, int(rng.choice([1, -1]))))
        for kept, each in zip(made, (one.shown, one.wall, one.weight), strict=True):
            piece = each[top : min(ny, top + size), left : left + size]
            missing = [(0, size - length) for length in piece.shape]
            kept.append(np.pad(piece, missing)[flip])  # what is added counts nothing
    return tuple(np.stack(each)[:, None] for each in made)


def pieces(maps: list[Map], seed: int) -> list[Map]:
    """Return pieces of maps as large as the pictures of a calibration, which are familiar from now on."""
    rng, made = np.random.default_rng(seed), []
    for each in maps:
        ny, nx = each.shape
        for _ in range(_PIECES if max(ny, nx) > _SIZE else 1):
            top, left = (int(rng.integers(0, max(1, length - _SIZE + 1))) for length in (ny, nx))
            piece = each[top : top + _SIZE, left : left + _SIZE]
            if not fault(piece):
                made.append(piece)
    return made


def _taught(
    member: Any, number: int, count: int, lessons: list[Lesson], settings: Retraining, progress: Progress
) -> Any:
    """Return the state of member `number` of `count` after its cycles; batch norms keep their statistics."""
    torch = library()
    network = member.eval().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.rate)
    half = settings.batch // 2
    rng = np.random.default_rng([settings.seed, number])
    stage = Stage("", number, settings.cycles, settings.rate)
    for cycle, known in enumerate(_known(settings, number, half)):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(stage, cycle)
        pairs = zip(known, crops(lessons, half, settings.crop, rng), strict=True)
        shown, wall, weight = (torch.from_numpy(np.concatenate(pair)) for pair in pairs)
        logits = network(shown.to(memory_format=torch.channels_last))
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, wall, reduction="none")
        loss = (each * weight).sum() / weight.sum().clamp(min=1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        done = f"member {number + 1} of {count}: {cycle + 1}/{settings.cycles}"
        progress.step(done, 3.0 * settings.batch * settings.crop**2)
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _known(settings: Retraining, number: int, count: int) -> Iterator[tuple[Map, ...]]:
    """Yield batches of the generator, of training seeds that no training has used."""
    config = Training(batch=count, crop=settings.crop, seed=settings.seed)
    stage = Stage("again", _FIRST_STAGE + number, settings.cycles, settings.rate)
    for cycle in range(settings.cycles):
        yield batch_of(config, stage, cycle, [])


def _compared(
    before: Ensemble,
    after: Ensemble,
    maps: list[Map],
    lessons: list[Lesson],
    settings: Retraining,
    progress: Progress,
) -> dict[str, float]:
    """Return boundary F1 on held-out pictures and disagreement on held-out lines, before and after."""
    figures: dict[str, float] = {}
    for name, ensemble in (("before", before), ("after", after)):
        total = Matched()
        for i in range(settings.checked):
            picture = lamellae(generator("calibration", settings.seed, _CHECKED + i), _SIZE)
            card = ensemble.card
            total += matched(ensemble.predict(picture.values).mean, picture, card.threshold, card.weak)
            progress.step("checks what was not forgotten", len(ensemble.networks) * _SIZE**2)
        figures[f"f1_{name}"] = round(total.f1, 4)
    asked: list[NDArray[np.bool_]] = []
    apart: dict[str, list[Map]] = {"before": [], "after": []}
    for values, one in zip(maps, lessons, strict=True):
        last = slice(len(values) - one.held, None) if one.held else slice(None)
        made = {"before": before.predict(values), "after": after.predict(values)}
        asked.append(((made["before"].mean > _WALLS) | (made["after"].mean > _WALLS))[last])
        for name, each in made.items():
            apart[name].append(each.variance[last])
        progress.step("checks what was learned", 2.0 * len(before.networks) * values.size)
    for name, parts in apart.items():
        where = [part[mask] for part, mask in zip(parts, asked, strict=True)]
        figures[f"disagreement_{name}"] = float(np.sqrt(np.concatenate(where).mean())) if where else 0.0
    return figures


def _told(kept: bool, lost: float, figures: dict[str, float]) -> str:
    apart = f"{figures['disagreement_before']:.3f} before, {figures['disagreement_after']:.3f} now"
    f1 = f"F1 on familiar pictures {figures['f1_before']:.3f} before, {figures['f1_after']:.3f} now"
    if kept:
        return f"the networks were retrained on these maps and replaced (disagreement at walls {apart}; {f1})"
    if lost >= DROP:
        return f"it forgot what it knew ({f1})"
    return f"the members agree no more than before on these maps ({apart})"


def _account(settings: Retraining, maps: list[Map]) -> dict[str, Any]:
    return {"cycles": settings.cycles, "rate": settings.rate, "seed": settings.seed,
            "maps": [list(each.shape) for each in maps]}  # fmt: skip
