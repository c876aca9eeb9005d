"""Which plug-in runs, on what, under which name: what the supervisor, the keeper and the process agree on."""

from __future__ import annotations

from typing import Any

import msgspec


class PluginInstance(msgspec.Struct, frozen=True, kw_only=True):
    """One running plug-in: what the rig says of it, and where it stands.

    name: of the instance, the first part of its topics. use: the drop-in. folders: the rig's. shipped: comes with
    probeloop, so it may share a process. revision: of its parameters, continued after a restart.
    """

    name: str
    use: str
    input: tuple[str, ...] = ("camera",)
    parameters: dict[str, Any] = {}
    spelled: bool = False
    enabled: bool = True
    lossless: bool = True
    revision: int = 0
    seed: int = 0
    folders: tuple[str, ...] = ()


def service_name(instance: str) -> str:
    """Return the control service of a plug-in instance: plugin.INSTANCE."""
    return f"plugin.{instance}"


def topic_name(instance: str, output: str) -> str:
    """Return the topic of a plug-in's output: INSTANCE.OUTPUT."""
    return f"{instance}.{output}"
