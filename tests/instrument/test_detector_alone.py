"""A detector alone: nothing to make safe but its own acquisition, and it scans all of its field or nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from probeloop.data import commands as c
from probeloop.data.driver import InstrumentInfo, detector_alone, safe_words
from probeloop.data.scan import Region
from probeloop.instrument.description import describe
from probeloop.testing.fake_driver import FakeDriver
from probeloop.testing.local_instrument import LocalInstrument

ALONE = ("Scan", "SetDetector", "AcquireReference", "Stop", "Read", "Annotate")
FIELD = Region(0.0, 0.0, 100e-9, 100e-9)


class Detector(FakeDriver):
    """One that drives no output."""

    def describe(self) -> InstrumentInfo:
        return msgspec.structs.replace(super().describe(), commands=ALONE, safe_state=(), safe_readback={})


@pytest.fixture
def rig() -> LocalInstrument:
    made = LocalInstrument(Detector(modality="stem"))
    made.take()
    return made


def scan(**region: Any) -> c.Scan:
    return c.Scan(msgspec.structs.replace(FIELD, **region), (4, 4), 1e-3)


def test_all_of_the_field_is_scanned(rig: LocalInstrument) -> None:
    assert rig.do(scan())
    assert rig.frames("camera") == 16
    assert rig.do(scan(width=100e-9 * (1 - 1e-9)))  # the same, as far as anybody could tell


@pytest.mark.parametrize(
    "other",
    [{"width": 99e-9}, {"height": 50e-9}, {"centre_x": 1e-9}, {"centre_y": -1e-9}, {"rotation": 1e-3}],
    ids=lambda other: next(iter(other)),
)
def test_another_region_is_refused_with_the_declared_one(rig: LocalInstrument, other: dict[str, float]) -> None:
    refused = rig.refusal(scan(**other))
    assert refused is not None
    assert "a scan unit that is not the instrument's" in refused.reason
    assert "100 nm x 100 nm about (0, 0) m" in refused.allowed


def test_who_places_the_probe_scans_where_it_likes() -> None:
    rig = LocalInstrument(FakeDriver(modality="stem"))
    rig.take()
    assert rig.do(c.Unblank())
    assert rig.refusal(scan(width=99e-9)) is None


def test_it_says_that_it_has_no_output(rig: LocalInstrument) -> None:
    state = describe(rig.desk).state
    assert (state["safe_state"], state["safe_words"]) == ([], "none: no output of its own")
    assert not state["fault"]


def test_one_command_more_and_it_drives_an_output() -> None:
    info = Detector().describe()
    assert detector_alone(info)
    for name in c.COMMANDS:
        more = msgspec.structs.replace(info, commands=(*ALONE, name))
        harmless = name in (*ALONE, "Pause", "Resume", "Settle")
        assert detector_alone(more) is harmless, name
        assert safe_words(more) == ("none: no output of its own" if harmless else "none")
    assert safe_words(FakeDriver().describe()) == "SetDrive, then Withdraw, then Blank"
    assert not detector_alone(msgspec.structs.replace(info, commands=("Read",)))
