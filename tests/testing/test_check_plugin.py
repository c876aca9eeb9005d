"""The checks fail on every bad drop-in, each with the words that name its fault, and pass a good one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from probeloop.data.axes import StreamSpec
from probeloop.discover import load_path
from probeloop.plugin.contract import FrameTransform, JoinTransform, Scalarizer, ScanTransform
from probeloop.testing.check import check, check_here
from probeloop.testing.check_plugin import check_plugin
from probeloop.testing.check_scalarizer import check_scalarizer
from probeloop.testing.streams import poison, scan_blocks

BAD = Path(__file__).parent / "bad"

FAULTS = {
    "wrong_shape": "shape",
    "wrong_dtype": "dtype",
    "not_a_number": "NaN",
    "keeps_view": "keeps a view",
    "returns_view": "is a view of block.data",
    "mutates_input": "changes block.data",
    "crashes": "ZeroDivisionError",
    "undeclared": "extra",
    "random_results": "other results for the same frames",
    "endless_range": "two finite bounds",
    "flood": "rows",
    "keeps_map": "keeps a view",
    "join_keeps_second": "keeps a view",
    "join_mutates_second": "changes block.data",
    "join_returns_view": "is a view of block.data",
    "join_of_one": "its inputs are ('signal',): name at least two",
    "says_valid": "says that nan is valid",
    "wrong_answer": "not (value, sigma, valid)",
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_drop_in_is_named_with_its_fault(name: str) -> None:
    faults = check_here(BAD / f"{name}.py")
    assert faults
    assert any(FAULTS[name] in fault for fault in faults), faults


def test_a_hang_is_found_within_its_limit() -> None:
    (cls,) = load_path(BAD / "hangs.py")
    assert "takes longer than 0.2 s" in check_plugin(cls, limit_s=0.2, first_s=0.2)[0]


def test_a_drop_in_that_ends_its_process_is_found_from_outside() -> None:
    (fault,) = check(BAD / "exits.py")
    assert "ends the process" in fault
    assert "code 7" in fault
    assert check(BAD / "wrong_shape.py")


def test_what_is_no_drop_in_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "nothing.py").write_text("x = 1\n")
    assert "no public class" in check_here(tmp_path / "nothing.py")[0]
    (tmp_path / "broken.py").write_text("x = (\n")
    assert "line 1" in check_here(tmp_path / "broken.py")[0]


class Sum(FrameTransform):
    """Sum of every frame."""

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        return {"sum": StreamSpec("sum", "values", "<f8")}

    def process(self, block):  # type: ignore[no-untyped-def]
        return {"sum": np.abs(block.data).reshape(block.count, -1).sum(axis=1).astype(np.float64)}


class Covered(ScanTransform):
    """Number of cells so far, from blocks."""

    takes = "blocks"
    cells = 0

    def outputs(self, spec: StreamSpec) -> dict[str, StreamSpec]:
        return {"cells": StreamSpec("cells", "table", fields=(("n", "<i8"),))}

    def begin(self, spec: StreamSpec) -> None:
        self.cells = 0

    def update(self, data, mask=None):  # type: ignore[no-untyped-def]
        self.cells += data.count
        return None

    def end(self, aborted: bool):  # type: ignore[no-untyped-def]
        return {"cells": np.array([(self.cells,)], [("n", "<i8")])}


class Less(JoinTransform):
    """First less second and third, frame by frame; rows that are not of one pixel would show."""

    inputs = ("first", "second", "third")

    def outputs(self, specs: tuple[StreamSpec, ...]) -> dict[str, StreamSpec]:
        return {"less": StreamSpec("less", "values", "<f8")}

    def process(self, blocks):  # type: ignore[no-untyped-def]
        assert len({block.scan_index.tobytes() for block in blocks}) == 1
        first, *others = (np.abs(block.data).reshape(block.count, -1).sum(axis=1).astype("f8") for block in blocks)
        return {"less": first - sum(others)}


class Mean(Scalarizer):
    """Mean of what is there."""

    def scalarize(self, spectrum, spec):  # type: ignore[no-untyped-def]
        there = np.abs(spectrum[np.isfinite(spectrum)])
        return (float(there.mean()), float("nan"), True) if there.size else (float("nan"), float("nan"), False)


def test_good_ones_pass() -> None:
    assert check_plugin(Sum) == []
    assert check_plugin(Covered) == []
    assert check_plugin(Less) == []
    assert check_scalarizer(Mean) == []


def test_poison_reaches_a_kept_view_and_no_copy() -> None:
    block = next(scan_blocks(StreamSpec("v", "values", "<f4", nav=_nav()), 4))
    copy, view = block.copy(), block.data[:2]
    poison(block)
    assert not np.array_equal(view, copy.data[:2])


def _nav():  # type: ignore[no-untyped-def]
    from probeloop.testing.streams import nav_axes

    return nav_axes((3, 4))
