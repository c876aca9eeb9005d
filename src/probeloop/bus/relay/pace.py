"""How much may be under way to a remote host: enough to fill the link, not so much that it waits in its queues.

A window of bytes that grows while the reader's receipts come promptly and shrinks when they come late, as TCP Vegas
and LEDBAT do: on a slow link the newest frame is then at most a few frames old, and a verdict does not wait behind
a megabyte of pictures.
"""

from __future__ import annotations

from collections import deque

from ...data.errors import WireError

MOST = 64 << 20
_FIRST = 1 << 20
_PROMPT_NS = 20_000_000  # of queueing that is not yet a queue
_FORGET_NS = 10_000_000_000


class Pace:
    """Bytes sent, bytes that the reader says it got, and the window between them."""

    def __init__(self) -> None:
        self.window = _FIRST
        self.delay_ns = 0
        self._sent = self._got = self._largest = 0
        self._marks: deque[tuple[int, int]] = deque()
        self._least: deque[tuple[int, int]] = deque()  # (when, delay), delays rising
        self._shrunk_ns = 0

    @property
    def room(self) -> bool:
        """Whether another message may be sent: two may always be under way, so that the link does not idle."""
        return self._sent - self._got < max(self.window, 2 * self._largest)

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
        fresh, self._got, sent_ns = total - self._got, total, 0
        while self._marks and self._marks[0][0] <= total:
            sent_ns = self._marks.popleft()[1]
        if not sent_ns:
            return
        self.delay_ns = delay = now_ns - sent_ns
        while self._least and (self._least[-1][1] >= delay or now_ns - self._least[0][0] > _FORGET_NS):
            self._least.pop() if self._least[-1][1] >= delay else self._least.popleft()
        self._least.append((now_ns, delay))
        least = self._least[0][1]
        if delay <= 2 * least + _PROMPT_NS:
            self.window = min(MOST, self.window + fresh)
        elif now_ns - self._shrunk_ns > delay:
            self.window, self._shrunk_ns = max(1, self.window * 3 // 4), now_ns
