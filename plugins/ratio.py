"""One signal over another, pixel by pixel: what both of them share, such as the beam's flicker, drops out.

Dark field over all electrons is the share that was scattered, whatever the emission did in between; two halves of a
detector make a differential phase contrast (Dekkers and de Lang, Optik 41 (1974) 452); the logarithm of all electrons
over the zero-loss ones is the thickness in mean free paths (Malis et al., J. Electron Microsc. Tech. 8 (1988) 193).
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from probeloop.api import FrameBlock, JoinTransform, Outputs, Problem, Settings, SettingsError, StreamSpec, quantity


class Ratio(JoinTransform):
    """Signal over reference at every probe position; of frames and spectra their total counts."""

    inputs = ("signal", "reference")
    may_be_nan = True  # where there is too little to divide by

    class Parameters(Settings):
        """form: signal / reference, contrast (signal - reference) / (signal + reference), or ln(signal / reference).

        floor: no value where the denominator is below it, in its own units.
        """

        form: Literal["ratio", "contrast", "log"] = "ratio"
        floor: Annotated[float, quantity("", ge=0.0, le=1e12)] = 1.0

    def outputs(self, specs: tuple[StreamSpec, ...]) -> dict[str, StreamSpec]:
        """Return `value`, (N,) float32. Raises SettingsError for complex numbers, tables and values of channels."""
        problems = []
        for role, spec in zip(self.inputs, specs, strict=True):
            several = spec.kind == "values" and spec.frame_shape
            if spec.kind not in ("values", "frames", "spectra") or spec.numpy_dtype.kind == "c" or several:
                what = f"{spec.name!r} has {spec.kind} of {spec.numpy_dtype} and shape {spec.frame_shape}"
                problems.append(Problem(role, what, "one real number a pixel, or frames or spectra of them"))
        if problems:
            raise SettingsError(problems)
        return {"value": StreamSpec("value", "values", "<f4")}

    def process(self, blocks: tuple[FrameBlock, ...]) -> Outputs:
        """Return the value of every pixel, NaN where the denominator is below the floor or not above zero."""
        p = self.parameters
        signal, reference = map(_totals, blocks)
        over, under = (signal - reference, signal + reference) if p.form == "contrast" else (signal, reference)
        value = np.full(len(over), np.nan)
        np.divide(over, under, out=value, where=(under >= p.floor) & (under > 0))
        if p.form == "log":
            value[~(value > 0)] = np.nan
            value = np.log(value)
        return {"value": value.astype(np.float32)}


def _totals(block: FrameBlock) -> NDArray[np.float64]:
    return np.asarray(block.data.reshape(block.count, -1).sum(axis=1, dtype=np.float64))
