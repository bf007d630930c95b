"""Designs that take known points as rows, on real simulators and stores."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format

from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.results import JobResult
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.decks.deck import Deck, parse_deck
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.doe.jobs import JOBS

COUNTED = """\
name: counted
version: "{version}"
description: Counts its runs.
simulator: python
entry: run.py:solve
parameters:
  - {{name: x, range: [0, {high}]}}
  - {{name: kind, type: categorical, choices: [thin, thick]}}
responses:
  - {{name: y}}
"""
RUN = """\
def solve(p):
    if p["x"] > 0.8:
        raise RuntimeError("the mesh is inverted")
    return {"y": p["x"] + (1 if p["kind"] == "thick" else 0)}
"""


def counted(high: float = 1, version: str = "1") -> Deck:
    deck = {"deck.yaml": COUNTED.format(high=high, version=version), "run.py": RUN}
    return parse_deck({name: text.encode() for name, text in deck.items()})


class Bench:
    """Attempts of DOE jobs over one artifact store; each can use what the others published."""

    def __init__(self, root: Path) -> None:
        self.artifacts = ArtifactStore(root)
        self.results: dict[str, JobResult] = {}

    def keep(self, deck: Deck) -> str:
        return DeckLibrary(self.artifacts.root / "decks").put(deck).deck.digest

    def run(self, spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        job_id = str(uuid.uuid4())
        attempt = Attempt(
            kit_id=1,
            job_id=job_id,
            job_type="DOE",
            spec=json_format.ParseDict(dict(spec), pb.DoeSpec()),
            inputs=self.results,
            folder=self.artifacts.open_prefix(job_id, 1),
            artifacts=self.artifacts,
            workers=2,
            report=lambda report: None,
        )
        result = JOBS["DOE"](attempt)
        self.results[job_id] = JobResult(job_id=job_id, job_type="DOE", attempt=1, result=result)
        return job_id, result

    def rows(self, result: Mapping[str, Any]) -> list[dict[str, Any]]:
        return list(pq.read_table(self.artifacts.path(result["design"]["uri"])).to_pylist())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "artifacts")


def kit(number: int, *job_ids: str) -> dict[str, Any]:
    return {"kit_id": number, "job_ids": list(job_ids)}


DESIGN = {"generator": "GENERATOR_SOBOL", "size": 4, "seed": "3"}
MEASURED = {
    "origin": "dataset default.bench@1",
    "columns": [
        {"name": "x", "numbers": [0.25, 0.75]},
        {"name": "kind", "texts": ["thin", "thick"]},
        {"name": "y", "numbers": [0.26, 1.74]},
    ],
}


def test_a_design_takes_the_rows_of_another_with_their_failures_and_runs_nothing(
    bench: Bench,
) -> None:
    deck = bench.keep(counted())
    first, before = bench.run(
        {"deck": deck, "design": {**DESIGN, "size": 8}, "evaluation": {"max_failed_fraction": 1}}
    )
    _, result = bench.run(
        {
            "deck": deck,
            "design": {},
            "evaluation": {},
            "reuse": {"kits": [kit(7, first)], "only": True},
        }
    )
    known, taken = bench.rows(before), bench.rows(result)
    assert {row["origin"] for row in taken} == {"kit 7"}
    keep = ("x.x", "x.kind", "y.y", "failure", "message", "log")
    assert [[row[name] for name in keep] for row in taken] == [
        [row[name] for name in keep] for row in known
    ]
    failed = before["failed_count"]
    assert failed > 0
    assert result["origins"] == [
        {"origin": "kit 7", "count": 8, "failed_count": failed, "outside_count": 0}
    ]
    assert (result["cached_count"], result["evaluated_count"], result["size"]) == (0, 8, 0)


def test_points_outside_a_narrowed_space_are_left_out(bench: Bench) -> None:
    deck = bench.keep(counted())
    first, before = bench.run({"deck": deck, "design": DESIGN, "evaluation": {}})
    ranges = [{"name": "x", "low": 0.0, "high": 0.5}, {"name": "kind", "fixed": "thin"}]
    _, result = bench.run(
        {
            "deck": deck,
            "design": {"parameters": ranges},
            "reuse": {"kits": [kit(7, first)], "tables": [MEASURED], "only": True},
        }
    )
    inside = [row for row in bench.rows(before) if row["x.x"] <= 0.5 and row["x.kind"] == "thin"]
    rows = bench.rows(result)
    assert [(row["x.x"], row["origin"]) for row in rows] == [
        *((row["x.x"], "kit 7") for row in inside),
        (0.25, "dataset default.bench@1"),
    ]
    outside = 4 - len(inside)
    assert [origin["outside_count"] for origin in result["origins"]] == [outside, 1]


def test_all_takes_every_stored_point_beside_new_ones_each_once(bench: Bench) -> None:
    deck = bench.keep(counted())
    first, before = bench.run({"deck": deck, "design": DESIGN, "evaluation": {}})
    reuse = {"all": True, "kits": [kit(7, first)], "tables": [MEASURED]}
    _, result = bench.run(
        {"deck": deck, "design": {**DESIGN, "size": 8}, "evaluation": {}, "reuse": reuse}
    )
    rows = bench.rows(result)
    # The first four points of the sequence are those of the other design.
    assert [row["origin"] for row in rows] == [None] * 8 + ["dataset default.bench@1"] * 2
    assert result["cached_count"] == 4 - before["failed_count"]
    _, third = bench.run({"deck": deck, "design": {}, "reuse": {"all": True, "only": True}})
    assert third["origins"][0]["count"] == 8 - result["failed_count"]
    assert {row["origin"] for row in bench.rows(third)} == {"store"}


def test_the_origin_of_a_row_stays_from_kit_to_kit(bench: Bench) -> None:
    deck = bench.keep(counted())
    design = {"deck": deck, "design": DESIGN, "evaluation": {}, "reuse": {"tables": [MEASURED]}}
    first, _ = bench.run(design)
    second, _ = bench.run(
        {"deck": deck, "design": {}, "reuse": {"kits": [kit(7, first)], "only": True}}
    )
    _, result = bench.run(
        {"deck": deck, "design": {}, "reuse": {"kits": [kit(8, second)], "only": True}}
    )
    origins = [row["origin"] for row in bench.rows(result)]
    assert origins == ["kit 7"] * 4 + ["dataset default.bench@1"] * 2


def test_a_deck_with_other_ranges_has_the_same_points_and_another_version_none(
    bench: Bench,
) -> None:
    first, before = bench.run({"deck": bench.keep(counted()), "design": DESIGN, "evaluation": {}})
    wider = {"deck": bench.keep(counted(high=2)), "design": {}}
    _, result = bench.run({**wider, "reuse": {"kits": [kit(7, first)], "only": True}})
    assert result["origins"][0]["count"] == 4 - before["failed_count"]
    other = {"deck": bench.keep(counted(version="2")), "design": {}}
    with pytest.raises(InvalidError, match="kit 7 ran another version of the deck"):
        bench.run({**other, "reuse": {"kits": [kit(7, first)], "only": True}})


def test_a_study_gives_what_it_ran_itself(bench: Bench) -> None:
    deck = bench.keep(counted())
    path = bench.artifacts.open_prefix(str(uuid.uuid4()), 1) / "trials.parquet"
    trials = pa.table(
        {
            "origin": ["doe", "infill", "infill", "verify"],
            "x.x": [0.1, 0.2, 0.95, 0.2],
            "x.kind": ["thin"] * 4,
            "y.y": [0.1, 0.2, None, 0.21],
            "failure": [None, None, "CRASHED", None],
        }
    )
    pq.write_table(trials, path)
    study = {"trials": bench.artifacts.describe(path), "deck_id": deck}
    job_id = str(uuid.uuid4())
    bench.results[job_id] = JobResult(job_id=job_id, job_type="OPTIMIZE", attempt=1, result=study)
    _, result = bench.run(
        {"deck": deck, "design": {}, "reuse": {"kits": [kit(7, job_id)], "only": True}}
    )
    rows = [(row["x.x"], row["y.y"], row["failure"]) for row in bench.rows(result)]
    assert rows == [(0.2, 0.2, None), (0.95, None, "CRASHED"), (0.2, 0.21, None)]


def test_a_design_of_known_points_alone_needs_some(bench: Bench) -> None:
    deck = bench.keep(counted())
    with pytest.raises(JobError, match="no known point is inside the space"):
        bench.run({"deck": deck, "design": {}, "reuse": {"all": True, "only": True}})
    missing = kit(7, str(uuid.uuid4()))
    with pytest.raises(InvalidError, match="kit 7 has no finished job"):
        bench.run({"deck": deck, "design": {}, "reuse": {"kits": [missing], "only": True}})


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"origin": "store"}, "begin with `dataset `"),
        ({**MEASURED, "columns": MEASURED["columns"][:2]}, "has no column `y`"),
        (
            {**MEASURED, "columns": [*MEASURED["columns"][:2], {"name": "y", "numbers": [1]}]},
            "columns of different lengths",
        ),
    ],
)
def test_a_table_of_known_points_that_is_none_is_refused(
    bench: Bench, table: dict[str, Any], problem: str
) -> None:
    deck = bench.keep(counted())
    with pytest.raises(InvalidError) as refused:
        bench.run({"deck": deck, "design": DESIGN, "reuse": {"tables": [table]}})
    assert problem in str(list(refused.value.violations))
