"""Commands and control messages: their schema, their bounds, and every one of them over the wire and back."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probeloop.data import commands as c
from probeloop.data import control, driver
from probeloop.data.errors import SettingsError, WireError
from probeloop.data.limits import Alarm, Limits
from probeloop.data.scan import Region
from probeloop.data.settings import json_schema, revalidate, unbounded_floats

UNSERVED = {"SetOptics", "SetPhasePlate", "SetShift", "MoveStage", "Lift", "VendorRoutine"}
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=3,
)


def strategy(info: Any) -> st.SearchStrategy[Any]:
    """Build what a msgspec type lets through, from msgspec's own description of it."""
    m = msgspec.inspect
    match info:
        case m.Metadata():
            return strategy(info.type)
        case m.FloatType():
            low, high = info.ge if info.ge is not None else info.gt, info.le if info.le is not None else info.lt
            return st.floats(
                low, high, allow_nan=False, allow_infinity=False,
                exclude_min=info.gt is not None, exclude_max=info.lt is not None,
            )  # fmt: skip
        case m.IntType():
            return st.integers(-(2**60) if info.ge is None else info.ge, 2**60 if info.le is None else info.le)
        case m.StrType():
            if info.pattern:
                return st.from_regex(info.pattern, fullmatch=True).map(lambda text: text.removesuffix("\n"))
            return st.text(max_size=min(info.max_length or 12, 12))
        case m.BoolType():
            return st.booleans()
        case m.NoneType():
            return st.none()
        case m.LiteralType():
            return st.sampled_from(info.values)
        case m.UnionType():
            return st.one_of(*map(strategy, info.types))
        case m.TupleType():
            return st.tuples(*map(strategy, info.item_types))
        case m.VarTupleType():
            return st.lists(strategy(info.item_type), max_size=3).map(tuple)
        case m.DictType():
            return st.dictionaries(strategy(info.key_type), strategy(info.value_type), max_size=3)
        case m.StructType():
            fields = {field.encode_name: strategy(field.type) for field in info.fields}
            return st.fixed_dictionaries(fields).map(lambda values: info.cls(**values))
        case m.AnyType():
            return plain
    raise AssertionError(f"no strategy for {info}")


def all_of(union: Any) -> list[Any]:
    return sorted(get_args(union), key=lambda cls: cls.__name__)


def name(cls: type) -> str:
    return cls.__name__


def alike(one: Any, other: Any) -> bool:
    """Equal; a float that is whole may come back as an int where the type says anything."""
    return bool(msgspec.to_builtins(one) == msgspec.to_builtins(other))


@pytest.mark.parametrize("cls", all_of(c.Command), ids=name)
@settings(max_examples=20)
@given(data=st.data())
def test_every_command_survives_the_wire_and_fits_its_schema(cls: type, data: st.DataObject) -> None:
    command = data.draw(strategy(msgspec.inspect.type_info(cls)))
    sent = control.Submit(command, "operator", 3, cause=(("haadf", 7),), not_after=5)
    again = control.decode_request(control.encode(sent))
    assert again == sent
    assert revalidate(command, c.Command) == command
    VALIDATOR.validate(json.loads(msgspec.json.encode(command)))


@pytest.mark.parametrize(
    ("cls", "decode"),
    [
        *((cls, control.decode_request) for cls in all_of(control.Request)),
        *((cls, control.decode_reply) for cls in all_of(control.Reply)),
        *((cls, control.decode_event) for cls in all_of(control.Event)),
    ],
)
@settings(max_examples=12)
@given(data=st.data())
def test_every_message_survives_the_wire(cls: type, decode: Any, data: st.DataObject) -> None:
    message = data.draw(strategy(msgspec.inspect.type_info(cls)))
    assert alike(decode(control.encode(message)), message)


SCHEMA = json_schema(c.Command)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schemas_are_schemas_and_carry_units() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for union in (control.Request, control.Reply, control.Event):
        jsonschema.Draft202012Validator.check_schema(json_schema(union))
    assert SCHEMA["$defs"]["Scan"]["properties"]["dwell_time"]["unit"] == "s"
    assert {cls.__name__ for cls in all_of(c.Command)} <= set(SCHEMA["$defs"])


def test_every_number_of_the_language_has_two_finite_bounds() -> None:
    assert unbounded_floats(c.Command) == []
    assert unbounded_floats(control.Request) == []


REGION = Region(0.0, 0.0, 1e-8, 1e-8)


