"""The store of evaluated points: nothing is computed twice, also after a restart.

    <root>/<digest>/<simulator>-<version>/points/<2 hex>/<key>.json    one run, one file
                                          chunks/<id>.jsonl            points that ran together
                                          files/<2 hex>/<key>.zip      what one run wrote
                                          locks/<key>                  runs in progress

The digest is of what the simulator is given, so that a deck with another timeout or other ranges
has the same points. Before there was that digest, points lay under the deck's own: these are found
too. The key is the SHA-256 of the canonical point. A file appears whole or not at all: it is
written beside its place, synced and renamed. A line or file that cannot be read counts as absent,
so that a damaged disk costs time and not results.

| what came of a run       | stored | reused                                                     |
|--------------------------|--------|------------------------------------------------------------|
| responses                | yes    | yes, held against the deck's physical ranges as they are   |
| INFEASIBLE               | yes    | while the physical ranges are those it was found with      |
| NO_CONVERGENCE           | yes    | once a second run of the point has failed in the same way; |
|                          |        | of a named function at once: it is a formula               |
| TIMEOUT, CRASHED, LICENSE| no     | no, also where an earlier release stored them: the machine |
|                          |        | may be to blame, and may do better next time               |
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from vistaflow_services.core import files
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators.locks import locked
from vistaflow_services.simulators.outcome import Failure, Outcome, gated
from vistaflow_services.simulators.run_files import RunFile, packed, unpacked
from vistaflow_services.simulators.status import deck_version

_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def point_key(point: Mapping[str, Any]) -> str:
    """The identity of a canonical point within its deck."""
    return hashlib.sha256(_ENCODE(point).encode()).hexdigest()


LASTING: Final = frozenset((None, Failure.INFEASIBLE, Failure.NO_CONVERGENCE))
"""Outcomes of a run that can be properties of the point, so that every other run has them too."""

CONFIRMING_RUNS: Final = 2
"""Runs of a point that have to end without convergence before that is taken for its property.

A solver that gives up once may do so for a reason outside of the deck, such as memory that was
short or a library's threads; two runs of different times hardly have that in common."""

_RUNS: Final = "runs"
"""The field of a stored NO_CONVERGENCE with the number of its runs; 1 where it is missing."""


MOST_FILE_BYTES: Final = 1 << 30
"""Most bytes of files of the runs of one deck, compressed, over all kits; others are not stored."""


LONGEST_HELD: Final = 512
"""Longest line of a chunk that is held in memory, in bytes: one without what a run printed."""


class _Place(NamedTuple):
    """Where a line is."""

    path: Path
    start: int
    length: int

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.length)


