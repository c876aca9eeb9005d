"""What can be trained on, by the name that a training gives it, and the weights that ship for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .lamellae import lamellae
from .lattices import columns
from .picture import Picture

Kind = Literal["walls", "columns"]
Generator = Callable[[np.random.Generator, int], Picture]
GENERATORS: dict[Kind, Generator] = {"walls": lamellae, "columns": columns}
NAMES: dict[Kind, str] = {"walls": "lamellae", "columns": "lattices"}  # as a card says them


def generator_of(trained: Mapping[str, Any]) -> Generator:
    """Return what makes pictures as those that weights were trained on; trained: of their card."""
    said = trained.get("generator")
    return next((GENERATORS[kind] for kind, name in NAMES.items() if name == said), lamellae)


def weights_at(given: str) -> Path:
    """Return the file that a setting means: the name of shipped weights ("" = walls), or a path."""
    name = given or "walls"
    if name in NAMES:
        return Path(__file__).parent / f"{name}.safetensors"
    return Path(given).expanduser()
