"""Whatever a control unit does wrong: one clear line, what came is kept, and the next command works."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import zmq
from dectris_words import POOL, counts, equal, pumped, scan, settings
from probeloop.drivers.dectris import Dectris, DectrisSettings
from probeloop.drivers.dectris.series import stride
from probeloop.simulators.servers.dectris import DectrisServer
from probeloop.simulators.servers.dectris_sending import Faults

from probeloop.api import DriverError, FrameBuffer
from probeloop.bench.peers import free_ports
from probeloop.data.settings import convert

BOTH = pytest.mark.parametrize("stream", ["v1", "v2"])
PLACE = {"field_of_view": (1e-7, 1e-7), "timeout": 0.5, "silence": 0.5}


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Answer every connection to a port in the given way."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                client, _ = server.accept()
                with client, suppress(ConnectionError):  # whoever has heard enough hangs up
                    if not over.is_set():
                        answer(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            over.set()
            socket.create_connection(server.getsockname()).close()
            thread.join(5.0)


def http(status: int, body: str) -> Callable[[socket.socket], None]:
    def answer(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(f"HTTP/1.1 {status} so\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    return answer


def error_of(make: Callable[[], Any]) -> str:
    with pytest.raises(DriverError) as caught:
        make()
    line = str(caught.value)
    assert "\n" not in line
    assert caught.value.next_move
    return line


def works_again(driver: Dectris, server: DectrisServer) -> None:
    """See that the instrument is idle, and that a good series comes whole."""
    assert driver.read_back()["acquiring"] is False
    server.faults = Faults()
    got = pumped(driver.scan(scan(3, 4)))
    assert got.error is None
    assert got.scan_index.tolist() == list(range(12))
    assert equal(got, server)
    assert counts(driver) == {"received": 12}


def test_nobody_there() -> None:
    (port,) = free_ports(1)
    assert "refuses the connection" in error_of(lambda: Dectris(DectrisSettings(api_port=port, **PLACE)))


def test_no_such_host() -> None:
    words = error_of(lambda: Dectris(DectrisSettings(host="no-such-dcu.invalid", **PLACE)))
    assert "no host is called 'no-such-dcu.invalid'" in words


def test_a_host_that_says_nothing() -> None:
    over = threading.Event()
    with answering(lambda client: over.wait(3.0) and None) as port:
        assert "does not answer within 0.5 s" in error_of(lambda: Dectris(DectrisSettings(api_port=port, **PLACE)))
        over.set()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda client: client.sendall(b"SSH-2.0-OpenSSH\r\n"), "without a proper answer"),
        (lambda client: None, "closed the connection"),
        (lambda client: client.sendall(b"HTTP/1.1 200 ok\r\nContent-Length: 99\r\n\r\n{"), "without a proper answer"),
        (http(200, "<html>printer</html>"), "with no value"),
        (http(200, '{"value": "no number"}'), "'no number' x 'no number' pixels"),
        (http(200, '{"value": 12}'), "12 x 12 pixels of 12 bit"),
        (http(200, '{"value": true}'), "pixels of True bit"),
        (http(500, "out of order"), r"HTTP 500 to GET detector/api/1.8.0/config/y_pixels_in_detector (out of order)"),
        (http(200, "[" * 100_000), "with no value"),
        (http(200, "7" * (2 << 20)), "more than 1048576 bytes"),
    ],
)
def test_what_is_no_control_unit(answer: Callable[[socket.socket], None], words: str) -> None:
    with answering(answer) as port, pytest.raises(DriverError) as caught:
        Dectris(DectrisSettings(api_port=port, **PLACE))
    assert words in str(caught.value)


def test_other_firmware() -> None:
    with DectrisServer(POOL, version="1.6.0") as server:
        driver = Dectris(settings(server))
        works_again(driver, server)
        driver.close()
        words = error_of(lambda: Dectris(settings(server, api_version="1.8.0")))
        assert "HTTP 404" in words
        assert "its interface is version 1.8.0" in words
        for name in ("format", "header_detail", "header_appendix", "image_appendix"):
            server.config.remove(name, "stream")
        old = Dectris(settings(server))
        assert "has no stream v2" in error_of(lambda: old.scan(scan(1, 1)))
        old.close()
        legacy = Dectris(settings(server, "v1"))
        works_again(legacy, server)
        legacy.close()


def test_a_value_that_it_does_not_take() -> None:
    with DectrisServer(POOL) as server:
        driver = Dectris(settings(server))
        words = error_of(lambda: driver.scan(scan(2, 2, 3700.0)))
        assert "does not take count_time" in words
        assert "allowed: 1e-07 to 3600" in words
        works_again(driver, server)
        driver.close()


def test_a_busy_detector_and_a_faulty_one() -> None:
    with DectrisServer(POOL) as server:
        driver = Dectris(settings(server))
        for state, words in (("acquire", "is busy"), ("ready", "is busy"), ("error", "can't measure")):
            server.state = state
            assert words in error_of(lambda: driver.scan(scan(2, 2)))
        driver.make_safe()
        works_again(driver, server)
        driver.close()


def test_no_stream_there() -> None:
    (port,) = free_ports(1)
    with DectrisServer(POOL) as server:
        driver = Dectris(settings(server, stream_port=port, timeout=0.5))
        assert f"no stream at tcp://127.0.0.1:{port}: the connection is refused" in error_of(
            lambda: driver.scan(scan(1, 1))
        )
        driver.close()
        with answering(lambda client: client.sendall(b"x" * 80)) as other:
            driver = Dectris(settings(server, stream_port=other, timeout=0.5))
            assert "speaks no ZeroMQ" in error_of(lambda: driver.scan(scan(1, 1)))
            driver.close()


@BOTH
def test_half_of_the_frames_asked_for(stream: str) -> None:
    with DectrisServer(POOL, faults=Faults(end_at=6)) as server:
        driver = Dectris(settings(server, stream))
        got = pumped(driver.scan(scan(3, 4)))
        assert got.scan_index.tolist() == list(range(6))
        assert str(got.error).startswith("the DCU ended the series after 6 of 12 frames: pixels 6 to 11 have none")
        assert equal(got, server)
        works_again(driver, server)
        driver.close()


@BOTH
def test_a_few_frames_lost_at_the_end_are_a_gap_and_no_failure(stream: str) -> None:
    with DectrisServer(POOL, faults=Faults(drop=frozenset({10, 11}))) as server:
        driver = Dectris(settings(server, stream))
        got = pumped(driver.scan(scan(3, 4)))
        assert got.error is None
        assert counts(driver) == {"received": 10, "lost": 2}
        works_again(driver, server)
        driver.close()


@BOTH
def test_twice_the_frames_asked_for(stream: str) -> None:
    with DectrisServer(POOL, faults=Faults(extra=12)) as server:
        driver = Dectris(settings(server, stream))
        got = pumped(driver.scan(scan(3, 4)))  # the driver disarms after the last frame: how many more come is chance
        assert got.error is None
        assert got.scan_index.tolist() == list(range(12))
        found = counts(driver)
        assert (found["received"], found.get("beyond", 0)) == (12, server.sent - 12)
        works_again(driver, server)
        driver.close()


@BOTH
def test_every_frame_beyond_is_counted(stream: str) -> None:
    with DectrisServer(POOL, faults=Faults(extra=12, drop=frozenset({11}))) as server:
        driver = Dectris(settings(server, stream))
        got = pumped(driver.scan(scan(3, 4)))  # the last frame is waited for, so all others come
        assert got.error is None
        assert got.scan_index.tolist() == list(range(11))
        assert counts(driver) == {"received": 11, "lost": 1, "beyond": 12}
        works_again(driver, server)
        driver.close()


@BOTH
def test_a_stream_that_falls_silent(stream: str) -> None:
    with DectrisServer(POOL, faults=Faults(silent_at=5)) as server:
        driver = Dectris(settings(server, stream, trigger="external", silence=0.3))
        got = pumped(driver.scan(scan(3, 4)))
        assert got.scan_index.tolist() == list(range(5))
        assert "no frame for 0.3 s after 5 of 12 frames: pixels 5 to 11 have none" in str(got.error)
        assert "the detector says 'acquire'" in str(got.error)
        works_again(driver, server)
        driver.close()


@BOTH
def test_a_pause_is_no_end(stream: str) -> None:
    with DectrisServer(POOL, faults=Faults(stall={5: 0.4})) as server:
        driver = Dectris(settings(server, stream, silence=1.0))
        works_again(driver, server)
        server.faults = Faults(stall={5: 0.4})
        got = pumped(driver.scan(scan(3, 4)))
        assert got.error is None
        assert got.scan_index.tolist() == list(range(12))
        driver.close()


@BOTH
def test_a_unit_that_goes_away_in_the_middle(stream: str) -> None:
    with DectrisServer(POOL, faults=Faults(stall={5: 30.0})) as server:
        driver = Dectris(settings(server, stream, trigger="external", silence=0.5))
        made = driver.scan(scan(3, 4))
        ending = threading.Timer(0.1, server.close)
        ending.start()
        got = pumped(made)
        ending.join()
        assert got.scan_index.tolist() == list(range(5))
        assert "after 5 of 12 frames: pixels 5 to 11 have none" in str(got.error)
        assert "refuses the connection" in error_of(lambda: driver.scan(scan(3, 4)))
        driver.make_safe()
        driver.close()


@BOTH
def test_a_second_reader_is_noticed(stream: str) -> None:
    with DectrisServer(POOL, rate=500) as server, zmq.Context() as context, context.socket(zmq.PULL) as thief:
        driver = Dectris(settings(server, stream, silence=0.3, trigger="external"))
        thief.connect(f"tcp://127.0.0.1:{server.stream_ports[stream == 'v2']}")
        thief.poll(200)
        got = pumped(driver.scan(scan(5, 6)))
        assert "another reader on the stream port takes frames: only every 2nd one came" in str(got.error)
        assert equal(got, server)
        assert 10 <= counts(driver)["received"] <= 16
        driver.close()


def test_frames_of_a_series_that_is_over_are_dropped() -> None:
    with DectrisServer(POOL, rate=0) as server:
        driver = Dectris(settings(server))
        made = driver.scan(scan(30, 40))
        next(made.frames)
        made.frames.close()  # aborted before its frames were taken
        got = pumped(driver.scan(scan(3, 4)))
        assert got.error is None
        assert equal(got, server)
        assert counts(driver)["received"] == 12
        driver.close()


def test_an_acquisition_that_nobody_takes_is_in_nobodys_way() -> None:
    with DectrisServer(POOL, rate=500) as server:
        driver = Dectris(settings(server, trigger="external"))
        driver.scan(scan(3, 4))  # its frames are never asked for
        begun = driver.scan(scan(5, 6))
        next(begun.frames)
        begun.frames.send(FrameBuffer.allocate(begun.spec, 1))
        made = driver.scan(scan(3, 4))
        begun.frames.close()  # ends late, and leaves the next one alone
        got = pumped(made)
        assert got.error is None
        assert equal(got, server)
        assert counts(driver) == {"received": 12}
        works_again(driver, server)
        driver.close()


def test_the_series_may_be_named_by_its_header_alone() -> None:
    with DectrisServer(POOL) as server:
        command = server.command
        server.command = lambda name, value: {**command(name, value), "sequence id": 2}  # type: ignore[method-assign]
        for _ in range(3):
            driver = Dectris(settings(server, series="header"))
            got = pumped(driver.scan(scan(3, 4)))
            assert got.error is None
            assert equal(got, server)
            driver.close()
        driver = Dectris(settings(server, silence=0.3))
        got = pumped(driver.scan(scan(3, 4)))
        assert "frames of series 4 come, the DCU armed 2" in str(got.error)
        driver.close()


def test_make_safe_of_a_unit_that_is_gone_is_quick_and_says_nothing() -> None:
    with DectrisServer(POOL) as server:
        driver = Dectris(settings(server))
    begun = driver.clock.now_ns()
    driver.make_safe()
    assert driver.clock.now_ns() - begun < 0.45e9
    driver.close()


def test_the_guard_has_a_way_of_its_own() -> None:
    with DectrisServer(POOL, rate=100) as server:
        driver = Dectris(settings(server))
        made = driver.scan(scan(30, 40))
        port = Dectris.guard_connection(driver.parameters)
        assert port.read_back()["acquiring"] is True
        port.make_safe()
        assert port.read_back()["acquiring"] is False
        made.frames.close()
        port.close()
        driver.close()
    assert "refuses" in error_of(port.read_back)


def test_settings_are_checked() -> None:
    good = {"field_of_view": ["100 nm", "50 nm"], "pixel_angle": "2 mrad"}
    made = convert(DectrisSettings, good, "instrument", spelled=True)
    assert made.field_of_view == pytest.approx((1e-7, 5e-8))
    assert made.port == 31001
    for more, words in (
        ({"field_of_view": [0, 1]}, "instrument.field_of_view"),
        ({"stream": "v3"}, "instrument.stream"),
        ({"stream": "v1", "channels": ["a", "b"]}, "stream v1 carries one"),
        ({"channels": ["a", "a"]}, "one is named twice"),
        ({"pixel_angle": "0 mrad"}, "instrument.pixel_angle"),
        ({"api_version": "latest"}, "instrument.api_version"),
        ({"timeout": "0 s"}, "instrument.timeout"),
    ):
        with pytest.raises(Exception, match=words):
            convert(DectrisSettings, {**good, **more}, "instrument", spelled=True)
    with pytest.raises(Exception, match="field_of_view: missing"):
        convert(DectrisSettings, {}, "instrument")


@pytest.mark.parametrize(
    ("numbers", "step"),
    [([0, 2, 4, 6, 8], 2), ([1, 3, 5, 7, 10, 12, 14, 16, 18, 20, 22, 24], 2), ([0, 3, 6, 9], 3), ([0, 1, 2, 3], 1),
     ([0, 2, 4], 1), ([0, 1, 3, 4, 6, 7], 1), ([], 1)],
)  # fmt: skip
def test_a_regular_gap_is_told_from_others(numbers: list[int], step: int) -> None:
    import numpy as np

    assert stride(np.array(numbers, np.int64)) == step