@pytest.mark.parametrize(
    "command",
    [
        c.MoveProbe((math.nan, 0.0)),
        c.MoveProbe((math.inf, 0.0)),
        c.MoveProbe((0.0, 2.0)),
        c.MoveProbe((0.0,)),  # type: ignore[arg-type]
        c.Scan(REGION, (0, 4), 1e-6),
        c.Scan(REGION, (4, 4), 0.0),
        c.Scan(REGION, (4, 4), 1e-6, order="spiral"),  # type: ignore[arg-type]
        c.Scan(Region(0.0, 0.0, -1e-8, 1e-8), (4, 4), 1e-6),
        c.Scan(REGION, (4, 10**30), 1e-6),
        c.SetAberrations({"C10": -math.inf}),
        c.SetAberrations({"../../C10": 0.0}),
        c.SetBias(5000.0),
        c.AcquireSpectrum((0.0, 0.0), c.IV(0.0, math.nan, 5)),
        c.AcquireSpectrum((0.0, 0.0), c.BEPS(waveform=(0.0, 1e9))),
        c.Annotate("x" * 4001),
        c.VendorRoutine("align", {"depth": math.nan}),
        REGION,
        {"type": "Explode"},
        None,
    ],
    ids=repr,
)
def test_a_command_out_of_its_range_is_refused_though_python_built_it(command: Any) -> None:
    with pytest.raises(SettingsError):
        revalidate(command, c.Command)


@given(st.binary(max_size=120))
def test_garbage_raises_only_wire_errors(data: bytes) -> None:
    for decode in (control.decode_request, control.decode_reply, control.decode_event):
        try:
            decode(data)
        except WireError:
            continue


@pytest.mark.parametrize("data", [b"\x91" * 50_000, b"\x81\xa1a" * 50_000, b"\x81\xa4type\xa4Note\x81", b"", b"\xc1"])
def test_deep_and_broken_messages_are_wire_errors(data: bytes) -> None:
    for decode in (control.decode_request, control.decode_reply, control.decode_event):
        with pytest.raises(WireError):
            decode(data)


@given(st.data())
def test_a_flipped_byte_never_gives_a_command_out_of_range(data: st.DataObject) -> None:
    sent = control.Submit(c.Scan(REGION, (8, 8), 1e-6, channels=("haadf",)), "plan", 1)
    wire = bytearray(control.encode(sent))
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        again = control.decode_request(bytes(wire))
    except WireError:
        return
    if isinstance(again, control.Submit):
        try:
            revalidate(again.command, c.Command)
        except SettingsError as error:
            # only NaN passes msgspec's bounds; the gate's second look is there for it
            assert "finite" in str(error)  # noqa: PT017


def test_names_and_verbs_agree() -> None:
    assert set(c.COMMANDS) == {cls.__name__ for cls in all_of(c.Command)}
    assert set(c.CORE) <= set(c.COMMANDS)
    assert set(driver.VERBS) | set(driver.OF_THE_CORE) | UNSERVED == set(c.COMMANDS)
    for protocol, verb in driver.VERBS.values():
        assert callable(getattr(getattr(driver, protocol), verb))
    assert c.name_of(c.Blank()) == "Blank"
    assert {cls.__name__ for cls in c.ACQUISITIONS} <= set(c.COMMANDS)


def test_a_tag_is_of_one_message_only() -> None:
    for union in (control.Request, control.Event, control.Reply):
        tags = [cls.__struct_config__.tag for cls in all_of(union)]
        assert len(set(tags)) == len(tags)


def test_loop_latency_exists_only_for_a_command_with_a_cause() -> None:
    assert control.Trace(exposed=100, applied=350).loop_latency_ns == 250
    assert control.Trace(applied=350).loop_latency_ns is None
    assert control.Trace(exposed=100).loop_latency_ns is None


@given(
    st.tuples(st.floats(-1e-6, 1e-6), st.floats(-1e-6, 1e-6)),
    st.tuples(st.floats(-1e-6, 1e-6), st.floats(-1e-6, 1e-6)),
    st.tuples(st.sampled_from([0.0, 1e-10, 3e-9]), st.sampled_from([0.0, 1e-10, 3e-9])),
)
def test_the_grid_holds_what_it_calls_nearest(position: Any, origin: Any, step: Any) -> None:
    grid = driver.Grid(origin, step)
    near = grid.nearest(position)
    assert grid.holds(near)
    for asked, got, s in zip(position, near, step, strict=True):
        assert abs(asked - got) <= s / 2 * (1 + 1e-6)
    if step[0]:
        assert not grid.holds((near[0] + 0.3 * step[0], near[1]))


def test_a_missing_verb_is_named() -> None:
    class Half:
        def describe(self) -> Any:
            class Info:
                commands = ("Stop", "MoveProbe", "Scan", "Lift")
                limits = Limits(region=((0.0, 0.0), (1.0, 1.0)), alarms={"tip": Alarm()})

            return Info

        def scan(self, command: c.Scan) -> None: ...

    assert driver.missing_verbs(Half()) == [  # type: ignore[arg-type]
        "alarms tip: the method sense() of Sensors is missing",
        "MoveProbe: the method move_probe() of Scanner is missing",
        "Lift: no verb exists for it in this version",
    ]