class PointStore:
    """Outcomes by what a simulator was given, its version, and point; for threads and processes."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._chunks: dict[Path, dict[str, bytes | _Place]] = {}
        self._read: dict[Path, set[str]] = {}
        self._file_bytes: dict[Path, int] = {}
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[type[PointStore], tuple[Path]]:
        return PointStore, (self.root,)

    def get(self, deck: Deck, point: Mapping[str, Any]) -> Outcome | None:
        """What came of a point, if it was ever run and the point is to blame for it.

        Raises:
            InvalidError: If it is no point of the deck.
        """
        canonical = deck.space.check(point)
        points = {point_key(canonical): canonical}
        return next(iter(self._get(deck, points, with_logs=True).values()), None)

    def files(self, deck: Deck, point: Mapping[str, Any]) -> list[RunFile]:
        """What the stored run of a point wrote, if that is stored."""
        key = point_key(deck.space.check(point))
        with contextlib.suppress(OSError):
            return unpacked(_archive(self._folder(deck), key).read_bytes())
        return []

    def put(self, deck: Deck, outcome: Outcome, written: Sequence[RunFile] = ()) -> None:
        """Keeps one outcome, durably; a later one of the same point takes its place.

        Call it once for each run, by the holder of `running`: runs that end in NO_CONVERGENCE are
        counted.

        Args:
            deck: What was run.
            outcome: What came of it.
            written: Files that the run wrote; left out once the deck's take `MOST_FILE_BYTES`.
        """
        if outcome.failure not in LASTING:
            return
        key = point_key(outcome.point)
        path = _file(self._folder(deck), key)
        record = _record(deck, outcome)
        if outcome.failure is Failure.NO_CONVERGENCE:
            folders = (self._folder(deck), *self._earlier_folders(deck))
            record[_RUNS] = 1 + max(_unconverged_runs(_file(variant, key)) for variant in folders)
        # First: the outcome is not to be there before its files.
        if written:
            self._put_files(self._folder(deck), key, packed(written))
        files.write(path, _ENCODE(record).encode() + b"\n")

    def _put_files(self, folder: Path, key: str, data: bytes) -> None:
        with self._guard:
            if folder not in self._file_bytes:
                self._file_bytes[folder] = _size(folder / "files")
            if self._file_bytes[folder] + len(data) > MOST_FILE_BYTES:
                return
            self._file_bytes[folder] += len(data)
        files.write(_archive(folder, key), data)

    def get_many(self, deck: Deck, points: Mapping[str, Point]) -> dict[str, Outcome]:
        """The outcomes of those canonical points, given by their `point_key`, that are stored.

        Those with responses come without what their runs printed.
        """
        return self._get(deck, points, with_logs=False)

    def _get(
        self, deck: Deck, points: Mapping[str, Point], *, with_logs: bool
    ) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        for folder in (self._folder(deck), *self._earlier_folders(deck)):
            missing = {key: point for key, point in points.items() if key not in outcomes}
            outcomes |= self._get_from(folder, deck, missing)
        if with_logs:
            return outcomes
        return {
            key: replace(outcome, log="") if outcome.log and outcome.ok else outcome
            for key, outcome in outcomes.items()
        }

    def _get_from(
        self, folder: Path, deck: Deck, points: Mapping[str, Point]
    ) -> dict[str, Outcome]:
        chunks = self._chunks_of(folder)
        outcomes: dict[str, Outcome] = {}
        shelves: dict[str, set[str]] = {}
        for key, point in points.items():
            outcome = _parsed(_line(chunks.get(key)), deck, point)
            if outcome is None:
                shelf = key[:2]
                if shelf not in shelves:
                    shelves[shelf] = _names(folder / "points" / shelf)
                if f"{key}.json" not in shelves[shelf]:
                    continue
                with contextlib.suppress(OSError):
                    outcome = _parsed(_file(folder, key).read_bytes(), deck, point)
            if outcome is not None:
                outcomes[key] = outcome
        return outcomes

    def outcomes(self, deck: Deck) -> Iterator[Outcome]:
        """Every outcome of the deck that is stored and still holds, in the order of the keys."""
        seen: set[str] = set()
        for folder in (self._folder(deck), *self._earlier_folders(deck)):
            for key, line in self._lines(folder):
                with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                    outcome = _parsed(line, deck, json.loads(line)["point"])
                    if outcome is not None and key not in seen:
                        seen.add(key)
                        yield outcome

    def _lines(self, folder: Path) -> Iterator[tuple[str, bytes]]:
        chunks = dict(self._chunks_of(folder))
        names = {
            name.removesuffix(".json")
            for shelf in _folders(folder / "points")
            for name in _names(shelf)
        }
        for key in sorted(names | chunks.keys()):
            with contextlib.suppress(OSError):
                yield key, _line(chunks.get(key)) or _file(folder, key).read_bytes()

    def put_many(self, deck: Deck, outcomes: Mapping[str, Outcome]) -> None:
        """Keeps many outcomes, by `point_key`, durably in one file, all or none.

        They are of a named function, or have responses: no later run of the point counts.
        """
        lines = [
            _ENCODE({"key": key, **_record(deck, outcome)})
            for key, outcome in outcomes.items()
            if outcome.failure in LASTING
        ]
        if lines:
            path = self._folder(deck) / "chunks" / f"{uuid.uuid4().hex}.jsonl"
            files.write(path, ("\n".join(lines) + "\n").encode())

    def run_seconds(self, deck: Deck, most: int = 200) -> list[float]:
        """What runs of the deck took, in seconds: of `most` stored ones, whatever their points."""
        folder = self._folder(deck)
        held = islice(self._chunks_of(folder).values(), most)
        lines = [line for line in map(_line, held) if line]
        for shelf in _folders(folder / "points"):
            for name in sorted(_names(shelf))[: most - len(lines)]:
                with contextlib.suppress(OSError):
                    lines.append((shelf / name).read_bytes())
        seconds = []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                seconds.append(float(json.loads(line)["seconds"]))
        return seconds

    def count(self, deck: Deck) -> int:
        """How many outcomes of the deck are kept."""
        folder = self._folder(deck)
        single = sum(len(_names(names_folder)) for names_folder in _folders(folder / "points"))
        return single + len(self._chunks_of(folder))

    def running(
        self, deck: Deck, name: str, should_stop: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[bool]:
        """Holds the right to run what `name` stands for; see `locked`."""
        return locked(self._folder(deck) / "locks" / name, should_stop)

    def _folder(self, deck: Deck) -> Path:
        return self.root / deck.simulation_digest / _version(deck)

    def _earlier_folders(self, deck: Deck) -> list[Path]:
        """Where points of the deck lie that earlier releases stored."""
        # These wrote the netlist otherwise where signs meet: what they stored is of another one.
        return [] if deck.folded_signs else [self.root / deck.digest / _version(deck)]

    def _chunks_of(self, folder: Path) -> dict[str, bytes | _Place]:
        """All lines of the chunk files, by key; each file is read once, long lines again."""
        place = folder / "chunks"
        with self._guard:
            index = self._chunks.setdefault(folder, {})
            read = self._read.setdefault(folder, set())
            for name in sorted(_names(place) - read):
                with contextlib.suppress(OSError):
                    offset = 0
                    for line in (place / name).read_bytes().split(b"\n"):
                        # `{"failure":...,"key":"<64 hex>",...}`: parsed only when asked for.
                        start = line.find(b'"key":"')
                        if start >= 0 and line.endswith(b"}"):
                            key = line[start + 7 : start + 71].decode("ascii", "replace")
                            long = len(line) > LONGEST_HELD
                            index[key] = _Place(place / name, offset, len(line)) if long else line
                        offset += len(line) + 1
                    read.add(name)
            return index


def _line(held: bytes | _Place | None) -> bytes | None:
    """A line of a chunk; None if there is none, or it can be read no more."""
    if not isinstance(held, _Place):
        return held
    with contextlib.suppress(OSError):
        return held.read()
    return None


def _version(deck: Deck) -> str:
    version = re.sub(r"[^\w.+-]", "_", deck_version(deck))
    return f"{deck.simulator}-{version}"


def _file(folder: Path, key: str) -> Path:
    """Where the outcome of one run lies."""
    return folder / "points" / key[:2] / f"{key}.json"


def _archive(folder: Path, key: str) -> Path:
    """Where the files of one run lie."""
    return folder / "files" / key[:2] / f"{key}.zip"


def _size(folder: Path) -> int:
    """The bytes of the files of all shelves of a folder."""
    total = 0
    for shelf in _folders(folder):
        for name in _names(shelf):
            with contextlib.suppress(OSError):
                total += (shelf / name).stat().st_size
    return total


def _unconverged_runs(path: Path) -> int:
    """How many runs ended in NO_CONVERGENCE by a stored record; 0 if it is of another outcome."""
    try:
        record = json.loads(path.read_bytes())
        return int(record.get(_RUNS, 1)) if record["failure"] == Failure.NO_CONVERGENCE else 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return 0


def _record(deck: Deck, outcome: Outcome) -> dict[str, Any]:
    return {**outcome.to_dict(), "physical": _physical(deck)}


def _physical(deck: Deck) -> dict[str, list[float | None]]:
    """The physical range of each response that has one."""
    return {
        response.name: [response.low, response.high]
        for response in deck.responses
        if response.low is not None or response.high is not None
    }


def _parsed(line: bytes | None, deck: Deck, point: Point) -> Outcome | None:
    """The outcome that a line keeps, if it is one of this point and still holds."""
    if line is None:
        return None
    try:
        record = json.loads(line)
        if record["point"] != point:
            return None
        outcome = Outcome.from_dict({**record, "point": point})
        physical = record.get("physical", _physical(deck))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if outcome.failure not in LASTING:
        return None
    if outcome.failure is Failure.NO_CONVERGENCE and deck.simulator != "function":
        runs = record.get(_RUNS, 1)
        if not isinstance(runs, int) or runs < CONFIRMING_RUNS:
            return None
    if physical == _physical(deck):
        return outcome
    if outcome.ok:
        figures = {
            response.extract: outcome.responses[response.name] for response in deck.responses
        }
        return replace(
            gated(point, deck.responses, figures, outcome.seconds), cached=True, log=outcome.log
        )
    return None if outcome.failure is Failure.INFEASIBLE else outcome


def _names(folder: Path) -> set[str]:
    try:
        return {name for name in os.listdir(folder) if not name.startswith(".")}
    except OSError:
        return set()


def _folders(folder: Path) -> list[Path]:
    return [folder / name for name in _names(folder)]
