"""iceoryx2 by itself as a transport under test: the same blocks, wake-up by event, views cached by payload address.

What it lacks: headers, columns, late joiners, counted gaps, credits that a dead reader loses.
"""

from __future__ import annotations

import ctypes
import sys
import time

import iceoryx2 as iox2
import numpy as np

from probeloop.bench.stream_role import FRAME_WORDS, Words, serve

DEPTH = 32
ELEMENT = iox2.Slice[ctypes.c_uint64]


class Node:
    def __init__(self, name: str, n: int) -> None:
        iox2.set_log_level(iox2.LogLevel.Fatal)
        self.n = n
        self.node = (
            iox2.NodeBuilder.new().signal_handling_mode(iox2.SignalHandlingMode.Disabled).create(iox2.ServiceType.Ipc)
        )
        self.service = (
            self.node.service_builder(iox2.ServiceName.new(name))
            .publish_subscribe(ELEMENT)
            .payload_alignment(iox2.Alignment.new(64))
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(DEPTH)
            .max_subscribers(4)
            .open_or_create()
        )
        self.event = self.node.service_builder(iox2.ServiceName.new(f"{name}/wake")).event().open_or_create()
        self._views: dict[int, Words] = {}

    def view(self, address: int) -> Words:
        found = self._views.get(address)
        if found is None:
            memory = (ctypes.c_uint64 * (self.n * FRAME_WORDS)).from_address(address)
            found = self._views[address] = np.frombuffer(memory, np.uint64).reshape(self.n, FRAME_WORDS)
        return found


class IoxSender(Node):
    def __init__(self, name: str, n: int) -> None:
        super().__init__(name, n)
        self.port = (
            self.service.publisher_builder()
            .initial_max_slice_len(n * FRAME_WORDS)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )
        self.notifier = self.event.notifier_builder().create()

    def wait_for_readers(self, count: int) -> None:
        until = time.monotonic() + 10.0
        while self.service.dynamic_config.number_of_subscribers < count:  # iceoryx2 has no event for it
            if time.monotonic() > until:
                raise TimeoutError(f"fewer than {count} readers joined within 10 s")
            time.sleep(0.001)
        self.notifier.notify()  # what is sent before the reader has looked once is dropped, whatever the strategy
        time.sleep(0.05)

    def send(self, words: Words) -> None:
        sample = self.port.loan_slice_uninit(self.n * FRAME_WORDS)
        np.copyto(self.view(sample.payload_ptr), words)
        sample.assume_init().send()
        self.notifier.notify()

    def close(self) -> None:
        self._views.clear()
        self.port.delete()
        self.notifier.delete()
        del self.service, self.event, self.node


class IoxReader(Node):
    def __init__(self, name: str, n: int) -> None:
        super().__init__(name, n)
        self.port = self.service.subscriber_builder().buffer_size(DEPTH).create()
        self.listener = self.event.listener_builder().create()
        self._held = None

    def receive(self, timeout_s: float) -> Words | None:
        if self._held is not None:
            self._held.delete()
            self._held = None
        sample = self.port.receive()
        until = time.monotonic() + timeout_s
        while sample is None:
            left = until - time.monotonic()
            if left <= 0:
                return None
            self.listener.timed_wait(iox2.Duration.from_secs_f64(left))
            sample = self.port.receive()
        self._held = sample
        return self.view(sample.payload_ptr)

    def close(self) -> None:
        if self._held is not None:
            self._held.delete()
        self._views.clear()
        self.port.delete()
        self.listener.delete()
        del self.service, self.event, self.node


if __name__ == "__main__":
    sys.exit(serve(IoxSender, IoxReader, sys.argv[1:]))
