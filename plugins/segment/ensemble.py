"""An ensemble that stays live: every member stays in memory, in the form that predicts fastest.

Each member may look at the map flipped its own way: what it then gets wrong, it gets wrong elsewhere than the others,
at no cost. Rows stay rows, since a scan is not the same along its lines and across them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from . import doubt, novelty
from .network import bfloat_is_faster, for_inference, library
from .prepare import LEAST, padded, prepared
from .traits import traits
from .weights import SHIPPED, Card, load

Image = NDArray[np.float32]
_STRIP = 512 * 1024  # pixels that the members see at once; a larger map goes through in strips of lines
_WARM = 256  # pixels a side that the networks are warmed up with at most
FLIPS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))  # axes of (n, 1, ny, nx), of the members in turn
_HALO = 64  # lines around a strip that its pixels look at


class Prediction(msgspec.Struct, frozen=True):
    """What an ensemble says of a map, (ny, nx) each.

    mean: probability of wall, over the members. variance: of it, over the members. disagreement: deviation over the
    three scales of the networks. spread: deviation of the members' logits. doubt: probability that the label is
    wrong, NaN where the card was not calibrated. shown: what the networks saw. frame: the frame's score, above 1 it
    is unlike the training pictures. features (k,): what that was made of. each (members, ny, nx): only where asked
    for.
    """

    mean: Image
    variance: Image
    disagreement: Image
    spread: Image
    doubt: Image
    shown: Image
    frame: float
    features: NDArray[np.float64]
    each: Image | None = None


class Ensemble:
    """Networks and their card; `predict` takes a measured map."""

    def __init__(self, members: list[Any], card: Card, device: str = "cpu", bfloat: bool | None = None) -> None:
        self.card, self.device = card, device
        self.bfloat = bfloat_is_faster(device) if bfloat is None else bfloat
        self._warm: set[tuple[int, int]] = set()
        self.networks = [for_inference(member, device, self.bfloat) for member in members]
        self.flips = [FLIPS[i % len(FLIPS)] if card.flipped else () for i in range(len(members))]

    @classmethod
    def live(cls, path: Path, device: str) -> Ensemble:
        """Return the ensemble of a file, or that in memory where it is the same; raises DropInError."""
        try:
            written = path.stat().st_mtime_ns
        except OSError:
            written = 0
        return _live(path, written, device)

    @classmethod
    def from_file(cls, path: Path = SHIPPED, device: str = "cpu") -> Ensemble:
        """Return the ensemble of a file; raises DropInError for one that can't be used."""
        members, card = load(path)
        return cls(members, card, device)

    def warm(self, shape: tuple[int, int]) -> None:
        """Let the networks see a map as large as `shape` (ny, nx), 256 pixels a side at most, once."""
        some = (max(LEAST, min(shape[0], _WARM)), max(LEAST, min(shape[1], _WARM)))
        if some not in self._warm:
            self._passed(padded(np.zeros(some, np.float32)))
            self._warm.add(some)

    def predict(
        self, values: NDArray[np.floating], there: NDArray[np.bool_] | None = None, *, keep_each: bool = False
    ) -> Prediction:
        """Return what the members say of a map (ny, nx); NaN, or where `there` is False = not measured.

        Raises SettingsError for a map that can't be segmented.
        """
        shown = prepared(values, there)
        ny, nx = shown.shape
        lines, parts = max(_HALO, _STRIP // nx // 4 * 4), []
        for top in range(0, ny, lines):
            first, last = max(0, top - _HALO), min(ny, top + lines + _HALO)
            kept = slice(top - first, min(ny, top + lines) - first)
            parts.append(self._passed(padded(shown[first:last]))[:, kept, :nx])
        sums = np.concatenate(parts, axis=1)
        each, disagreement = sums[:-1], sums[-1]
        mean = each.mean(axis=0)
        variance = each.var(axis=0)
        spread = doubt.logit(each).std(axis=0).astype(np.float32)
        features = traits(shown, mean, variance, disagreement)
        frame = novelty.score(features, self.card.familiar)
        doubts = doubt.of_map(shown, mean, spread, disagreement, self.card.threshold, self.card.error, frame)
        return Prediction(mean, variance, disagreement, spread, doubts, shown, frame, features,
                          each if keep_each else None)  # fmt: skip

    def features(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return what the frame's score of a map (ny, nx) is made of, and nothing else. Raises SettingsError."""
        shown = prepared(values)
        ny, nx = shown.shape
        sums = self._passed(padded(shown))[:, :ny, :nx]
        return traits(shown, sums[:-1].mean(axis=0), sums[:-1].var(axis=0), sums[-1])

    def moments(self, shown: Image) -> tuple[Image, Image]:
        """Return mean and variance over the members of what they see, (ny, nx) with sides that are multiples of 4."""
        each = self._passed(shown)[:-1]
        return each.mean(axis=0), each.var(axis=0)

    def _passed(self, shown: Image) -> Image:
        """Return (members + 1, ny, nx): every member's probability, then the disagreement of the scales.

        Where torch has several threads of the processor, as many members go side by side, one thread each, since the
        threads of one network wait for each other at every layer; the members that are left over have all threads.
        """
        torch = library()
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(shown))[None, None].to(self.device)
            x = x.to(torch.bfloat16 if self.bfloat else torch.float32).to(memory_format=torch.channels_last)
        count = len(self.networks)
        threads = torch.get_num_threads() if self.device == "cpu" else 1
        together = count - count % threads if threads > 1 else 0
        calls = [functools.partial(self._said, i, x) for i in range(together)]
        made = _side_by_side(calls, threads) if calls else []
        made += [self._said(i, x) for i in range(together, count)]
        with torch.inference_mode():
            apart = sum(each[1] for each in made) / count
            found: Image = torch.stack([*(each[0] for each in made), apart]).cpu().numpy()
        return found

    def _said(self, member: int, x: Any) -> tuple[Any, Any]:
        """Return a member's probability (ny, nx), and the deviation over its three scales."""
        torch = library()
        network, axes = self.networks[member], self.flips[member]
        with torch.inference_mode():
            try:
                fused, sides = network.with_sides(torch.flip(x, axes) if axes else x)
            except RuntimeError as error:
                if "create a primitive" not in str(error):  # how oneDNN says that there is no memory for its code
                    raise
                raise MemoryError("no memory to run the networks") from None
            if axes:
                fused, sides = torch.flip(fused, axes), torch.flip(sides, axes)
            return torch.sigmoid(fused[0, 0].float()), torch.sigmoid(sides[0].float()).std(dim=0)


def _side_by_side(calls: Sequence[Callable[[], Any]], threads: int) -> list[Any]:
    """Return what the calls return, `threads` of them at a time with one thread of torch each."""
    torch = library()

    def alone(call: Callable[[], Any]) -> Any:
        torch.set_num_threads(1)  # of this thread
        return call()

    with ThreadPoolExecutor(threads, thread_name_prefix="members") as pool:
        made = list(pool.map(alone, calls))
    torch.set_num_threads(threads)  # that threads to come begin with
    return made


@functools.lru_cache(maxsize=1)
def _live(path: Path, written: int, device: str) -> Ensemble:
    del written  # only makes a changed file another key
    return Ensemble.from_file(path, device)
