"""How much may be under way to a remote host: enough to fill the link, not so much that it waits in its queues.

A window of bytes that grows while the reader's receipts come promptly and shrinks when they come late, as TCP Vegas
and LEDBAT (RFC 6817) do: on a slow link the newest frame is then a few frames old at most, and no verdict waits
behind a megabyte of pictures. The best of a round of receipts counts: a queue delays all of them, a lost packet some.
Prompt is measured against the shortest delay of this link; every half minute the queue
is let run empty for a moment to measure that again, as BBR does, for a standing queue looks like a long link; sooner
where the link became longer, which looks like a queue that no small window ends.
"""

from __future__ import annotations

from collections import deque

from ...data.errors import WireError

MOST = 64 << 20
_FIRST = 256 << 10
_PROMPT_NS = 20_000_000  # of queueing that is not yet a queue
_MEASURE_NS = 30_000_000_000
_ROUND, _ROUND_NS = 4, 50_000_000  # receipts, and time, that a round has at least
_LEAST, _AGAIN_NS = 32 << 10, 2_000_000_000  # bytes; a window so small that is late is measured anew so often
_UNDER_WAY = 2  # messages that may always be, so that the link does not idle


class Pace:
    """Bytes sent, bytes that the reader says it got, and the window between them."""

    def __init__(self) -> None:
        self.window = _FIRST
        self.delay_ns = 0
        self._sent = self._got = self._largest = 0
        self._marks: deque[tuple[int, int]] = deque()
        self._least_ns = 0
        self._measured_ns = self._round_ns = self._receipts = 0
        self._best_ns = 0  # of this round
        self._measuring_from: int | None = 0  # a message sent beyond this total tells the least delay
        self._starting = True

    @property
    def room(self) -> bool:
        """Whether another message may be sent."""
        window = self.window if self._measuring_from is None or self._starting else 0
        return self._sent - self._got < max(window, _UNDER_WAY * self._largest, 1)

    @property
    def under_way(self) -> int:
        """Bytes sent and not yet received there."""
        return self._sent - self._got

    def sent(self, size: int, now_ns: int) -> None:
        """Note a message of `size` bytes."""
        self._sent += size
        self._largest = max(size, self._largest - self._largest // 256)
        self._marks.append((self._sent, now_ns))

    def got(self, total: int, now_ns: int) -> None:
        """Take the reader's receipt for `total` bytes so far; raises WireError for one that can't be true."""
        if not self._got <= total <= self._sent:
            raise WireError(f"a receipt for {total} bytes, {self._sent} were sent")
        fresh, self._got, sent_ns, mark = total - self._got, total, 0, 0
        while self._marks and self._marks[0][0] <= total:
            mark, sent_ns = self._marks.popleft()
        if not sent_ns:
            return
        self.delay_ns = delay = now_ns - sent_ns
        if self._measuring_from is not None and mark > self._measuring_from:
            self._least_ns, self._measured_ns, self._measuring_from = delay, now_ns, None
        self._least_ns = min(self._least_ns or delay, delay)
        if self._measuring_from is not None:
            return
        self._receipts += 1
        self._best_ns = min(self._best_ns or delay, delay)
        prompt = self._best_ns <= 2 * self._least_ns + _PROMPT_NS
        if now_ns - self._measured_ns > _MEASURE_NS:
            self._measuring_from = self._sent
        elif prompt:
            self.window = min(MOST, self.window + (fresh if self._starting else fresh // 8))
        over = self._receipts >= _ROUND and now_ns - self._round_ns > max(_ROUND_NS, 2 * self._least_ns)
        if over and not prompt:
            self.window, self._starting = max(_LEAST, self.window * 3 // 4), False
            if self.window == _LEAST and now_ns - self._measured_ns > _AGAIN_NS:
                self._measuring_from = self._sent  # so little makes no queue: the way is longer than it was
        if over:
            self._round_ns, self._receipts, self._best_ns = now_ns, 0, 0
