"""What is found, what is not and why, and what an import of it gives."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from probeloop import discover
from probeloop.data.errors import DropInError, SettingsError

GOOD = '''"""A file."""
from probeloop.api import FrameTransform

class {name}(FrameTransform):
    """Half of it."""
    value = {value}
    def outputs(self, spec): return {{"half": spec}}
    def process(self, block): return {{"half": block.data / 2}}
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROBELOOP_PLUGINS", str(tmp_path))
    return tmp_path


def names(folder: Path) -> dict[str, discover.Found]:
    return {each.name: each for each in discover.found() if each.path.parent == folder}


def test_a_file_is_found_without_being_run_and_loaded_under_the_hash_of_its_source(folder: Path) -> None:
    (folder / "half.py").write_text(GOOD.format(name="HalfOfIt", value=1))
    one = names(folder)["half"]
    assert (one.kind, one.error, one.summary) == ("FrameTransform", None, "Half of it.")
    assert not [name for name in sys.modules if "half" in name and name.startswith("probeloop_dropin")]
    first = discover.load_class("half")
    assert discover.load_class("half_of_it") is first
    assert one.source_hash in first.__module__
    # same size, same second: a cached .pyc would be believed
    (folder / "half.py").write_text(GOOD.format(name="HalfOfIt", value=2))
    second = discover.load_class("half")
    assert (first.value, second.value) == (1, 2)


@pytest.mark.parametrize(
    ("file", "source", "words"),
    [
        ("broken.py", "def f(:\n", "line 1"),
        ("nothing.py", "x = 1\n", "no public class"),
        ("Capital.py", GOOD.format(name="A", value=1), "no name for a drop-in"),
        ("con.py", GOOD.format(name="A", value=1), "no name for a drop-in"),
        ("nul_bytes.py", "x = '\0'\n", ""),
        ("latin.py", b"# \xff\n", ""),
        ("deep.py", "x = " + "(" * 5000 + ")" * 5000, ""),
    ],
)
def test_a_broken_file_is_named_with_its_fault_and_the_others_stay(
    folder: Path, file: str, source: str | bytes, words: str
) -> None:
    (folder / "fine.py").write_text(GOOD.format(name="Fine", value=1))
    (folder / file).write_bytes(source if isinstance(source, bytes) else source.encode())
    every = names(folder)
    assert every.pop("fine").error is None
    (fault,) = every.values()
    assert fault.error
    assert words in fault.error
    if fault.kind == "" and discover.is_name(fault.name):
        with pytest.raises(DropInError, match="can't be loaded"):
            discover.load_class(fault.name)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("1 / 0", "late.py:1: ZeroDivisionError"),
        ("import no_such_library_at_all", "late.py:1: ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_file_that_fails_at_its_import_is_one_line_with_the_place(folder: Path, body: str, words: str) -> None:
    (folder / "late.py").write_text(body + "\n" + GOOD.format(name="Late", value=1))
    with pytest.raises(DropInError, match="failed to import") as caught:
        discover.load_class("late")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_may_hold_several_and_import_relatively(folder: Path) -> None:
    home = folder / "pair"
    home.mkdir()
    (home / "__init__.py").write_text("")
    (home / "shared.py").write_text("VALUE = 7\n")
    (home / "one.py").write_text("from .shared import VALUE\n" + GOOD.format(name="OneHalf", value="VALUE"))
    (home / "two.py").write_text(GOOD.format(name="OtherHalf", value=2).replace("FrameTransform", "Scalarizer"))
    (home / "commands.py").write_text("def train(config): return 3\n")
    every = [each for each in discover.found() if each.path == home]
    assert {(each.name, each.kind) for each in every} == {("pair", "FrameTransform"), ("pair", "Scalarizer")}
    assert discover.load_class("one_half").value == 7
    assert discover.load_class("pair", "Scalarizer").__name__ == "OtherHalf"
    commands = discover.load_commands("pair")
    assert commands is not None
    assert commands.train({}) == 3
    assert len(discover.load_path(home)) == 2


def test_an_unknown_name_gives_near_ones_and_a_path_is_no_name(folder: Path) -> None:
    (folder / "brightness.py").write_text(GOOD.format(name="Brightness", value=1))
    with pytest.raises(DropInError, match="did you mean brightness"):
        discover.load_class("brightnes")
    for name in ("../brightness", "/etc/passwd", "..\\brightness", "a\0b"):
        with pytest.raises(DropInError):
            discover.load_class(name)
    with pytest.raises(DropInError, match="is a FrameTransform, not a Plan"):
        discover.load_class("brightness", "Plan")


def test_the_rigs_folder_comes_first_and_the_hidden_one_says_so(folder: Path, tmp_path: Path) -> None:
    rig = tmp_path / "rig"
    rig.mkdir()
    (folder / "same.py").write_text(GOOD.format(name="Same", value=1))
    (rig / "same.py").write_text(GOOD.format(name="Same", value=2))
    assert discover.load_class("same", folders=[rig]).value == 2
    assert discover.load_class("same").value == 1
    hidden = [each for each in discover.found([rig]) if each.path == folder / "same.py"]
    assert hidden[0].error is not None
    assert "hidden by" in hidden[0].error


INSTRUMENT = '''
from probeloop.api import ManualClock, Settings
class Box:
    """A box."""
    class Parameters(Settings):
        size: int = 1
    def __init__(self, parameters):
        self.parameters, self.clock = parameters, ManualClock()
    def describe(self): ...
    def read_back(self): return {"size": self.parameters.size}
    def make_safe(self): ...
    def close(self): ...
'''


def test_an_instrument_is_known_by_its_verbs(folder: Path) -> None:
    (folder / "box.py").write_text(INSTRUMENT)
    assert names(folder)["box"].kind == "Driver"
    made = discover.load_instrument("box", {"size": 3})
    assert made.read_back() == {"size": 3}
    with pytest.raises(SettingsError, match=r"box\.sise"):
        discover.load_instrument("box", {"sise": 3})


def test_a_missing_folder_of_the_rig_is_reported(folder: Path) -> None:
    assert any("can't read the folder" in str(each.error) for each in discover.found([folder / "absent"]))


def test_everything_shipped_can_be_listed_without_a_fault() -> None:
    shipped = [each for each in discover.found() if each.origin == "shipped"]
    assert [(each.name, each.error) for each in shipped if each.error] == []
