"""Run by Nion's interpreter: Nion Swift's devices on usim, without a window, served as from its console."""

from __future__ import annotations

import sys

from nion.instrumentation.test import AcquisitionTestContext
from nion.swift.test import TestContext
from nion.usim_device import DeviceConfiguration


def main() -> None:
    """Serve until stdin ends; arguments: the folder drivers/nion, an empty folder."""
    sys.path.insert(0, sys.argv[1])
    from bridge import swift

    setup = TestContext.TestSetup()
    configuration = DeviceConfiguration.AcquisitionContextConfiguration(set_configuration_location=False)
    configuration.configuration_location = sys.argv[2]  # without one nothing is registered
    context = AcquisitionTestContext.test_context(configuration)
    with context:
        instrument = context.instrument
        instrument.SetVal("S_VOA", 1.0)
        parameters = context.scan_hardware_source.get_current_frame_parameters()
        parameters.fov_nm = 400.0
        context.scan_hardware_source.set_current_frame_parameters(parameters)
        instrument.scan_context.update(instrument.scan_context.size, (0.0, 0.0), 400.0, 0.0)
        server = swift.serve(0, "a word", 400e-9)
        sys.stdout.write(f"{server.port}\n")
        sys.stdout.flush()
        sys.stdin.read()
        server.close()
        for camera in (context._ronchigram_camera_hardware_source, context._eels_camera_hardware_source):
            camera.abort_playing()
    del setup


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    import os

    os._exit(0)
