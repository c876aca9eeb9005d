"""With a 200 ms lens a policy never uses a frame of the old state, though the camera runs on."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from probeloop.bus.event import EventReader
from probeloop.bus.node import Bus
from probeloop.bus.subscribe import Subscriber
from probeloop.data.clock import MonotonicClock
from probeloop.data.commands import Scan, SetAberrations, Unblank
from probeloop.data.control import Describe, Done, Failed, Generation, Heartbeat, TakeControl, decode_event
from probeloop.data.frame import FrameBlock, FrameFlag
from probeloop.data.scan import Region
from probeloop.discover import load_simulator
from probeloop.experiment.controls import Controls
from probeloop.experiment.link import BusGate, InstrumentLink
from probeloop.experiment.loop import Loop
from probeloop.experiment.plan import PlanRun
from probeloop.experiment.setup import info_from
from probeloop.experiment.streams import FrameStore
from probeloop.instrument.executor import Executor
from probeloop.instrument.service import run_instrument
from probeloop.plugin.contract import PlanSteps, Reduce

SHAPE = (4, 4)
PIXELS = 32
LENS = {"settling": 0.2, "settling_frames": True, "pace": None, "pixels": PIXELS, "pixel_angle": 5.0, "tile": 4}
DWELL = 1e-4  # 10,000 frames/s


def plan() -> PlanSteps:
    """Scan, turn the lens, scan at once; look at both."""
    region = Region(0.0, 0.0, 1e-9, 1e-9)
    seen = []
    yield Unblank()
    for defocus in (0.0, 400e-9):
        if defocus:
            yield SetAberrations({"C10": defocus})
        result = yield Scan(region, SHAPE, DWELL)
        values = yield Reduce(result, "camera", lambda image: tuple(image.reshape(16, -1).mean(axis=1)))
        seen.append((result.generation, result.first_valid_index, list(values)))
    return {"succeeded": True, "message": "", "seen": seen}


@pytest.mark.parametrize("waits", [True, False], ids=["executor waits", "camera runs on"])
def test_a_policy_never_uses_a_frame_of_the_old_state(
    rig_id: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The executor waits for the lens; where it would not, the settling frames are there, and left out."""
    if not waits:
        monkeypatch.setattr(Executor, "_wait_settled", lambda self, epoch: None)
    buses = [Bus(rig_id, name, local=True) for name in ("instrument", "experiment")]
    stop, over, changed = threading.Event(), threading.Event(), threading.Condition()
    reader, subscriber = EventReader(buses[1]), Subscriber(buses[1], "camera", "lossless", credit=True)
    clock = MonotonicClock()
    controls, store = Controls(clock, changed), FrameStore(("camera",), clock, changed)
    link, pulse = InstrumentLink(buses[1]), InstrumentLink(buses[1])
    epoch: list[int] = []
    blocks: list[FrameBlock] = []
    generations: dict[int, int] = {}

    def listen() -> None:
        beaten = clock.now_ns()
        while not over.is_set():
            if clock.now_ns() - beaten > 1e9 and epoch:
                beaten = clock.now_ns()
                pulse.ask(Heartbeat("experiment", epoch[0]))
            for body in reader.read(0.001):
                event = decode_event(body)
                if isinstance(event, Done | Failed):
                    controls.finished(event)
                elif isinstance(event, Generation):
                    generations[event.id] = event.t_settled_ns
            for block in subscriber.drain():
                store.accept(block)
                blocks.append(block.copy())

    simulator = load_simulator("stem", LENS)
    threads = [
        threading.Thread(target=run_instrument, args=(buses[0], simulator), kwargs={"stop": stop}),
        threading.Thread(target=listen),
    ]
    for thread in threads:
        thread.start()
    try:
        state: Any = _once(lambda: link.ask(Describe()).state)  # type: ignore[union-attr]
        epoch.append(_once(lambda: link.ask(TakeControl("experiment"))).epoch)
        gate = BusGate(buses[1], epoch[0])
        loop = Loop(info_from(state), gate, store, controls, clock, lambda event: None)
        summary = PlanRun(plan(), loop, lambda *record: None).run()
        gate.close()
    finally:
        over.set()
        stop.set()
        for thread in threads:
            thread.join(10.0)
        link.close()
        pulse.close()
        subscriber.close()
        reader.close()
        for bus in buses:
            bus.close()

    settling = 0
    for generation, first_valid, values in summary["seen"]:
        settled_ns = generations[generation]
        good = np.full((16, PIXELS * PIXELS), np.nan)
        for block in (each for each in blocks if each.generation == generation):
            old = block.time_ns < settled_ns
            settling += int(old.sum())
            flagged = (block.frame_flags & FrameFlag.SETTLING) != 0
            assert np.all(flagged[old])
            assert np.all(block.index + np.flatnonzero(old) < first_valid)
            pixels = block.scan_index[~old]
            good[pixels[pixels >= 0]] = block.data[~old][pixels >= 0].reshape(-1, PIXELS * PIXELS)
        np.testing.assert_allclose(values, good.mean(axis=1), rtol=1e-5)
    assert (settling == 0) if waits else (settling > 1500)  # 200 ms are 2,000 frames
    before, after = (
        min(b.time_ns[0] for b in blocks if b.count and b.generation == each[0]) for each in summary["seen"]
    )
    assert after - before > (200e6 if waits else 0)


def _once(ask: Any) -> Any:
    """Ask until the instrument answers."""
    for _ in range(100):
        try:
            return ask()
        except Exception as error:
            last = error
            threading.Event().wait(0.05)
    raise last
