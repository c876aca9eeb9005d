"""The experiment process.

run_experiment(bus, ExperimentConfig(...), stop=event)
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..bus.heartbeat import Heartbeat
from ..bus.node import Bus
from .interest import Recorded
from .service import ExperimentService
from .setup import ExperimentConfig


def run_experiment(
    bus: Bus,
    config: ExperimentConfig | None = None,
    *,
    stop: threading.Event,
    ready: Callable[[], None] | None = None,
    recorded: Recorded | None = None,
) -> None:
    """Serve "experiment" on the bus until `stop` is set or a Shutdown comes; a plan under way is ended in order.

    ready: called when requests are answered. recorded: reads spectra of the record. Raises DropInError or
    SettingsError for a scalarizer or reward that can't be made, RecordError for a record that can't be resumed.
    """
    service = ExperimentService(bus, config or ExperimentConfig(), recorded)
    pulse = Heartbeat(bus)
    try:
        if ready is not None:
            ready()
        service.resume_at_start()
        while not (stop.is_set() or service.ending):
            service.turn()
            pulse.beat()
    finally:
        service.close()
