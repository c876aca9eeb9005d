"""Holds a recorded load against its source: every frame bit for bit, every dark-field value, every gap named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compute.detector import DetectorGeometry
from ..data.calibration import CalibrationSet
from ..data.control import Done, Event, Gap, Generation, Remark, StateChange
from ..data.errors import RecordError
from ..record.reader import RecordedTopic, Session

CAMERA, DARK_FIELD = "camera", "adf.intensity"
_NAMED = 8


@dataclass
class Checked:
    """What a record came to. asked: frames that the scans had; lost: by topic, against that; gaps: by who told.

    unnamed: frames lost that nobody told of. first_ns, last_ns: when the scans began and ended, CLOCK_MONOTONIC.
    """

    asked: int = 0
    recorded: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    unnamed: dict[str, int] = field(default_factory=dict)
    corrupt: list[str] = field(default_factory=list)
    corrupt_frames: int = 0
    gaps: dict[str, int] = field(default_factory=dict)
    named: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    first_ns: int = 0
    last_ns: int = 0

    @property
    def seconds(self) -> float:
        """How long the scans took, the pauses between them included [s]."""
        return (self.last_ns - self.first_ns) / 1e9


def check(folder: Path, camera: Any, annulus: tuple[float, float], tell: Callable[[int, int], None]) -> Checked:
    """Check a session of the camera; raises RecordError when it can't be read.

    camera: an instrument of the same parameters. annulus: of the dark field [rad]. tell: (frames done, of).
    """
    session, made = Session(folder), Checked()
    _read_events(session, made)
    topics = session.topics()
    scans = [topic for topic in topics if topic.topic == CAMERA]
    if not scans:
        raise RecordError("no camera frame was recorded", f"see {folder}/log")
    made.asked = sum(map(len, scans))
    before = 0
    for scan in scans:
        _check_frames(scan, before, camera, made, tell)
        before += len(scan)
    geometry = DetectorGeometry.of(scans[0].spec, CalibrationSet(camera.describe().calibrations), "the load bench")
    sums = _sums(camera, geometry.annulus(*annulus))
    before = 0
    for topic in (topic for topic in topics if topic.topic == DARK_FIELD):
        _check_values(topic, before, sums, made)
        before += len(topic)
    for name in sorted({topic.topic for topic in topics if topic.is_scan}):
        there = sum(int(topic.present.sum()) for topic in topics if topic.topic == name)
        made.recorded[name], made.lost[name] = there, made.asked - there
    _account(made)
    return made


def _read_events(session: Session, made: Checked) -> None:
    told: Counter[str] = Counter()
    for event in session.events():
        match event:
            case Gap() if event.count:
                told[f"{event.process}: {event.topic}: {event.reason}"] += event.count
                if len(made.named) < _NAMED:
                    pixels = f", pixels {list(event.pixels[:4])}" if event.pixels else ""
                    made.named.append(f"{event.topic} from {event.first}, {event.count}: {event.reason}{pixels}")
            case Generation(topic=topic) if topic == CAMERA:
                made.first_ns = made.first_ns or event.time_ns
            case Done(result=result) if result.topic == CAMERA:
                made.last_ns = event.time_ns
            case _ if _is_trouble(event):
                made.troubles.append(getattr(event, "text", "") or f"{event}"[:200])
    made.gaps = dict(told)


def _is_trouble(event: Event) -> bool:
    if isinstance(event, StateChange):
        return event.state in ("died", "off", "failed", "restarted")
    return isinstance(event, Remark) and event.level != "info"


def _check_frames(
    scan: RecordedTopic, before: int, camera: Any, made: Checked, tell: Callable[[int, int], None]
) -> None:
    """Hold every recorded frame of a scan against the camera's; `before`: frames of the scans before it."""
    for block in scan.blocks():
        numbers = before + block.scan_index
        equal = block.data == camera.expected(numbers)
        if not equal.all():
            wrong = ~equal.all(axis=(1, 2))
            made.corrupt_frames += int(wrong.sum())
            pixels = [tuple(int(i) for i in np.argwhere(~equal[row])[0]) for row in np.flatnonzero(wrong)[:_NAMED]]
            for number, pixel in zip(numbers[wrong], pixels, strict=False):
                made.corrupt.append(f"{CAMERA} frame {number}, pixel {pixel}")
        tell(before + int(block.scan_index[-1]) + 1, made.asked)


def _sums(camera: Any, mask: NDArray[np.bool_]) -> Callable[[NDArray[np.int64]], NDArray[np.float32]]:
    """Return a function from frame numbers to what the dark field must be, by the naive numpy line."""
    pool = camera.parameters.pool
    sums = camera.expected(np.arange(pool))[:, mask].sum(axis=1).astype(np.float32)
    if mask[0, :4].any():
        raise RecordError("the dark field covers the pixels with the frame's number", "a smaller outer angle")
    return lambda numbers: sums[numbers % pool]


def _check_values(
    topic: RecordedTopic, before: int, sums: Callable[[NDArray[np.int64]], NDArray[np.float32]], made: Checked
) -> None:
    values, there = topic.data().ravel(), topic.present.ravel()
    wrong = there & (values != sums(before + np.arange(len(values))))
    made.corrupt_frames += int(wrong.sum())
    made.corrupt += [f"{DARK_FIELD} of frame {before + int(i)}" for i in np.flatnonzero(wrong)[:_NAMED]]


def _account(made: Checked) -> None:
    """Set what is missing against what was told: by the camera, by each reader, and by the recorder of each topic."""

    def told(process: str, topic: str, who: str = "") -> int:
        return sum(count for key, count in made.gaps.items() if key.startswith(f"{process}: {topic}: {who}"))

    camera = told("instrument", CAMERA)
    for topic, lost in made.lost.items():
        named = camera + told("recorder", topic)
        if topic != CAMERA:
            named += told("plugins", CAMERA, topic.partition(".")[0])
        made.unnamed[topic] = max(0, lost - named)
