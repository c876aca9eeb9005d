"""How far the clocks of two hosts are apart, by round trips; and how wrong that may be.

Cristian's method: a message goes there and back, the other side's stamps lie somewhere inside. The offset is the
midpoint, the error half of the round trip; of a recent window the trip with the smallest error counts. An older trip
is worth less, because two clocks drift apart (NTP's dispersion, RFC 5905).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_NS = 60_000_000_000
DRIFT = 50e-6  # two quartz clocks, relative
_KEPT = 512


@dataclass(frozen=True, slots=True)
class Offset:
    """remote = local + offset_ns, true within ± error_ns."""

    offset_ns: int
    error_ns: int

    def to_local(self, remote_ns: int) -> int:
        """Return a stamp of the other host on this host's clock; 0 = no stamp stays 0."""
        return remote_ns - self.offset_ns if remote_ns else 0

    def to_remote(self, local_ns: int) -> int:
        """Return a stamp of this host on the other one's clock; 0 = no stamp stays 0."""
        return local_ns + self.offset_ns if local_ns else 0


class ClockOffset:
    """Round trips to one other host, and what follows from them. Stamps are CLOCK_MONOTONIC of each host [ns]."""

    def __init__(self) -> None:
        self._trips: deque[tuple[int, int, int]] = deque(maxlen=_KEPT)  # heard, offset, half trip

    def add(self, sent: int, received: int, replied: int, heard: int) -> bool:
        """Take a round trip: sent and heard here, received and replied there; False when that can't be one."""
        trip = (heard - sent) - (replied - received)
        if trip < 0 or replied < received:
            return False
        offset, half = ((received - sent) + (replied - heard)) // 2, trip // 2 + 1
        known = self.estimate(heard)
        if known is not None and abs(offset - known.offset_ns) > half + known.error_ns:
            self._trips.clear()  # that host was suspended or started anew: what was known is void
        self._trips.append((heard, offset, half))
        return True

    def estimate(self, now_ns: int) -> Offset | None:
        """Return the offset with its error now; None before the first round trip, or when none is recent."""
        while self._trips and now_ns - self._trips[0][0] > WINDOW_NS:
            self._trips.popleft()
        errors = ((half + round(max(0, now_ns - heard) * DRIFT), offset) for heard, offset, half in self._trips)
        best = min(errors, default=None)
        return None if best is None else Offset(best[1], best[0])
