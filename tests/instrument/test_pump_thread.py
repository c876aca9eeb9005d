"""The instrument's topics between two threads: the executor makes them, the pump fills and refreshes them."""

from __future__ import annotations

import threading

import pytest

from probeloop.bus.node import Bus
from probeloop.bus.publish import Publisher
from probeloop.data.axes import Axis, StreamSpec
from probeloop.data.driver import Acquisition
from probeloop.instrument import service
from probeloop.instrument.pump import Delivery
from probeloop.instrument.service import PumpThread, Topics


def test_a_topic_may_grow_while_the_idle_pump_refreshes_it(rig_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used_closed: list[int] = []

    class Slow(Publisher):
        closed = False

        def close(self) -> None:
            self.closed = True
            threading.Event().wait(0.02)  # the other thread's turn
            super().close()

        def refresh(self) -> None:
            if self.closed:
                used_closed.append(self.max_block_bytes)
            else:
                super().refresh()

    monkeypatch.setattr(service, "Publisher", Slow)
    with Bus(rig_id, "test", local=True) as bus:
        topics, over = Topics(bus, False), threading.Event()

        def refresh() -> None:
            while not over.is_set():
                topics.refresh()

        thread = threading.Thread(target=refresh)
        thread.start()
        for pixels in range(8, 72, 16):
            spec = StreamSpec("camera", "frames", "<u2", (), (Axis("ky", pixels), Axis("kx", pixels)), sync="none")
            outlet = topics.outlet(Acquisition("camera", spec, iter(())), single=True)  # type: ignore[arg-type]
            outlet.announce(spec, pixels)
        over.set()
        thread.join()
        topics.close()
    assert used_closed == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_pump_that_has_ended_is_told_not_waited_for(rig_id: str) -> None:
    class Broken(Topics):
        def refresh(self) -> None:
            raise RuntimeError("on purpose")

    with Bus(rig_id, "test", local=True) as bus:
        pump = PumpThread(Broken(bus, False), lambda: None)
        pump.start()
        pump._thread.join(5.0)
        assert "the pump has ended" in pump.acquire(Delivery).error
