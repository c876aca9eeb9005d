"""What goes wrong between a driver and its detector: one clear line, what came is kept, the next command works."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from merlin_site import FIELD, Taken, scan, settings, site, take
from probeloop.drivers.merlin import Merlin, MerlinSettings
from probeloop.drivers.merlin.headers import message
from probeloop.simulators.servers.merlin import Faults, MerlinServer, PoolSource
from probeloop.simulators.servers.merlin_frames import Format

from probeloop.data import commands as c
from probeloop.data.errors import DriverError

SHAPE = (16, 64)


class Saying(MerlinServer):
    """Sends these bytes in place of every run."""

    words = b""

    def _send_run(self, client: socket.socket, run: Any) -> None:
        client.settimeout(5)
        client.sendall(self.words)


def frame(number: int, counts: int = 1, form: Format | None = None) -> bytes:
    form = form or Format(SHAPE)
    made = form.messages(np.full((1, *form.shape), counts, np.uint32))
    form.number(made, number, np.zeros(1, np.int64))
    return made.tobytes()


def header(frames: int) -> bytes:
    return message(Format(SHAPE).acquisition_header(frames, frames, "Internal"))


def taken_of(words: bytes, shape: tuple[int, int] = (2, 4), **values: Any) -> tuple[Taken, dict[str, Any], Merlin]:
    with Saying(PoolSource(SHAPE)) as server:
        server.words = words
        driver = Merlin(settings(server, timeout=0.5, **values))
        try:
            return take(driver.scan(scan(shape))), driver.read_back(), driver
        finally:
            driver.close()


@contextmanager
def port(answer: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """Serve one connection after the other: what `answer` returns to each thing received, None = close."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.02)
    ending = threading.Event()

    def run() -> None:
        while not ending.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(0.02)
                while not ending.is_set():
                    try:
                        got = connection.recv(4096)
                    except TimeoutError:
                        continue
                    except OSError:
                        break
                    reply = answer(got) if got else None
                    if reply is None:
                        break
                    connection.sendall(reply)

    thread = threading.Thread(target=run, name="port")
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        ending.set()
        thread.join()
        listener.close()


def refusal(control_port: int, host: str = "127.0.0.1") -> str:
    with pytest.raises(DriverError) as raised:
        Merlin(MerlinSettings(field_of_view=(FIELD, FIELD), host=host, control_port=control_port, timeout=0.2))
    text = str(raised.value)
    assert "\n" not in text
    return text


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])


def test_nobody_there() -> None:
    number = free_port()
    assert f"no Merlin at 127.0.0.1:{number}: nothing listens there" in refusal(number)


def test_an_unreachable_host() -> None:
    assert "no Merlin at 192.0.2.1:6341" in refusal(6341, "192.0.2.1")


def test_another_program_on_the_port() -> None:
    with port(lambda got: b"HTTP/1.1 400 Bad Request\r\n\r\n") as number:
        assert "is that the control port of a Merlin?" in refusal(number)


def test_a_mute_one() -> None:
    with port(lambda got: b"") as number:
        assert "does not answer GET,SOFTWAREVERSION within 0.2 s" in refusal(number)


def test_one_that_hangs_up() -> None:
    with port(lambda got: None) as number:
        assert "is gone" in refusal(number)


def test_one_that_claims_an_endless_reply() -> None:
    with port(lambda got: b"MPX,9999999999,GET,SOFTWAREVERSION,1,0") as number:
        assert "is that the control port of a Merlin?" in refusal(number)


def test_one_that_does_not_say_its_size() -> None:
    with (
        MerlinServer(PoolSource(SHAPE), refuse={"IMAGEX": 2}) as server,
        pytest.raises(DriverError, match=r"set pixels = \[256, 256\] for one chip"),
    ):
        Merlin(settings(server))


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("COUNTERDEPTH", 1, "is busy and refuses SET,COUNTERDEPTH,12"),
        ("FILEFORMAT", 2, "does not know SET,FILEFORMAT,0. its software \\(version 0.1 simulated\\) is another one"),
        ("ACQUISITIONPERIOD", 3, "refuses SET,ACQUISITIONPERIOD,1: out of range"),
        ("STARTACQUISITION", 1, "is busy and refuses CMD,STARTACQUISITION"),
    ],
)
def test_what_the_detector_refuses(name: str, code: int, words: str) -> None:
    with site(SHAPE) as (driver, server, _):
        server.commands.refuse[name] = code
        with pytest.raises(DriverError, match=words):
            driver.scan(scan((2, 2)))
        server.commands.refuse.clear()
        assert take(driver.scan(scan((2, 2)))).pixels.tolist() == [0, 1, 2, 3]


def test_what_an_older_version_need_not_know() -> None:
    with site(SHAPE, server={"refuse": {"RUNHEADLESS": 2, "FILEENABLE": 2, "TEMPERATURE": 2}}) as (driver, _, _):
        assert take(driver.scan(scan((2, 2)))).error is None
        assert "temperature" not in driver.read_back()


