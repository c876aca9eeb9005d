"""Weights of an ensemble in one safetensors file: written whole, read with every check before a network sees them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec

from probeloop.api import DropInError

from .network import build, library
from .novelty import Familiar

FORMAT, VERSION = "probeloop.segment", 2
SHIPPED = Path(__file__).parent / "walls.safetensors"
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save: a zip, or a bare pickle
_NEXT = "train one: probeloop train segment --out walls.safetensors"


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of weights says of itself.

    threshold: from which probability on a pixel is wall; weak: from which on one that is joined to it is (0 = the
    threshold), see `scores.lines`. flipped: each member looks at the map flipped its own way. familiar: what tells
    pictures unlike the training ones, see `novelty`. error (m,): of the logistic error estimate, see `doubt`.
    trained: how, in plain data (seed, cycles, strategy, metrics).
    """

    filters: int
    members: int
    threshold: float = 0.5
    weak: float = 0.0
    flipped: bool = False
    familiar: Familiar | None = None
    error: tuple[float, ...] = ()
    trained: dict[str, Any] = {}


def save(path: Path, members: list[dict[str, Any]], card: Card) -> None:
    """Write the state dictionaries of the members and their card; a file that is there is replaced at the end.

    Learned weights are stored as float16, running statistics of the batch norms as float32. Raises DropInError when
    it can't be written; then the file that is there stays.
    """
    library()
    from safetensors import SafetensorError
    from safetensors.torch import save as packed

    card = msgspec.structs.replace(card, members=len(members))
    told = {"format": FORMAT, "version": str(VERSION), "card": msgspec.json.encode(card).decode()}
    partial = path.with_suffix(".partial")
    try:
        # as readable as any other file is: `save_file` would make it the owner's alone
        partial.write_bytes(packed(_stored(members), told))
        partial.replace(path)
    except (SafetensorError, OSError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise DropInError(f"can't write {path}: {error}", "a file in a folder that can be written") from None


def _stored(members: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the tensors of a file."""
    torch = library()
    tensors = {}
    for i, state in enumerate(members):
        for name, tensor in state.items():
            if name.endswith("num_batches_tracked"):
                continue
            exact = "norm" in name or name.startswith(("sides", "fuse"))
            kind = torch.float32 if exact else torch.float16
            tensors[f"{i}.{name}"] = tensor.detach().to("cpu", kind, copy=True).contiguous()
    return tensors


def as_stored(members: list[dict[str, Any]], card: Card) -> list[Any]:
    """Return the networks that would be read from a file of these state dictionaries."""
    return _networks(_stored(members), msgspec.structs.replace(card, members=len(members)), "what was learned")


def read_card(path: Path) -> Card:
    """Return what a file says of itself, without its weights.

    Raises DropInError, one line with the next move, for a file that is missing, a pickle, corrupt, of another program
    or of another version.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            if head.startswith(_PICKLES):
                raise DropInError(f"{path.name} is a pickle, which can run code when it is read: refused", _NEXT)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or not 2 <= length <= min(size - 8, 10_000_000):
                raise DropInError(f"{path.name} is no safetensors file, or a part of one", _NEXT)
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no object")
    except OSError as error:
        raise DropInError(f"no weights at {path}: {error.strerror}", _NEXT) from None
    except (ValueError, RecursionError) as error:
        raise DropInError(f"{path.name} is corrupt: {error}", _NEXT) from None
    told = header.get("__metadata__")
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise DropInError(f"{path.name} holds no weights of this plug-in", _NEXT)
    if told.get("version") != str(VERSION):
        had = str(told.get("version"))[:20]
        raise DropInError(f"{path.name} has version {had}, this program reads version {VERSION}", _NEXT)
    try:
        card = msgspec.json.decode(str(told.get("card", "")), type=Card)
    except msgspec.MsgspecError as error:
        raise DropInError(f"{path.name} is corrupt: its card is unreadable ({error})", _NEXT) from None
    if not (1 <= card.filters <= 256 and 1 <= card.members <= 100):
        raise DropInError(f"{path.name} is corrupt: {card.members} members of {card.filters} filters", _NEXT)
    return card


def load(path: Path) -> tuple[list[Any], Card]:
    """Return the members as networks in evaluation mode, float32, and their card.

    Raises DropInError as `read_card` does, and for tensors that are missing, of another shape or not finite.
    """
    library()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = read_card(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DropInError(f"{path.name} is corrupt: {error}", _NEXT) from None
    return _networks(tensors, card, path.name), card


def _networks(tensors: dict[str, Any], card: Card, where: str) -> list[Any]:
    """Return the members of these tensors; raises DropInError where one is missing, too many or no number."""
    torch = library()
    members, used = [], 0
    for i in range(card.members):
        network = build(card.filters)
        state = network.state_dict()
        for name, tensor in state.items():
            if name.endswith("num_batches_tracked"):
                continue
            found = tensors.get(f"{i}.{name}")
            if found is None:
                raise DropInError(f"{where} is corrupt: member {i} lacks {name}", _NEXT)
            if found.shape != tensor.shape:
                had, wanted = tuple(found.shape), tuple(tensor.shape)
                raise DropInError(f"{where} is corrupt: {name} of member {i} is {had}, not {wanted}", _NEXT)
            if not found.is_floating_point() or not bool(torch.isfinite(found).all()):
                raise DropInError(f"{where} is corrupt: {name} of member {i} holds what is no number", _NEXT)
            tensor.copy_(found)
            used += 1
        network.load_state_dict(state)
        members.append(network.eval())
    if used != len(tensors):
        raise DropInError(f"{where} is corrupt: {len(tensors) - used} tensors of no member", _NEXT)
    return members
