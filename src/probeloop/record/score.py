"""Holds a record against the truth of the simulator that made it: what was measured, decided and claimed.

Record and truth are joined afterwards, frame by frame on the instrument's time, and by name. What can't be joined is
named with the reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.calibration import Calibration
from ..data.control import Event, Generation, Observed, StateChange
from ..data.errors import ProbeloopError
from .reader import RecordedTopic, Session
from .score_focus import focus_scores
from .truth import LEFT_OUT, SessionTruth, Values

_COLUMNS = frozenset(("time_ns", "scan_index", "position", "drift", "electrons"))
_OF_THE_WHOLE = frozenset(("aberrations", "calibrations", "drift", LEFT_OUT))
_MOST_FRAMES = 512
Score = dict[str, Any]


def score_session(folder: Path | str) -> Score:
    """Return the scores of a session; raises RecordError when it is none, or no simulator made it.

    position, drift, focus, counts, calibrations, maps, observations: see the functions. not_scored: name to reason.
    """
    truth, session = SessionTruth(folder), Session(folder)
    events = sorted(session.events(), key=lambda event: event.time_ns)
    known = _calibrations(Path(folder))
    missed: dict[str, str] = {}
    whole = truth.end
    generations = {number: truth.values(number) for number in truth.generations}
    _take_spectra(events, generations, whole, missed)
    records: dict[int, list[RecordedTopic]] = {}
    for topic in session.topics():
        if topic.is_scan:
            records.setdefault(topic.generation, []).append(topic)
    joined = [
        Joined(number, generations[number], records[number])
        for number in sorted(generations.keys() & records.keys())
        if len(generations[number].get("time_ns", ()))
    ]
    made: Score = {"session": str(folder), "generations": len(joined)}
    made["position"] = _position(joined)
    made["drift"] = _drift(events, generations)
    made["focus"] = focus_scores(events, generations, whole, known, missed)
    made["counts"] = _counts(joined, whole, known, missed)
    made["calibrations"] = _of_calibrations(whole, known)
    made["maps"] = [score for each in joined for score in each.maps(missed)]
    made["observations"] = _observations(events, generations)
    for number in sorted(records.keys() - generations.keys()):
        missed[f"generation {number}"] = "the simulator said nothing of its frames"
    used = {score["name"] for score in made["maps"] + made["observations"]}
    for name in sorted(whole.keys() - used - _OF_THE_WHOLE):
        missed[name] = "nothing recorded of a generation is called so"
    for name in whole.get(LEFT_OUT, ()):
        missed[str(name)] = "a function: ask load_simulator(...).truth()"
    empty = {"position": "no frame of known true position", "drift": "no reference was registered",
             "focus": "no plan said what it corrected", "counts": "no frames with a known current were recorded",
             "calibrations": "the simulator says nothing of them"}  # fmt: skip
    missed |= {name: why for name, why in empty.items() if not made[name]}
    return made | {"not_scored": missed}


class Joined:
    """The records of a generation and what was true of its frames, pixel by pixel."""

    def __init__(self, number: int, truth: Values, records: list[RecordedTopic]) -> None:
        self.number, self.truth, self.records = number, truth, records
        times = np.asarray(truth["time_ns"], np.int64)
        self._order = np.argsort(times, kind="stable")
        self._times = times[self._order]

    def rows(self, record: RecordedTopic) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (pixels of the record, rows of the truth) of the frames that both know."""
        pixels = np.flatnonzero(record.present)
        same, rows = self.at(record.column("time_ns").reshape(-1)[pixels])
        return pixels[same], rows[same]

    def at(self, times: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Return which of the times [ns] are known, and their rows of the truth."""
        at = np.minimum(np.searchsorted(self._times, times), len(self._times) - 1)
        return self._times[at] == times, self._order[at]

    def of(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any] | None:
        """Return a truth's values at rows; one that holds for all is repeated."""
        values = self.truth.get(name)
        if not isinstance(values, np.ndarray) or values.ndim == 0 or len(values) not in (1, len(self._times)):
            return None
        return values[rows] if len(values) > 1 else np.broadcast_to(values[0], (len(rows), *values.shape[1:]))

    def first(self, kind: str) -> RecordedTopic | None:
        """Return the first record of a kind."""
        return next((record for record in self.records if record.spec.kind == kind), None)

    def maps(self, missed: dict[str, str]) -> list[Score]:
        """Return a score for every truth that is called like a recorded topic, its output or one of its channels."""
        made = []
        for name, record in itertools.product(sorted(self.truth.keys() - _COLUMNS), self.records):
            channels = [channel.name for channel in record.spec.channels]
            if name not in (record.topic, record.topic.rpartition(".")[2], *channels):
                continue
            pixels, rows = self.rows(record)
            true = self.of(name, rows)
            if true is None or len(pixels) < 3:
                missed[f"{name} of generation {self.number}"] = "no row for each of its frames"
                continue
            data = record.data().reshape(-1, *record.spec.frame_shape)[pixels]
            if name in channels and len(channels) > 1:
                data = data[:, channels.index(name)]
            if data.shape != true.shape:
                missed[f"{name} of generation {self.number}"] = f"frames of {data.shape[1:]}, true {true.shape[1:]}"
                continue
            made.append({"name": name, "topic": record.topic, "generation": self.number} | agreement(data, true))
        return made


def agreement(measured: NDArray[Any], true: NDArray[Any]) -> Score:
    """Return how two arrays of one shape agree, real or complex, NaN left out.

    correlation: |r| of complex ones. slope: of measured over true. rms: of the difference; rms_of_fit: after scale
    and offset are taken out.
    """
    kind = complex if "c" in measured.dtype.kind + true.dtype.kind else float
    a, b = np.asarray(measured, kind).ravel(), np.asarray(true, kind).ravel()
    good = np.isfinite(a) & np.isfinite(b)
    a, b = a[good], b[good]
    if a.size < 3:
        return {"correlation": None, "slope": None, "rms": None, "rms_of_fit": None, "values": int(a.size)}
    da, db = a - a.mean(), b - b.mean()
    power, other = float(np.vdot(db, db).real), float(np.vdot(da, da).real)
    cross = np.vdot(db, da)
    r = None if not power * other else float(abs(cross) if kind is complex else cross) / (power * other) ** 0.5
    slope = cross / power if power else np.float64(0.0)
    return {
        "correlation": r,
        "slope": float(abs(slope) if kind is complex else slope) if power else None,
        "rms": float(np.sqrt(np.mean(np.abs(a - b) ** 2))),
        "rms_of_fit": float(np.sqrt(np.mean(np.abs(da - slope * db) ** 2))),
        "values": int(a.size),
    }


def _position(joined: list[Joined]) -> Score:
    """Return how far the recorded place of a frame is from where the probe was on the specimen [m].

    rms, max: as recorded, so with all drift in it. within_scan: rms about each scan's mean shift, what bends a map.
    """
    shifts = []
    for each in joined:
        record = each.records[0]
        pixels, rows = each.rows(record)
        true = each.of("position", rows)
        if true is not None and len(pixels):
            shifts.append(record.column("position").reshape(-1, 2)[pixels] - true)
    if not shifts:
        return {}
    every = np.concatenate(shifts)
    inside = np.concatenate([shift - shift.mean(axis=0) for shift in shifts])
    return {
        "rms_m": float(np.sqrt(np.mean(np.sum(every**2, axis=1)))),
        "max_m": float(np.sqrt(np.sum(every**2, axis=1).max())),
        "within_scan_rms_m": float(np.sqrt(np.mean(np.sum(inside**2, axis=1)))),
        "frames": len(every),
    }


def _drift(events: Iterable[Event], generations: dict[int, Values]) -> Score:
    """Return the error of every registered reference [m], against the drift of the newest frame before it.

    Only the change since the first reference can be known; the first one alone is held against no drift.
    """
    newest: NDArray[np.float64] | None = None
    pairs = []
    for event in events:
        match event:
            case Generation():
                drift = generations.get(event.id, {}).get("drift")
                newest = drift[-1] if isinstance(drift, np.ndarray) and len(drift) else newest
            case StateChange(target="drift", state="set") if newest is not None:
                pairs.append(((float(event.data["x"]), float(event.data["y"])), newest))
    if not pairs:
        return {}
    said, true = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    error = said - true if len(pairs) == 1 else (said - said[0] - (true - true[0]))[1:]
    length = np.hypot(*error.T)
    return {
        "references": len(pairs),
        "rms_m": float(np.sqrt(np.mean(length**2))),
        "max_m": float(length.max()),
        "true_m": float(np.hypot(*(true[-1] - (true[0] if len(pairs) > 1 else 0)))),
    }


def _counts(joined: list[Joined], whole: Values, known: dict[str, Calibration], missed: dict[str, str]) -> Score:
    """Return electrons detected over electrons sent, and the error of the recorded dose.

    share_detected: below 1 by what misses the camera. dose_error: of the column `dose`, relative.
    """
    factor = _true(whole, "counts_per_electron") or _value(known, "counts_per_electron")
    shares, doses, frames = [], [], 0
    for each in joined:
        record = each.first("frames")
        if record is None or "electrons" not in each.truth:
            continue
        if not factor:
            missed["counts"] = "counts per electron are not known"
            return {}
        wanted = np.zeros(record.present.size, bool)
        wanted[np.flatnonzero(record.present)[:_MOST_FRAMES]] = True
        for block in record.blocks(wanted=wanted):
            same, rows = each.at(block.time_ns)
            sent, on = each.of("electrons", rows), same & (block.dose > 0)
            if sent is None or not on.any():
                continue
            sums = block.data.reshape(block.count, -1).sum(axis=1, dtype=np.float64) / factor[0]
            shares.append((sums[on].sum(), sent[on].sum()))
            doses.append((block.dose[on].sum(), sent[on].sum()))
            frames += int(on.sum())
    if not frames:
        return {}
    seen, sent_in_all = np.sum(shares, axis=0)
    return {
        "share_detected": float(seen / sent_in_all),
        "dose_error": float(np.sum(doses, axis=0)[0] / sent_in_all - 1),
        "frames": frames,
    }


def _of_calibrations(whole: Values, known: dict[str, Calibration]) -> Score:
    """Return by kind how far the calibrations in force at the end of the session were off, each in its own units."""
    made: Score = {}
    true = whole.get("calibrations")
    for kind in sorted(true) if isinstance(true, dict) else ():
        right, have = _true(whole, kind), _value(known, kind)
        if right is None or have is None or len(right) != len(have):
            continue
        error = [h - r for h, r in zip(have, right, strict=True)]
        whole_part = [e / r if r else None for e, r in zip(error, right, strict=True)]
        made[kind] = {"true": list(right), "used": list(have), "error": error, "relative": whole_part}
    return made


def _observations(events: Iterable[Event], generations: dict[int, Values]) -> list[Score]:
    """Return how scalarizers' values and their word on validity agree with truths of single measurements.

    A truth called like the scalarizer, or like the end of its name (area of loop_area), is its value; `broken` (or
    `valid`) says whether a spectrum can be trusted. Of a value that was told again the last one counts.
    """
    values: dict[str, dict[Any, tuple[float, float]]] = {}
    verdicts: dict[str, dict[Any, tuple[bool, bool]]] = {}
    for event in events:
        if not isinstance(event, Observed) or event.kind != "observe" or not isinstance(event.value, dict):
            continue
        step = event.value.get("step")
        asked = str(step.get("scalarizer", "value")) if isinstance(step, dict) else "value"
        for row, each in enumerate(event.value.get("value") or ()):
            if not isinstance(each, dict):
                continue
            name = str(each.get("scalarizer") or asked)
            index = each.get("index", -1)
            place = (each.get("generation"), index) if index >= 0 else (event.step, row)
            truth = generations.get(int(each.get("generation", 0) or 0), {})
            key = next((k for k in truth if name == k or name.endswith("_" + k)), name)
            valid = bool(each.get("valid", True))
            if np.size(truth.get(key, ())) == 1 and valid:
                pair = float(each.get("value", np.nan)), float(np.ravel(truth[key])[0])
                values.setdefault(name, {})[place] = pair
            for word, sense in (("broken", False), ("valid", True)):
                if word in truth and np.size(truth[word]) == 1:
                    verdict = valid, bool(np.ravel(truth[word])[0]) == sense
                    verdicts.setdefault(word, {})[name, *place] = verdict
    made: list[Score] = []
    for name, pairs in values.items():
        made.append({"name": name} | agreement(*np.array(list(pairs.values())).T))
    for word, told in verdicts.items():
        said = list(told.values())
        caught, rejected = sum(not s and not t for s, t in said), sum(not s for s, _ in said)
        bad = sum(not t for _, t in said)
        made.append({"name": word, "values": len(said), "bad": bad, "bad_rejected": caught,
                     "good_rejected": rejected - caught})  # fmt: skip
    return made


def _take_spectra(
    events: Iterable[Event], generations: dict[int, Values], whole: Values, missed: dict[str, str]
) -> None:
    """Give each measured spectrum its entry of the truth `spectra`, a list in the order of the measurements."""
    entries = whole.pop("spectra", None)
    if not isinstance(entries, list):
        return
    began = [e.id for e in events if isinstance(e, Generation) and type(e.scan).__name__ == "AcquireSpectrum"]
    if len(began) != len(entries):
        missed["spectra"] = f"{len(entries)} of them are known, {len(began)} were measured"
        return
    for number, entry in zip(began, entries, strict=True):
        told = {k: np.array([v]) for k, v in entry.items() if isinstance(v, int | float)}
        if "broken" in entry:
            told["broken"] = np.array([bool(entry["broken"])])
        generations[number] = told | generations.get(number, {})


def _calibrations(folder: Path) -> dict[str, Calibration]:
    """Return the session's calibrations by kind, the newest of each; a torn file is as good as none."""
    found: dict[str, Calibration] = {}
    for path in sorted((folder / "calibration").glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        try:
            each = msgspec.json.decode(path.read_bytes(), type=Calibration)
        except (OSError, msgspec.MsgspecError, ProbeloopError):
            continue
        if each.kind not in found or each.time >= found[each.kind].time:
            found[each.kind] = each
    return found


def _value(known: dict[str, Calibration], kind: str) -> tuple[float, ...] | None:
    return known[kind].value if kind in known else None


def _true(whole: Values, kind: str) -> tuple[float, ...] | None:
    """Return the true value of a calibration."""
    true = whole.get("calibrations")
    value = true.get(kind) if isinstance(true, dict) else None
    return None if value is None else tuple(map(float, np.atleast_1d(value)))
