"""The simulated column behind a shutter that outlives it: a program of its own says whether the beam is on."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from probeloop.api import Blank, InstrumentInfo, Settings, Unblank, load_simulator
from probeloop.testing.hardware import HardwareLink


class ShutterSettings(Settings):
    """port: of the shutter's program. seed, can_wait: of the column."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 1
    can_wait: bool = True


class ShutteredStem:
    """The column does all but the shutter; a frame is dark when the column is blanked."""

    Parameters = ShutterSettings

    def __init__(self, parameters: ShutterSettings) -> None:
        column = {"pixels": 32, "pixel_angle": 5.0, "tile": 16, "settling": 0.0, "misalignment": 0.0}
        self._column = load_simulator("stem", {**column, "seed": parameters.seed, "can_wait": parameters.can_wait})
        self._shutter = HardwareLink(parameters.port, "instrument")
        self.clock = self._column.clock

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._column, verb)

    @staticmethod
    def guard_connection(parameters: ShutterSettings) -> GuardPort:
        """Connect once more, for the guard."""
        return GuardPort(parameters.port)

    def describe(self) -> InstrumentInfo:
        """Say what the column is."""
        info: InstrumentInfo = self._column.describe()
        return msgspec.structs.replace(info, name="shuttered stem")

    def read_back(self) -> dict[str, Any]:
        """Return the column's values, and the shutter's own."""
        return {**self._column.read_back(), "blanked": self._shutter.ask("get")["state"]["blanked"]}

    def make_safe(self) -> None:
        """Close the shutter; end what runs."""
        self._column.make_safe()
        self._shutter.ask("safe")

    def close(self) -> None:
        """Let go of both."""
        self._column.close()
        self._shutter.close()

    def blank(self, command: Blank) -> int:
        """Close the shutter."""
        self._shutter.ask("set", values={"blanked": True})
        return int(self._column.blank(command))

    def unblank(self, command: Unblank) -> int:
        """Open it."""
        self._shutter.ask("set", values={"blanked": False})
        return int(self._column.unblank(command))


class GuardPort:
    """The guard's connection to the shutter."""

    def __init__(self, port: int) -> None:
        self._shutter = HardwareLink(port, "guard")

    def make_safe(self) -> None:
        """Close the shutter."""
        self._shutter.ask("safe")

    def read_back(self) -> dict[str, Any]:
        """Ask the shutter."""
        return dict(self._shutter.ask("get")["state"])

    def close(self) -> None:
        """Let go."""
        self._shutter.close()