def test_both_ways_to_count_a_reply() -> None:
    with site(SHAPE, server={"plain_length": True}) as (driver, _, _):
        assert take(driver.scan(scan((2, 2)))).error is None
        assert driver.read_back()["bit_depth"] == 12


def test_no_data_port() -> None:
    with MerlinServer(PoolSource(SHAPE)) as server:
        number = free_port()
        driver = Merlin(settings(server, data_port=number))
        with pytest.raises(DriverError, match=f"no data from the Merlin at 127.0.0.1:{number}: nothing listens"):
            driver.scan(scan((2, 2)))
        driver.close()


def test_a_connection_that_ends_in_mid_frame() -> None:
    with site(SHAPE, Faults(close=12)) as (driver, server, source):
        taken = take(driver.scan(scan((4, 6))))
        assert taken.pixels.tolist() == list(range(11))
        assert taken.is_of(source, 12)
        assert "the Merlin closed the data connection after 11 of 24 frames, in the middle of one" in str(taken.error)
        assert driver.read_back()["frames_missing"] == 13
        server.faults = Faults()
        assert take(driver.scan(scan((4, 6)))).error is None  # it connected again


def test_half_of_the_frames() -> None:
    with site(SHAPE, Faults(surplus=-12)) as (driver, server, _):
        began = time.monotonic()
        taken = take(driver.scan(scan((4, 6))))
        assert time.monotonic() - began < 2.0
        assert taken.pixels.tolist() == list(range(12))
        assert "the Merlin is idle after 12 of 24 frames" in str(taken.error)
        assert not driver.read_back()["acquiring"]
        server.faults = Faults()
        assert take(driver.scan(scan((4, 6)))).error is None


def test_twice_the_frames() -> None:
    with site(SHAPE, Faults(surplus=24)) as (driver, server, source):
        taken = take(driver.scan(scan((4, 6))))
        assert taken.pixels.tolist() == list(range(24))
        assert taken.is_of(source, 12)
        assert "sends more than the 24 frames asked for" in str(taken.error)
        assert driver.read_back()["frames_refused"] > 0
        server.faults = Faults()
        again = take(driver.scan(scan((4, 6))))
        assert again.error is None
        assert again.is_of(source, 12)


def test_a_detector_that_falls_silent() -> None:
    with site(SHAPE, Faults(stall={9: 3.0}), timeout=0.5) as (driver, server, _):
        taken = take(driver.scan(scan((4, 6))))
        assert taken.pixels.tolist() == list(range(8))
        assert "the Merlin has sent nothing for 0.5 s after 8 of 24 frames" in str(taken.error)
        server.faults = Faults()
        assert take(driver.scan(scan((4, 6)))).error is None


def test_a_pause_that_ends_is_waited_for() -> None:
    with site(SHAPE, Faults(stall={9: 0.6}), timeout=1.0) as (driver, _, _):
        assert take(driver.scan(scan((4, 6)))).pixels.tolist() == list(range(24))


def test_a_trigger_that_never_comes() -> None:
    with site(SHAPE, trigger="external", trigger_timeout=0.4, rate=0.5) as (driver, _, _):
        taken = take(driver.scan(scan((2, 2))))
        assert not taken.pixels.size
        assert "after 0 of 4 frames. see its software and the triggers" in str(taken.error)


def test_frames_of_another_size() -> None:
    with site(SHAPE, pixels=(16, 32), timeout=0.3) as (driver, _, _):
        taken = take(driver.scan(scan((2, 2))))
        assert not taken.pixels.size
        assert "4 were refused (frames of 16 x 64 pixels, not 16 x 32: set pixels = [16, 64])" in str(taken.error)


def test_stale_frames_and_rubbish_before_the_header_are_left_out() -> None:
    words = b"GARBAGE" * 1024 + frame(5, 9) + frame(6, 9) + b"MPX,12" + header(8)
    taken, told, _ = taken_of(words + b"".join(frame(n, n) for n in range(1, 9)))
    assert taken.error is None
    assert taken.data[:, 0, 0].tolist() == list(range(1, 9))
    assert told["frames_stale"] == 2
    assert told["bytes_skipped"] == 7 * 1024 + 2 * len(frame(1)) + 6


def test_what_an_earlier_run_left_in_the_connection_is_read_away() -> None:
    with site(SHAPE) as (driver, server, source):
        assert take(driver.scan(scan((2, 2)))).error is None
        assert server._client is not None
        server._client.sendall(frame(3, 9) + frame(4, 9)[:1000])
        taken = take(driver.scan(scan((2, 3))))
        assert taken.error is None
        assert taken.is_of(source, 12)
        assert driver.read_back()["bytes_skipped"] == len(frame(1)) + 1000


