"""Truth beside the record: what is kept, how it is read, and that nobody waits for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from probeloop.data.aberrations import Aberrations
from probeloop.data.errors import RecordError
from probeloop.record.truth import SessionTruth, TruthWriter, write_values


def test_arrays_and_plain_values_come_back_and_functions_are_named(tmp_path: Path) -> None:
    field = np.arange(6, dtype=np.complex64).reshape(2, 3)
    said = {
        "field": field, "file": np.ones(2), "aberrations": Aberrations(C10=2e-9), "cell": 2.5e-10,
        "words": ("a", "b"),
        "nested": {"scale": np.array([1.5, 2.0]), "step": np.float32(0.5)}, "unknown": float("nan"),
        "grain": lambda x, y: 0, "thing": object(), "odd": np.array([object()]),
    }  # fmt: skip
    write_values(tmp_path / "truth", "start", said)
    truth = SessionTruth(tmp_path)
    made = truth.start
    np.testing.assert_array_equal(made.pop("field"), field)
    assert made.pop("file").tolist() == [1.0, 1.0]
    assert made.pop("aberrations")["C10"] == 2e-9
    assert made == {
        "cell": 0.25e-9, "words": ["a", "b"], "nested": {"scale": [1.5, 2.0], "step": 0.5}, "unknown": None,
        "left_out": ["grain", "odd", "thing"],
    }  # fmt: skip
    assert not list(tmp_path.rglob("*.partial"))


def test_the_end_keeps_what_changed_and_says_all(tmp_path: Path) -> None:
    potential, dose = np.ones((4, 4)), np.zeros(3)
    writer = TruthWriter(tmp_path)
    writer.keep("start", {"potential": potential, "same": potential.copy(), "dose": dose, "C10": 1e-9, "kind": "a"})
    writer.keep("12", {"time_ns": np.arange(3)})
    writer.keep("3", {"time_ns": np.arange(2)})
    writer.keep("end", {"potential": potential, "same": potential.copy(), "dose": dose + 1, "C10": 0.0, "kind": "a"})
    writer.close()
    assert writer.faults == []
    truth = SessionTruth(tmp_path)
    assert truth.generations == [3, 12]
    assert truth.values("end").keys() == {"dose", "C10"}
    assert truth.end["dose"].tolist() == [1.0, 1.0, 1.0]
    assert truth.end["kind"] == "a"
    assert truth.end["potential"].shape == (4, 4)
    assert truth.values(99) == {}


def test_a_full_disk_is_a_fault_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "truth").write_text("in the way")
    writer = TruthWriter(tmp_path)
    writer.keep("start", {"C10": 1.0})
    writer.close()
    assert len(writer.faults) == 1
    assert writer.faults[0].startswith("truth/start can't be written")


def test_no_truth_and_torn_truth_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not made by a simulator"):
        SessionTruth(tmp_path)
    with pytest.raises(RecordError, match="no session"):
        SessionTruth(tmp_path / "none")
    write_values(tmp_path / "truth", "start", {"field": np.ones(1000)})
    whole = (tmp_path / "truth" / "start.npz").read_bytes()
    (tmp_path / "truth" / "start.npz").write_bytes(whole[:-200])
    with pytest.raises(RecordError, match="can't be read"):
        _ = SessionTruth(tmp_path).start
