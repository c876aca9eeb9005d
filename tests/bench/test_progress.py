"""Progress: one line written over on a screen, now and then a line elsewhere, with the time that is left."""

from __future__ import annotations

import io

from probeloop.bench.progress import Progress
from probeloop.data.clock import ManualClock


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_screen_gets_one_line_that_goes_away() -> None:
    clock, screen = ManualClock(), Screen()
    tell = Progress("round", clock, screen)
    tell(1, 10)
    assert screen.getvalue() == ""  # too soon
    clock.advance(2.0)
    tell(2, 10)
    assert screen.getvalue().startswith("\rround 2 of 10, 8 s to go")
    tell(10, 10)
    assert screen.getvalue().endswith("\r" + " " * 70 + "\r")
    assert "\n" not in screen.getvalue()


def test_a_file_gets_a_line_now_and_then() -> None:
    clock, file = ManualClock(), io.StringIO()
    tell = Progress("round", clock, file)
    for done in range(1, 31):
        clock.advance(1.0)
        tell(done, 30)
    assert file.getvalue() == "round 10 of 30, 20 s to go\nround 20 of 30, 10 s to go\n"
