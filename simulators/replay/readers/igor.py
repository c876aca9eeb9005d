"""Igor binary waves of Asylum microscopes: (x, y, channel), places in the wave's own scaling."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from probeloop.api import SourceError

from ..measured import Measured, little, phase_in_radian, spm_channel

_UNITS = {"height": "m", "amplitude": "m", "deflection": "m", "zsensor": "m", "frequency": "Hz", "phase": "rad"}


def read(path: Path) -> list[Measured]:
    """Read the channels of a scan as one map; raises SourceError."""
    import igor2.binarywave

    wave = igor2.binarywave.load(str(path))["wave"]
    data = np.asarray(wave["wData"])
    if data.ndim not in (2, 3):
        raise SourceError(f"{path.name} is a wave of shape {data.shape}, not a map", "give an image wave")
    data = data if data.ndim == 3 else data[..., None]
    names = [label.decode("latin1") for label in wave["labels"][2] if label] if len(wave["labels"]) > 2 else []
    names = [*names, *(f"channel{i}" for i in range(len(names), data.shape[2]))][: data.shape[2]]
    layers = [phase_in_radian(name, data[:, :, i].T) for i, name in enumerate(names)]
    units = [next((u for word, u in _UNITS.items() if word in name.lower()), "") for name in names]
    scale, start = np.asarray(wave["wave_header"]["sfA"], float), np.asarray(wave["wave_header"]["sfB"], float)
    metres = all(bytes(wave["wave_header"]["dimUnits"][i][0]) == b"m" for i in (0, 1))
    step = (float(scale[0]), float(scale[1])) if metres and min(scale[:2]) > 0 else None
    channels = tuple(spm_channel(name, unit) for name, unit in zip(names, units, strict=True))
    stack = little(np.stack(layers, axis=-1))
    return [Measured(path.stem, "maps", stack, step, (float(start[0]), float(start[1])), channels)]
