"""Known points that a design takes as rows: of other kits, of the point store, of datasets.

    kit 31             the rows of its design, with their own origin, and what its study ran
    store              every outcome that the point store has of the deck
    dataset lab.bench@3  rows that the request holds; no simulator of the suite has run them

Rows outside the space are left out. A row that is there already, with the same outcome, is taken
once; runs of a noisy simulator that repeat a point are all taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.core.errors import NotFoundError, field_error
from vistaflow_services.core.results import PublishedFile
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.decks.deck import Deck
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.decks.space import Columns, Point
from vistaflow_services.designs.manifest import DesignManifest
from vistaflow_services.designs.recipe import Region
from vistaflow_services.designs.table import Results
from vistaflow_services.doe.references import DECKS
from vistaflow_services.simulators.points import PointStore, point_key

POINTS: Final = "points"
"""The folder of the artifact store that holds every point ever run."""

STORE: Final = "store"
MAX_KNOWN: Final = 100_000
"""Most points that a design takes."""

_RUN: Final = ("infill", "verify")
"""The origins of trials that are not rows of the study's design."""


@dataclass(frozen=True, kw_only=True)
class KnownPoint:
    """A point and what came of it."""

    point: Point
    responses: Mapping[str, float]
    failure: str | None = None
    message: str = ""
    log: str = ""
    seconds: float = 0.0
    origin: str


@dataclass(kw_only=True)
class KnownPoints:
    """The known points inside a region, and how many there are by origin."""

    points: list[KnownPoint] = field(default_factory=list)
    origins: list[dict[str, Any]] = field(default_factory=list)
    """As `PointOrigin` has them."""

    def without(self, points: Iterable[Point]) -> list[KnownPoint]:
        """Those at other points: what a design runs itself has one row."""
        keys = set(map(point_key, points))
        return [known for known in self.points if point_key(known.point) not in keys]


def known_points(
    reuse: pb.ReuseSpec,
    deck: Deck,
    region: Region,
    results: Mapping[str, Mapping[str, Any]],
    artifacts: ArtifactStore,
) -> KnownPoints:
    """The known points that a design takes.

    Args:
        reuse: Which.
        deck: What the design is for.
        region: Where it lies.
        results: What the jobs that `reuse` names published, by their ids.
        artifacts: Where their rows lie.

    Raises:
        InvalidError: A kit ran another deck, a table lacks a column, or there are too many.
        ServiceError: A file is gone or altered.
    """
    known, seen = KnownPoints(), set[tuple[Any, ...]]()
    store = PointStore(artifacts.root / POINTS)
    sources: list[tuple[str, str, Iterator[KnownPoint]]] = []
    for place, kit in enumerate(reuse.kits):
        origin, path = f"kit {kit.kit_id}", f"kits[{place}]"
        if missing := [job_id for job_id in kit.job_ids if job_id not in results]:
            raise field_error(path, f"{origin} has no finished job {missing[0][:100]}")
        jobs = [results[job_id] for job_id in kit.job_ids]
        sources.append((path, origin, _of_kit(origin, path, jobs, deck, artifacts, store)))
    if reuse.all:
        sources.append(("all", STORE, _of_store(deck, store)))
    for place, table in enumerate(reuse.tables):
        path = f"tables[{place}]"
        sources.append((path, table.origin, _of_table(table, path, deck)))
    for path, origin, rows in sources:
        entry: dict[str, Any] = {
            "origin": origin,
            "count": 0,
            "failed_count": 0,
            "outside_count": 0,
        }
        known.origins.append(entry)
        for row in rows:
            point = _inside(region, row.point)
            if point is None:
                entry["outside_count"] += 1
                continue
            identity = (*point.values(), row.failure, *row.responses.values())
            if identity in seen:
                continue
            seen.add(identity)
            entry["count"] += 1
            entry["failed_count"] += row.failure is not None
            known.points.append(replace(row, point=point))
            if len(known.points) > MAX_KNOWN:
                raise field_error(
                    path, f"more than {MAX_KNOWN:,} points are inside the space: narrow a range"
                )
    return known


def joined(
    columns: Columns, results: Results, points: list[KnownPoint], region: Region
) -> tuple[Columns, Results]:
    """The rows of a design with known ones behind them."""
    count = len(results.seconds)
    known = region.space.columns([one.point for one in points])
    return (
        {name: np.concatenate([columns[name], known[name]]) for name in columns},
        Results(
            responses={
                name: np.append(values, [one.responses.get(name, np.nan) for one in points])
                for name, values in results.responses.items()
            },
            failures=[*results.failures, *(one.failure for one in points)],
            messages=[*results.messages, *(one.message for one in points)],
            logs=[*(results.logs or [""] * count), *(one.log for one in points)],
            seconds=np.append(results.seconds, [one.seconds for one in points]),
            cached_count=results.cached_count,
            substituted_count=results.substituted_count,
            origins=[*[""] * count, *(one.origin for one in points)],
        ),
    )


