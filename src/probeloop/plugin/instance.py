"""Which plug-in runs, on what, under which name: what the supervisor, the keeper and the process agree on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ..data.settings import convert, json_schema
from ..discover import load_class

TRANSFORMS = ("FrameTransform", "JoinTransform", "ScanTransform")  # the kinds that run in plug-in processes


class PluginInstance(msgspec.Struct, frozen=True, kw_only=True):
    """One running plug-in: what the rig says of it, and where it stands.

    name: of the instance, the first part of its topics. use: the drop-in. input: topics, several for a JoinTransform.
    folders: the rig's. shipped: comes with probeloop, so it may share a process. recorded: its first block waits for
    the recorder. revision: of its parameters, continued after a restart. polls: its process never sleeps.
    """

    name: str
    use: str
    input: tuple[str, ...] = ("camera",)
    parameters: dict[str, Any] = {}
    spelled: bool = False
    enabled: bool = True
    lossless: bool = True
    recorded: bool = True
    polls: bool = False
    revision: int = 0
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    folders: tuple[str, ...] = ()


def service_name(instance: str) -> str:
    """Return the control service of a plug-in instance: plugin.INSTANCE."""
    return f"plugin.{instance}"


def topic_name(instance: str, output: str) -> str:
    """Return the topic of a plug-in's output: INSTANCE.OUTPUT."""
    return f"{instance}.{output}"


def load_scalarizer(name: str, parameters: Mapping[str, Any], context: Any = None) -> Any:
    """Make the scalarizer called `name` in this process, with a Context; raises DropInError or SettingsError."""
    cls = load_class(name, "Scalarizer")
    return cls(convert(cls.Parameters, parameters, name), context)


def form_schema(cls: Any) -> dict[str, Any]:
    """Return the JSON Schema of parameters as a form wants it: the fields on top.

    A field that may be None carries the unit and the bounds of its other choice beside it.
    """
    schema = json_schema(cls)
    definitions = schema.get("$defs", {})
    top = dict(definitions.get(str(schema.get("$ref", "")).rpartition("/")[2], schema))
    fields = {}
    for name, entry in top.get("properties", {}).items():
        choices = [each for each in entry.get("anyOf", ()) if each.get("type") != "null"]
        fields[name] = {**choices[0], **entry} if len(choices) == 1 else entry
        if "anyOf" in fields[name]:
            fields[name].pop("type", None)
    top["properties"] = fields
    if len(definitions) > 1:
        top["$defs"] = definitions
    return top
