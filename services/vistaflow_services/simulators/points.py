"""The store of evaluated points: nothing is computed twice, also after a restart.

    <root>/<deck's digest>/<simulator>-<version>/points/<2 hex>/<key>.json    one run, one file
                                                 chunks/<id>.jsonl            many cheap points
                                                 locks/<key>                  runs in progress

The key is the SHA-256 of the canonical point. A file appears whole or not at all: it is written
beside its place, synced and renamed. Failures are kept like results; only what may go otherwise
next time, such as a missing licence, is not. A line or file that cannot be read counts as absent,
so that a damaged disk costs time and not results.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vistaflow_services.core import files
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators.locks import locked
from vistaflow_services.simulators.outcome import Failure, Outcome
from vistaflow_services.simulators.status import require_simulator

_ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def point_key(point: Mapping[str, Any]) -> str:
    """The identity of a canonical point within its deck."""
    return hashlib.sha256(_ENCODE(point).encode()).hexdigest()


class PointStore:
    """Outcomes by deck, simulator with version, and point; for threads and processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._chunks: dict[Path, dict[str, bytes]] = {}
        self._read: dict[Path, set[str]] = {}
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[type[PointStore], tuple[Path]]:
        return PointStore, (self.root,)

    def get(self, deck: Deck, point: Mapping[str, Any]) -> Outcome | None:
        """What came of a point, if it was ever run.

        Raises:
            InvalidError: If it is no point of the deck.
        """
        canonical = deck.space.check(point)
        return next(iter(self.get_many(deck, {point_key(canonical): canonical}).values()), None)

    def put(self, deck: Deck, outcome: Outcome) -> None:
        """Keeps one outcome, durably; a later one of the same point takes its place."""
        if not _lasting(outcome):
            return
        key = point_key(outcome.point)
        path = self._folder(deck) / "points" / key[:2] / f"{key}.json"
        files.write(path, _ENCODE(outcome.to_dict()).encode() + b"\n")

    def get_many(self, deck: Deck, points: Mapping[str, Point]) -> dict[str, Outcome]:
        """The outcomes of those canonical points, given by their `point_key`, that were run."""
        folder = self._folder(deck)
        chunks = self._chunks_of(folder)
        found: dict[str, Outcome] = {}
        shelves: dict[str, set[str]] = {}
        for key, point in points.items():
            line = chunks.get(key)
            if line is None:
                shelf = key[:2]
                if shelf not in shelves:
                    shelves[shelf] = _names(folder / "points" / shelf)
                if f"{key}.json" not in shelves[shelf]:
                    continue
                with contextlib.suppress(OSError):
                    line = (folder / "points" / shelf / f"{key}.json").read_bytes()
            outcome = _parsed(line, point)
            if outcome is not None:
                found[key] = outcome
        return found

    def put_many(self, deck: Deck, outcomes: Mapping[str, Outcome]) -> None:
        """Keeps many outcomes of a cheap simulator, by `point_key`, in one file, all or none."""
        lines = [
            _ENCODE({"key": key, **each.to_dict()})
            for key, each in outcomes.items()
            if _lasting(each)
        ]
        if lines:
            path = self._folder(deck) / "chunks" / f"{uuid.uuid4().hex}.jsonl"
            files.write(path, ("\n".join(lines) + "\n").encode())

    def count(self, deck: Deck) -> int:
        """How many outcomes of the deck are kept."""
        folder = self._folder(deck)
        single = sum(len(_names(each)) for each in _folders(folder / "points"))
        return single + len(self._chunks_of(folder))

    def running(
        self, deck: Deck, name: str, should_stop: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[bool]:
        """Holds the right to run what `name` stands for; see `locked`."""
        return locked(self._folder(deck) / "locks" / name, should_stop)

    def _folder(self, deck: Deck) -> Path:
        version = re.sub(r"[^\w.+-]", "_", require_simulator(deck.simulator))
        return self.root / deck.digest / f"{deck.simulator}-{version}"

    def _chunks_of(self, folder: Path) -> dict[str, bytes]:
        """All lines of the chunk files, by key; each file is read once."""
        place = folder / "chunks"
        with self._guard:
            index = self._chunks.setdefault(folder, {})
            read = self._read.setdefault(folder, set())
            for name in sorted(_names(place) - read):
                with contextlib.suppress(OSError):
                    for line in (place / name).read_bytes().split(b"\n"):
                        # `{"failure":...,"key":"<64 hex>",...}`: parsed only when asked for.
                        at = line.find(b'"key":"')
                        if at >= 0 and line.endswith(b"}"):
                            index[line[at + 7 : at + 71].decode("ascii", "replace")] = line
                    read.add(name)
            return index


def _lasting(outcome: Outcome) -> bool:
    return outcome.failure is not Failure.LICENSE


def _parsed(line: bytes | None, point: Point) -> Outcome | None:
    """The outcome that a line keeps, if it is one and of this point."""
    if line is None:
        return None
    try:
        told = json.loads(line)
        if told["point"] != point:
            return None
        return Outcome.from_dict({**told, "point": point})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _names(folder: Path) -> set[str]:
    try:
        return {name for name in os.listdir(folder) if not name.startswith(".")}
    except OSError:
        return set()


def _folders(folder: Path) -> list[Path]:
    return [folder / name for name in _names(folder)]
