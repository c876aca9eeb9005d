"""What an interrupted run had out of its safe state: the gate took it back meanwhile, and a resumed run needs it."""

from __future__ import annotations

from collections.abc import Mapping

from ..data.commands import Approach, Blank, Command, SetBias, SetDrive, Unblank, Withdraw
from ..data.control import Scalar


def note(outputs: dict[str, Command], command: Command) -> None:
    """Keep in `outputs`, by name, the command that put an output where it was; drop it where it was made safe."""
    match command:
        case Unblank():
            outputs["beam"] = command
        case Blank():
            outputs.pop("beam", None)
        case Approach():
            outputs["tip"] = command
        case Withdraw():
            outputs.pop("tip", None)
        case SetDrive(amplitude=float(amplitude)):
            _set(outputs, "drive", command, bool(amplitude))
        case SetBias():
            _set(outputs, "bias", command, bool(command.value))


def _set(outputs: dict[str, Command], name: str, command: Command, on: bool) -> None:
    outputs.pop(name, None)
    if on:
        outputs[name] = command


def words(name: str, command: Command) -> str:
    """Return what is done again and why, in a line."""
    was = {"beam": "the beam was on", "tip": "the tip was at the surface"}.get(name, f"the {name} was on")
    does = {"beam": "unblanks", "tip": "approaches"}.get(name, "sets it again")
    return f"{was} when the run was cut off: {does}"


def stands(name: str, now: Mapping[str, Scalar]) -> bool:
    """True where the read-back `now` says that the output is out of its safe state still."""
    if name == "tip":
        return now.get("feedback") in ("engaged", "held", "lifted")
    return name in ("drive", "bias") and bool(now.get(name))