def _inside(region: Region, point: Mapping[str, Any]) -> Point | None:
    """The canonical point if it is inside the region."""
    canonical: Point = {}
    for parameter in region.space.parameters:
        value, problem = parameter.canonical(point[parameter.name])
        held = region.fixed.get(parameter.name, value)
        if problem or value is None or value != held:
            return None
        canonical[parameter.name] = value
    return canonical if bool(region.space.feasible([canonical])[0]) else None


def _of_kit(
    origin: str,
    path: str,
    jobs: list[Mapping[str, Any]],
    deck: Deck,
    artifacts: ArtifactStore,
    store: PointStore,
) -> Iterator[KnownPoint]:
    """What the jobs of a kit ran, if they ran the deck."""
    for result in jobs:
        if not _is_of(str(result.get("deck_id", "")), deck, artifacts):
            raise field_error(
                path,
                f"{origin} ran another version of the deck, whose points are none of "
                f"`{deck.name}` {deck.digest[:12]}: leave it out, or use the deck that it ran",
            )
        rows = _rows(result, origin, deck, artifacts)
        if result["deck_id"] == deck.digest:
            yield from rows
            continue
        # The deck's own ranges or responses changed, so outcomes are read as it declares them now.
        points = {point_key(row.point): row.point for row in rows}
        for outcome in store.get_many(deck, points).values():
            yield KnownPoint(**_figures(outcome), origin=origin)


def _is_of(deck_id: str, deck: Deck, artifacts: ArtifactStore) -> bool:
    """Whether the simulator is given the same by the deck of an id."""
    if deck_id == deck.digest:
        return True
    try:
        other = DeckLibrary(artifacts.root / DECKS).find(deck_id).deck
    except NotFoundError:
        return False
    return other.simulation_digest == deck.simulation_digest


def _rows(
    result: Mapping[str, Any], origin: str, deck: Deck, artifacts: ArtifactStore
) -> Iterator[KnownPoint]:
    """The rows of a design, or of a study without those of its design."""
    is_study = "trials" in result
    file = PublishedFile.read(result["trials"]) if is_study else DesignManifest.read(result).design
    with pq.ParquetFile(artifacts.verified(file.uri, file.sha256)) as table:
        for batch in table.iter_batches():
            for row in batch.to_pylist():
                responses = {name: row.get(f"y.{name}") for name in deck.response_names}
                if is_study and row["origin"] not in _RUN:
                    continue
                if row["failure"] is None and None in responses.values():
                    continue  # it was never run
                yield KnownPoint(
                    point={name: row[f"x.{name}"] for name in deck.space.names},
                    responses={} if row["failure"] else responses,
                    failure=row["failure"],
                    message=row.get("message") or "",
                    log=row.get("log") or "",
                    seconds=row.get("seconds") or 0.0,
                    origin=(not is_study and row.get("origin")) or origin,
                )


def _of_store(deck: Deck, store: PointStore) -> Iterator[KnownPoint]:
    for outcome in store.outcomes(deck):
        if outcome.point.keys() == set(deck.space.names):
            yield KnownPoint(**_figures(outcome), origin=STORE)


def _figures(outcome: Any) -> dict[str, Any]:
    return {
        "point": outcome.point,
        "responses": outcome.responses,
        "failure": None if outcome.failure is None else str(outcome.failure),
        "message": outcome.message if outcome.failure else "",
        "log": outcome.log if outcome.failure else "",
        "seconds": outcome.seconds,
    }


def _of_table(table: pb.PointTable, path: str, deck: Deck) -> Iterator[KnownPoint]:
    columns = {column.name: column.numbers or column.texts for column in table.columns}
    for column in table.columns:
        numbers = not column.texts and np.isfinite(column.numbers).all()
        if column.name in deck.response_names and not numbers:
            raise field_error(path, f"has no finite numbers in the column `{column.name}`")
    for name in (*deck.space.names, *deck.response_names):
        if name not in columns:
            raise field_error(path, f"has no column `{name}`")
    if len(set(map(len, columns.values()))) != 1:
        raise field_error(path, "has columns of different lengths")
    for row in zip(*columns.values(), strict=True):
        values = dict(zip(columns, row, strict=True))
        yield KnownPoint(
            point={name: values[name] for name in deck.space.names},
            responses={name: float(values[name]) for name in deck.response_names},
            origin=table.origin,
        )
