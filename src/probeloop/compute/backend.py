"""The one place that decides where arrays live: numpy, or cupy where a plug-in asks for the GPU."""

from __future__ import annotations

from types import ModuleType
from typing import Literal

import numpy

from ..data.errors import DropInError


def array_module(device: Literal["cpu", "cuda"] = "cpu") -> ModuleType:
    """Return numpy, or cupy for "cuda"; raises DropInError when there is no cupy or no GPU."""
    if device == "cpu":
        return numpy
    try:
        import cupy  # type: ignore[import-not-found,unused-ignore]

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        # the CUDA runtime has error types of its own
        raise DropInError(
            f"no GPU for this plug-in: {error}", "pip install probeloop[cuda], or run it on the cpu"
        ) from error
    found: ModuleType = cupy
    return found
