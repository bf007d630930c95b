"""DOE jobs in the processes that run them, killed and taken up again."""

from __future__ import annotations

import asyncio
import base64
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.process import Execution
from vistaflow_services.decks.deck import Deck, Response, read_archive
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.decks.space import Parameter, Space
from vistaflow_services.designs.journal import read_journal
from vistaflow_services.simulators.points import PointStore

SLOW = b"""
import time

def solve(p):
    time.sleep(0.5)
    return {"product": p["x"] * p["y"]}
"""


def slow_deck() -> Deck:
    deck = Deck(
        name="slow",
        simulator="devsim",
        entry="slow.py:solve",
        files={"slow.py": SLOW},
        space=Space(
            parameters=(Parameter(name="x", low=1, high=2), Parameter(name="y", low=1, high=2))
        ),
        responses=(Response(name="product"),),
        timeout_seconds=120.0,
    )
    return read_archive(deck.to_archive())


def header(artifacts: ArtifactStore, job_id: str, attempt: int, spec: pb.DoeSpec) -> dict[str, Any]:
    return {
        "kit_id": 1,
        "job_id": job_id,
        "attempt": attempt,
        "job_type": "DOE",
        "name": "doe",
        "spec_type": f"type.googleapis.com/{spec.DESCRIPTOR.full_name}",
        "spec": base64.b64encode(spec.SerializeToString()).decode(),
        "inputs": {},
        "folder": str(artifacts.open_prefix(job_id, attempt)),
        "artifacts": str(artifacts.root),
        "workers": 2,
        "memory_bytes": 0,
    }


async def simulated(execution: Execution, runs: int) -> None:
    """Waits until so many runs were told."""
    async for message in execution.messages():
        if message.get("phase") == "simulate" and message["completed"] >= runs:
            return
    raise AssertionError("the attempt ended before")


async def test_an_attempt_after_a_killed_one_runs_only_what_is_left(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts")
    deck = DeckLibrary(artifacts.root / "decks").put(slow_deck()).deck
    store = PointStore(artifacts.root / "points")
    spec = pb.DoeSpec(
        deck=deck.digest,
        design=pb.DesignSpec(size=10, generator=pb.GENERATOR_SOBOL),
        evaluation=pb.EvaluationSpec(),
    )
    job_id = str(uuid.uuid4())
    first = await Execution.prepare("vistaflow_services.doe.jobs")
    await first.start(header(artifacts, job_id, 1, spec), tmp_path / "1.log")
    await simulated(first, 3)
    os.killpg(first.pid, 9)
    assert await first.ended() == -9
    await asyncio.sleep(1.0)
    kept = store.count(deck)
    assert 3 <= kept < 10
    assert list(artifacts.root.glob("jobs/*/1/manifest.json")) == []
    job = artifacts.root / "jobs" / job_id
    so_far = read_journal(job)
    assert len(so_far) >= 3
    assert all(row["y.product"] == row["x.x"] * row["x.y"] for row in so_far)

    second = await Execution.prepare("vistaflow_services.doe.jobs")
    await second.start(header(artifacts, job_id, 2, spec), tmp_path / "2.log")
    messages = [message async for message in second.messages()]
    assert await second.ended() == 0
    result = messages[-1]["result"]
    assert (result["size"], result["failed_count"], result["cached_count"]) == (10, 0, kept)
    assert store.count(deck) == 10
    rows = pq.read_table(artifacts.path(result["design"]["uri"])).to_pylist()
    assert all(rows[row["row_id"]]["y.product"] == row["y.product"] for row in so_far)
    assert not (job / "2" / "running.arrow").exists()
    assert [row["y.product"] for row in rows] == [row["x.x"] * row["x.y"] for row in rows]
    assert [
        (message["name"], message["status"]) for message in messages if message["kind"] == "task"
    ] == [
        (name, status)
        for name in ("generate", "simulate", "summarize")
        for status in ("RUNNING", "FINISHED")
    ]
