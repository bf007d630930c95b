"""DOE jobs on real simulators, each attempt with a real artifact store."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format

from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.results import JobResult
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import MAX_RESULT_BYTES, Attempt, JobError
from vistaflow_services.decks.deck import (
    Deck,
    FailurePolicy,
    Policy,
    Response,
    read_archive,
    shipped_deck,
)
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.decks.space import Parameter, Space
from vistaflow_services.doe.jobs import JOBS
from vistaflow_services.doe.references import find_design

FRAIL = """
def solve(p):
    if p["x"] > {limit}:
        raise RuntimeError("the mesh is inverted")
    return {{"sum": p["x"] + p["y"]}}
"""


def frail_deck(limit: float, **policy: Any) -> Deck:
    """A Python deck that crashes above x = `limit`, as it comes from its archive."""
    deck = Deck(
        name="frail",
        simulator="devsim",
        entry="frail.py:solve",
        files={"frail.py": FRAIL.format(limit=limit).encode()},
        space=Space(
            parameters=(Parameter(name="x", low=0, high=1), Parameter(name="y", low=0, high=1))
        ),
        responses=(Response(name="sum", unit="m"),),
        failure_policy=FailurePolicy(**policy),
        timeout_seconds=120,
    )
    return read_archive(deck.to_archive())


class Bench:
    """Attempts of jobs over one artifact store, with what they reported."""

    def __init__(self, root: Path) -> None:
        self.artifacts = ArtifactStore(root)
        self.reports: list[dict[str, Any]] = []

    def keep(self, deck: Deck) -> str:
        return DeckLibrary(self.artifacts.root / "decks").put(deck).deck.digest

    def run(
        self,
        spec: Mapping[str, Any],
        inputs: Mapping[str, JobResult] | None = None,
        job_id: str = "",
    ) -> tuple[str, dict[str, Any]]:
        job_id = job_id or str(uuid.uuid4())
        attempt = Attempt(
            kit_id=1,
            job_id=job_id,
            job_type="DOE",
            spec=json_format.ParseDict(dict(spec), pb.DoeSpec()),
            inputs=inputs or {},
            folder=self.artifacts.open_prefix(job_id, 1),
            artifacts=self.artifacts,
            workers=2,
            report=self.reports.append,
        )
        self.reports.clear()
        return job_id, JOBS["DOE"](attempt)

    def tasks(self) -> list[tuple[str, str]]:
        return [(each["name"], each["status"]) for each in self.reports if each["kind"] == "task"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "artifacts")


BRANIN = {"deck": "branin", "design": {"size": 40, "seed": "3"}, "evaluation": {}}


def test_a_job_makes_runs_and_tells_a_design(bench: Bench) -> None:
    job_id, manifest = bench.run(BRANIN)
    assert bench.tasks() == [
        (name, status)
        for name in ("generate", "simulate", "summarize")
        for status in ("RUNNING", "FINISHED")
    ]
    progress = [each for each in bench.reports if each["kind"] == "progress"]
    assert (progress[-1]["phase"], progress[-1]["completed"], progress[-1]["total"]) == (
        "simulate",
        40,
        40,
    )
    deck = shipped_deck("branin")
    expected = {
        "design_id": job_id,
        "deck_id": deck.digest,
        "generator": "lhs_ese",
        "seed": 3,
        "size": 40,
        "feasible_count": 40,
        "evaluated_count": 40,
        "failed_count": 0,
        "cached_count": 0,
        "fixed": {},
    }
    assert {name: manifest[name] for name in expected} == expected
    assert [each["name"] for each in manifest["plots"]] == ["design.png", "responses.png"]
    for each in (manifest["design"], *manifest["plots"]):
        bench.artifacts.verified(each["uri"], each["sha256"])
    assert len(json.dumps(manifest)) < MAX_RESULT_BYTES
    table = pq.read_table(bench.artifacts.path(manifest["design"]["uri"]))
    names = deck.space.names
    assert table.column_names == [
        "row_id",
        *(f"x.{name}" for name in names),
        *(f"y.{name}" for name in deck.response_names),
        "failure",
        "message",
        "log",
        "origin",
        "seconds",
    ]
    assert np.isfinite(table.column(f"y.{deck.response_names[0]}").to_numpy()).all()
    folder = bench.artifacts.path(manifest["design"]["uri"]).parent
    assert json.loads((folder / "manifest.json").read_bytes()) == manifest
    assert not (folder / ".scratch").exists()


def test_the_same_spec_again_gives_the_same_rows_and_runs_nothing(bench: Bench) -> None:
    _, first = bench.run(BRANIN)
    _, second = bench.run(BRANIN)
    assert (first["cached_count"], second["cached_count"]) == (0, 40)
    one, other = (
        pq.read_table(bench.artifacts.path(each["design"]["uri"])) for each in (first, second)
    )
    assert one.equals(other)


def test_a_design_is_made_without_running_it_and_run_by_another_job(bench: Bench) -> None:
    spec = {name: value for name, value in BRANIN.items() if name != "evaluation"}
    design_id, made = bench.run(spec)
    assert (made["evaluated_count"], [each["name"] for each in made["plots"]]) == (
        0,
        ["design.png"],
    )
    given = {"designId": design_id, "evaluation": {}}
    run_id, run = bench.run(given)
    assert bench.tasks()[0] == ("simulate", "RUNNING")
    assert (run["design_id"], run["parent_design_id"]) == (run_id, design_id)
    assert (run["evaluated_count"], run["generator"], run["seed"]) == (40, "lhs_ese", 3)
    before, after = (
        pq.read_table(bench.artifacts.path(each["design"]["uri"])) for each in (made, run)
    )
    points = [name for name in after.column_names if name.startswith("x.")]
    assert before.select(points).equals(after.select(points))
    named = {
        "doe": JobResult(job_id=design_id, job_type="DOE", attempt=1, result=made),
    }
    _, again = bench.run({"designId": "doe", "evaluation": {}}, named)
    assert again["cached_count"] == 40


def test_a_deck_comes_from_the_job_that_collected_it(bench: Bench) -> None:
    deck = shipped_deck("branin")
    path = bench.artifacts.open_prefix(str(uuid.uuid4()), 1) / "branin.zip"
    written = bench.artifacts.write(path, deck.to_archive())
    entry = {"deck_id": deck.digest, "name": "branin", **written}
    inputs = {
        "collect": JobResult(
            job_id="c", job_type="DECK_COLLECTION", attempt=1, result={"decks": [entry]}
        )
    }
    _, manifest = bench.run({**BRANIN, "deck": "collect"}, inputs)
    assert (manifest["deck_id"], manifest["deck_uri"]) == (deck.digest, written["uri"])


def test_a_job_that_collected_several_decks_is_not_enough_of_a_name(bench: Bench) -> None:
    decks = [{"deck_id": str(at) * 64, "name": f"deck{at}"} for at in range(2)]
    inputs = {
        "collect": JobResult(
            job_id="c", job_type="DECK_COLLECTION", attempt=1, result={"decks": decks}
        )
    }
    with pytest.raises(JobError, match=r"collected 2 decks \(deck0, deck1\)"):
        bench.run({**BRANIN, "deck": "collect"}, inputs)
    assert bench.tasks() == [("generate", "RUNNING"), ("generate", "FAILED")]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**BRANIN, "deck": "brannin"}, "did you mean `branin`"),
        ({**BRANIN, "deck": "0" * 64}, "no deck has the id"),
        ({"designId": "doe", "evaluation": {}}, "no design doe"),
        ({"designId": str(uuid.uuid4()), "evaluation": {}}, "no design"),
    ],
)
def test_a_reference_that_names_nothing_fails_the_job_with_a_hint(
    bench: Bench, spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=message) as caught:
        bench.run(spec)
    assert caught.value.hint


def test_overrides_and_constraints_hold_in_every_row(bench: Bench) -> None:
    first, second = shipped_deck("branin").space.names
    _, manifest = bench.run(
        {
            "deck": "branin",
            "design": {
                "size": 20,
                "parameters": [{"name": second, "fixed": 3.5}],
                "constraints": [f"{first} + {second} <= 5"],
            },
            "evaluation": {},
        }
    )
    table = pq.read_table(bench.artifacts.path(manifest["design"]["uri"])).to_pydict()
    assert set(table[f"x.{second}"]) == {3.5}
    assert max(table[f"x.{first}"]) <= 1.5
    assert manifest["fixed"] == {second: 3.5}
    found = find_design(manifest["design_id"], {}, bench.artifacts)
    assert found.manifest.region.fixed == {second: 3.5}


def test_a_spec_that_does_not_fit_the_deck_names_its_fields(bench: Bench) -> None:
    with pytest.raises(InvalidError) as caught:
        bench.run({"deck": "branin", "design": {"size": 0, "parameters": [{"name": "zz"}]}})
    assert {each.field for each in caught.value.violations} == {"size", "parameters[0].name"}


def test_failed_runs_are_rows_until_there_are_too_many(bench: Bench) -> None:
    deck_id = bench.keep(frail_deck(0.7, policy=Policy.CONTINUE))
    spec = {"deck": deck_id, "design": {"size": 12, "seed": "1"}, "evaluation": {}}
    _, manifest = bench.run(spec)
    table = pq.read_table(bench.artifacts.path(manifest["design"]["uri"])).to_pydict()
    failed = [x > 0.7 for x in table["x.x"]]
    assert [each == "CRASHED" for each in table["failure"]] == failed
    assert [each is None for each in table["y.sum"]] == failed
    assert manifest["failed_count"] == sum(failed) > 0
    assert manifest["failures"] == {"CRASHED": sum(failed)}
    with pytest.raises(JobError) as caught:
        bench.run({**spec, "evaluation": {"maxFailedFraction": 0.1}})
    assert caught.value.reason == "RUNS_FAILED"
    assert "the mesh is inverted" in caught.value.message
    assert caught.value.hint
    assert bench.tasks()[-1] == ("simulate", "FAILED")


def test_when_all_runs_fail_the_job_says_what_failed_most(bench: Bench) -> None:
    deck_id = bench.keep(frail_deck(-1.0, max_failed_fraction=1.0))
    spec = {"deck": deck_id, "design": {"size": 4}, "evaluation": {}}
    with pytest.raises(JobError, match=r"all 4 runs failed: 4 × CRASHED") as caught:
        bench.run(spec)
    assert "the mesh is inverted" in caught.value.message
    assert caught.value.details["failures"] == {"CRASHED": 4}


def test_the_first_failure_ends_a_job_whose_policy_is_abort(bench: Bench) -> None:
    deck_id = bench.keep(frail_deck(0.3))
    spec = {
        "deck": deck_id,
        "design": {"size": 8},
        "evaluation": {"failurePolicy": "FAILURE_POLICY_ABORT"},
    }
    with pytest.raises(JobError, match="policy is abort"):
        bench.run(spec)
