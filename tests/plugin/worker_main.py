"""A plug-in process of a test: RIG NAME INSTANCES(json) TAKE_OVER FOLDER_OF_HISTORY."""

from __future__ import annotations

import signal
import sys
import threading

import msgspec

from probeloop.bus.node import Bus
from probeloop.plugin.instance import PluginInstance
from probeloop.plugin.worker import pin_threads, run_plugin_process


def main() -> int:
    rig_id, name, instances, take_over = sys.argv[1:5]
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    pin_threads()
    from probeloop.testing.check import check_class

    with Bus(rig_id, name) as bus:
        return run_plugin_process(
            bus,
            msgspec.json.decode(instances, type=tuple[PluginInstance, ...]),
            stop,
            check=check_class,
            take_over=take_over == "1",
        )


if __name__ == "__main__":
    sys.exit(main())
