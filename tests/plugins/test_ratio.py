"""The ratio against the naive numpy line."""

from __future__ import annotations

import math

import numpy as np
import pytest
from probeloop.plugins.ratio import Ratio

from probeloop.data.axes import Channel, StreamSpec
from probeloop.data.errors import SettingsError
from probeloop.testing.streams import block_of, example_specs, frames_of

SORTS = example_specs((3, 4))
FORMS = {
    "ratio": lambda s, r: s / r,
    "contrast": lambda s, r: (s - r) / (s + r),
    "log": lambda s, r: math.log(s / r),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "names", [("a map", "patterns"), ("patterns of reals", "spectra"), ("a map", "a map")], ids=str
)
def test_it_is_the_naive_numpy_line(form: str, names: tuple[str, str]) -> None:
    specs = tuple(SORTS[name] for name in names)
    blocks = tuple(block_of(spec, frames_of(spec, 12, seed)) for seed, spec in enumerate(specs))
    plugin = Ratio(Ratio.Parameters(form=form, floor=0.5))  # type: ignore[arg-type]
    spec = plugin.outputs(specs)["value"]
    made = plugin.process(blocks)["value"]
    naive = [FORMS[form](float(s.sum(dtype="f8")), float(r.sum(dtype="f8"))) for s, r in
             zip(blocks[0].data, blocks[1].data, strict=True)]  # fmt: skip
    assert (made.shape, made.dtype) == ((12, *spec.frame_shape), spec.numpy_dtype)
    np.testing.assert_allclose(made, naive, rtol=1e-6)


@pytest.mark.parametrize(
    ("form", "signal", "reference"),
    [("ratio", 5, 1.9), ("ratio", 5, 0), ("ratio", 0, 0), ("ratio", 5, -3), ("contrast", 1, 0.9), ("contrast", -2, 2),
     ("log", 5, 1.9), ("log", 0, 4), ("log", -1, 4), ("ratio", math.nan, 4), ("log", math.nan, 4)],
)  # fmt: skip
def test_what_can_not_be_told_is_nan(form: str, signal: float, reference: float) -> None:
    spec = SORTS["a map"]
    blocks = tuple(block_of(spec, np.array([each, 8.0], np.float32)) for each in (signal, reference))
    for floor in (2.0, 0.0) if reference <= 0 or math.isnan(signal) else (2.0,):
        made = Ratio(Ratio.Parameters(form=form, floor=floor)).process(blocks)["value"]  # type: ignore[arg-type]
        assert np.isnan(made[0])
        assert np.isfinite(made[1])


@pytest.mark.parametrize("name", ["a complex map", "a map of channels", "table"])
def test_what_is_no_real_number_a_pixel_is_refused_in_words(name: str) -> None:
    spec = SORTS.get(name) or StreamSpec("peaks", "table", fields=(("n", "<i8"),))
    with pytest.raises(SettingsError, match=rf"reference: '{spec.name}' has .*one real number"):
        Ratio().outputs((SORTS["a map"], spec))
    one = StreamSpec("one", "values", "<f4", SORTS["a map"].nav, channels=(Channel("only"),))
    assert set(Ratio().outputs((one, one))) == {"value"}
