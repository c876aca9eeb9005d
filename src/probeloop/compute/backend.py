"""The one place that decides where arrays live: numpy, or cupy where a plug-in asks for the GPU."""

from __future__ import annotations

from types import ModuleType
from typing import Literal

import numpy

from ..data.errors import DropInError

Device = Literal["cpu", "cuda"]


def array_module(device: Device = "cpu") -> ModuleType:
    """Return numpy, or cupy for "cuda"; raises DropInError, one line, when there is no cupy or no GPU."""
    if device == "cpu":
        return numpy
    try:
        import cupy  # type: ignore[import-not-found,unused-ignore]

        count = cupy.cuda.runtime.getDeviceCount()
    except ImportError as error:
        raise DropInError(
            f"no GPU: {_first_line(error)}", "pip install 'probeloop[cuda]', or run it on the cpu"
        ) from error
    except Exception as error:
        # the CUDA runtime has error types of its own
        raise DropInError(
            f"no GPU: {_first_line(error)}", "nvidia-smi shows what the driver sees; or run it on the cpu"
        ) from error
    if not count:
        raise DropInError(
            "no GPU: the driver sees none", "nvidia-smi shows what the driver sees; or run it on the cpu"
        )
    found: ModuleType = cupy
    return found


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip(" =-")), type(error).__name__)
