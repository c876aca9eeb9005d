"""torch, where it is wanted and nowhere else: importing it takes a second and 200 MB."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from probeloop.api import DropInError


def torch_library() -> Any:
    """Return torch; raises DropInError when it isn't installed."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise DropInError(f"no torch ({error})", "pip install 'probeloop[ml]'") from None


@contextlib.contextmanager
def pinned(threads: int = 1) -> Iterator[Any]:
    """Let torch compute in so many threads inside, and as before after it.

    Matrices as small as ours gain nothing from a second one; two threads on two busy cores took 20 times as long.
    """
    torch = torch_library()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield torch
    finally:
        torch.set_num_threads(before)