def test_an_acquisition_that_somebody_else_begins() -> None:
    words = header(8) + frame(1) + frame(2) + header(100) + frame(1)
    taken, _, _ = taken_of(words)
    assert taken.pixels.tolist() == [0, 1]
    assert "another acquisition began on the Merlin after 2 of 8 frames" in str(taken.error)


def test_a_run_that_is_begun_again_before_its_first_frame() -> None:
    taken, _, _ = taken_of(header(8) + header(8) + b"".join(frame(n) for n in range(1, 9)))
    assert taken.error is None
    assert taken.pixels.tolist() == list(range(8))


class Deaf(MerlinServer):
    """Sends nothing of its first run, as one does that still talks to a connection which is gone."""

    def _send_run(self, client: socket.socket, run: Any) -> None:
        if self.runs == 1:
            run.stop.wait(5.0)
        else:
            super()._send_run(client, run)


def test_a_start_that_is_not_heard_is_said_again() -> None:
    with Deaf(PoolSource(SHAPE), rate=0.0) as server:
        driver = Merlin(settings(server, timeout=0.3))
        assert take(driver.scan(scan((2, 2)))).pixels.tolist() == [0, 1, 2, 3]
        assert server.runs == 2
        driver.close()


def test_numbers_that_begin_with_zero() -> None:
    taken, _, _ = taken_of(header(4) + b"".join(frame(n) for n in range(4)), (2, 2))
    assert taken.error is None
    assert taken.pixels.tolist() == [0, 1, 2, 3]


def test_a_length_that_would_not_fit_any_memory() -> None:
    lie = b"MPX,9999999999" + frame(3)[14:]
    words = header(8) + lie + b"".join(frame(n) for n in (1, 2)) + lie + b"".join(frame(n) for n in range(4, 9))
    taken, told, driver = taken_of(words)
    assert taken.error is None
    assert taken.pixels.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert told["frames_refused"] == 2
    assert driver._memory.size == 1 << 20


def test_an_endless_header() -> None:
    taken, _, driver = taken_of(b"MPX,0099999999,HDR," + b"x" * 300_000)
    assert "after 0 of 8 frames" in str(taken.error)
    assert driver._memory.size == 1 << 20


@pytest.mark.parametrize("field", [(20, b"x"), (22, b"99999"), (33, b"ZZZZ"), (38, b"0000"), (43, b"F64")])
def test_a_header_that_is_none(field: tuple[int, bytes]) -> None:
    at, text = field
    wrong = bytearray(frame(1))
    wrong[at : at + len(text)] = text
    taken, told, _ = taken_of(header(8) + bytes(wrong) + b"".join(frame(n) for n in range(2, 9)))
    assert taken.error is None
    assert taken.pixels.tolist() == list(range(1, 8))
    assert told["frames_refused"] == 1


def test_numbers_that_go_on_from_the_last_run() -> None:
    taken, _, _ = taken_of(header(4) + b"".join(frame(n, n) for n in (101, 102, 104)), (2, 2))
    assert taken.pixels.tolist() == [0, 1, 3]


def test_a_detector_that_goes_away_and_comes_back() -> None:
    source = PoolSource(SHAPE)
    with MerlinServer(source, rate=0.0) as first:
        driver = Merlin(settings(first, timeout=0.5))
        assert take(driver.scan(scan((2, 2)))).error is None
    told = driver.read_back()
    assert (told["connected"], told["acquiring"]) == (False, None)
    driver.make_safe()  # does not raise
    with pytest.raises(DriverError, match="no Merlin at"):
        driver.scan(scan((2, 2)))
    ports = {"control_port": first.control_port, "data_port": first.data_port}
    with MerlinServer(source, rate=0.0, **ports):
        assert take(driver.scan(scan((2, 2)))).pixels.tolist() == [0, 1, 2, 3]
    driver.close()


def test_it_becomes_safe_while_a_run_waits_and_while_the_control_port_is_mute() -> None:
    with site(SHAPE, trigger="external", rate=0.1) as (driver, server, _):
        acquisition = driver.scan(scan((4, 6)))
        done: list[Taken] = []
        thread = threading.Thread(target=lambda: done.append(take(acquisition)))
        thread.start()
        began = time.monotonic()
        driver.make_safe()
        assert time.monotonic() - began < 0.4
        thread.join(2.0)
        assert done[0].error is None
        assert server.status == 0
        answer, server.commands.answer = server.commands.answer, lambda request: time.sleep(1.0) or ""  # type: ignore[method-assign,assignment,func-returns-value]
        began = time.monotonic()
        driver.make_safe()
        assert time.monotonic() - began < 0.4
        server.commands.answer = answer  # type: ignore[method-assign]
        driver.set_detector(c.SetDetector(bit_depth=6))
        assert driver.read_back()["bit_depth"] == 6
