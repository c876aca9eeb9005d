"""Every plug-in that ships with probeloop keeps its contract."""

from __future__ import annotations

import pytest

from probeloop import discover
from probeloop.testing.check import check_class

OF_ANOTHER_TEST = ("Plan", "Driver", "Simulator")
LEARNING = dict.fromkeys(("Dkl", "DklOrPca", "PcaGp", "XyGp"), ("torch",))
SEEING = dict.fromkeys(("Segment", "Columns"), ("torch", "safetensors"))
NEEDS = {**SEEING, **LEARNING}  # libraries of an extra
SLOW = ("DklOrPca",)  # of Dkl and PcaGp, which are checked each time
SHIPPED = [e for e in discover.found() if e.origin == "shipped" and e.kind not in OF_ANOTHER_TEST]
CASES = [
    pytest.param(e, id=f"{e.kind}-{e.class_name}", marks=pytest.mark.bench if e.class_name in SLOW else ())
    for e in SHIPPED
]


@pytest.mark.parametrize("drop_in", CASES)
def test_it_keeps_its_contract(drop_in: discover.Found) -> None:
    assert drop_in.error is None
    for library in NEEDS.get(drop_in.class_name, ()):
        pytest.importorskip(library, reason=f"no {library}: pip install 'probeloop[ml]'")
    assert list(check_class(discover.load(drop_in))) == []


def test_there_are_some_of_every_kind_that_ships() -> None:
    assert {"FrameTransform", "JoinTransform", "ScanTransform", "Scalarizer"} <= {each.kind for each in SHIPPED}
