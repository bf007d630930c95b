"""The live kit of a watch: its rows keep it up to date, and few of them need the kit to be read."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import nullcontext
from datetime import timedelta
from typing import cast

import pytest
import typer
from rich.console import Console

from tests.unit.client.scripted import ScriptedRegistry, bookmark, row  # type: ignore[import-not-found]
from vistaflow.aio import connect
from vistaflow.aio.client import AsyncClient
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.cli import live
from vistaflow.cli.kits import confirm, estimate_text
from vistaflow.cli.live import MOST_PENDING, TASKS_SHOWN, LiveKit
from vistaflow.models import Delta, Job, job_of, kit_of
from vistaflow.models import event_of as event

JOB = "00000000-0000-0000-0000-000000000001"


def kit(status: str = "RUNNING", revision: int = 1) -> pb.Kit:
    value = common_pb2.Status.Value(f"STATUS_{status}")
    job = common_pb2.Job(job_id=JOB, name="doe", status=value, attempt=1, revision=revision)
    message = pb.Kit(kit_id=1, status=value, revision=revision, jobs=[job])
    message.job_counts.running_count = int(status == "RUNNING")
    return message


def moved(*rows: common_pb2.State, status: str = "RUNNING") -> pb.WatchStatesResponse:
    for state in rows:
        state.attempt = state.attempt or 1
    counts = common_pb2.StatusCounts(running_count=int(status == "RUNNING"))
    return pb.WatchStatesResponse(
        revision=rows[-1].revision,
        delta=pb.Delta(
            states=rows,
            kit_counts=[
                pb.KitCounts(
                    kit_id=1,
                    status=common_pb2.Status.Value(f"STATUS_{status}"),
                    job_counts=counts,
                )
            ],
        ),
    )


def delta(*rows: common_pb2.State, status: str = "RUNNING") -> Delta:
    taken = event(moved(*rows, status=status))
    assert isinstance(taken, Delta)
    return taken


def progress(revision: int, completed: int) -> common_pb2.State:
    state = row(revision, task="progress")
    state.metadata.update({"progress": {"phase": "simulate", "completed": completed, "total": 9}})
    return state


def test_rows_of_tasks_and_progress_are_applied() -> None:
    shown = LiveKit(kit_of(kit()))
    for number in range(10):
        shown.take(delta(row(2 + number, task=f"point-{number}")))
    shown.take(delta(row(12, task="point-8", status="FINISHED"), progress(13, 4)))
    (job,) = shown.kit.jobs
    assert [task.task_name for task in job.tasks][-2:] == ["point-8", "progress"]
    assert len(job.tasks) == TASKS_SHOWN + 1
    assert job.progress is not None
    assert (job.progress.phase, job.progress.completed) == ("simulate", 4)
    assert shown.kit.revision == 13
    assert not shown.must_be_read


def test_a_finished_job_has_its_result_and_its_kit_ends() -> None:
    shown = LiveKit(kit_of(kit()))
    done = row(2, status="FINISHED")
    done.metadata.update({"result": {"evaluated_count": 3}})
    shown.take(delta(done, status="FINISHED"))
    assert shown.is_terminal
    assert shown.kit.jobs[0].result == {"evaluated_count": 3}
    assert shown.kit.jobs[0].status == "FINISHED"
    assert not shown.is_whole


def test_a_new_attempt_forgets_the_tasks_of_the_last() -> None:
    shown = LiveKit(kit_of(kit()))
    shown.take(delta(row(2, task="old")))
    again = row(3, status="RUNNING")
    again.attempt = 2
    stale = row(4, task="late")
    stale.attempt = 1
    shown.take(delta(again, stale))
    assert shown.kit.jobs[0].attempt == 2
    assert shown.kit.jobs[0].tasks == ()


@pytest.mark.parametrize("status", ["FAILED", "CANCELED", "INIT"])
def test_a_row_that_may_change_other_jobs_needs_the_kit(status: str) -> None:
    shown = LiveKit(kit_of(kit()))
    shown.take(delta(row(2, status=status)))
    assert shown.must_be_read


def test_rows_that_come_while_the_kit_is_read_are_applied_to_it() -> None:
    shown = LiveKit(kit_of(kit()))
    unknown = row(2)
    unknown.job_id = "another"
    shown.take(delta(unknown))
    assert shown.must_be_read
    shown.take(delta(row(3, task="before")))
    shown.take(delta(row(5, task="after")))
    shown.replace(kit_of(kit(revision=4)))
    assert not shown.must_be_read
    assert [task.task_name for task in shown.kit.jobs[0].tasks] == ["after"]


def test_rows_kept_while_the_kit_is_read_are_bounded() -> None:
    shown = LiveKit(kit_of(kit()))
    shown.take(delta(row(2, status="FAILED")))
    for number in range(MOST_PENDING + 5):
        shown.take(delta(row(3 + number, task="a")))
    shown.replace(kit_of(kit(revision=3)))
    assert shown.must_be_read
    shown.replace(kit_of(kit(revision=5000)))
    assert not shown.must_be_read


async def test_a_kit_is_read_when_it_begins_and_ends_only(
    scripted: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "REDRAW_SECONDS", 0.01)
    monkeypatch.setattr(live, "console", Console(file=io.StringIO(), force_terminal=True))
    scripted.answers = [
        pb.GetKitResponse(kit=kit()),
        pb.GetKitResponse(kit=kit("FINISHED", 300), revision=300),
    ]
    tasks = [moved(row(2 + number, task=f"point-{number}")) for number in range(200)]
    done = moved(row(300, status="FINISHED"), status="FINISHED")
    scripted.streams = [[*tasks, done, bookmark(300)]]
    async with connect(scripted.address) as client:
        ended = await live.follow(client, 1)
    assert ended.status == "FINISHED"
    assert [type(request).__name__ for request in scripted.requests] == ["GetKitRequest"] * 2
    assert scripted.requests[1].min_revision == 300


def test_all_of_how_far_a_job_is_fits_a_narrow_terminal() -> None:
    shown = LiveKit(kit_of(kit()))
    state = row(2, task="progress")
    message = "12 s left, 100,000 records, 700,000 rows, 3 files"
    figures = {"completed": 54_525_952, "total": 65_382_788, "unit": "bytes", "message": message}
    state.metadata.update({"progress": {"phase": "doe", **figures}})
    shown.take(delta(state))
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(live.tree(shown.kit))

    lines = console.export_text().splitlines()
    words = " ".join(line[43:] for line in lines[1:]).split()
    assert max(map(len, lines)) <= 80
    assert " ".join(words[words.index("54.5") :]).startswith(f"54.5 MB of 65.4 MB {message}")


async def test_queued_jobs_have_the_place_at_which_kits_take_turns() -> None:
    def job(kit_id: int, number: int, status: str, job_type: str = "DOE") -> common_pb2.Job:
        return common_pb2.Job(
            kit_id=kit_id,
            job_id=f"{kit_id}-{number}",
            job_type=common_pb2.JobType.Value(f"JOB_TYPE_{job_type}"),
            status=common_pb2.Status.Value(f"STATUS_{status}"),
            current_order=number,
        )

    jobs = [
        job(1, 1, "RUNNING"),
        job(1, 2, "QUEUED"),
        job(1, 3, "QUEUED"),
        job(2, 1, "QUEUED"),
        job(2, 2, "QUEUED", "OPTIMIZE"),
        job(3, 1, "QUEUED"),
    ]

    class Client:
        async def jobs(self, **_: object) -> AsyncIterator[Job]:
            for message in jobs:
                yield job_of(message)

    async def places(kit_id: int) -> dict[str, str]:
        message = pb.Kit(kit_id=kit_id, jobs=[job for job in jobs if job.kit_id == kit_id])
        return await live.queue_places(cast(AsyncClient, Client()), kit_of(message))

    assert await places(3) == {"3-1": "2 of 4"}
    assert await places(2) == {"2-1": "1 of 4", "2-2": "1 of 1"}
    assert await places(1) == {"1-2": "3 of 4", "1-3": "4 of 4"}


@pytest.mark.parametrize(
    ("yes", "hours", "ends"), [(False, 9, True), (True, 9, False), (False, 1, False)]
)
def test_a_kit_above_the_limit_needs_yes(
    yes: bool, hours: int, ends: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    estimate = pipeline_pb2.RunEstimate(run_count=65, known_count=40, core_count=2)
    estimate.run_duration.FromTimedelta(timedelta(minutes=10))
    estimate.duration.FromTimedelta(timedelta(hours=hours))
    estimate.confirmation_limit.FromTimedelta(timedelta(hours=8))
    assert estimate_text(estimate) == (
        f"≈ {'9 h' if hours == 9 else '60 min'} on 2 cores: at most 65 runs of 10 min; 40 known"
    )
    with pytest.raises(typer.Exit) if ends else nullcontext():
        confirm(estimate, yes=yes)
    said = capsys.readouterr().err
    assert ("more than the limit of 8 h" in said and "add --yes" in said) is ends


def test_how_many_points_were_in_the_store_is_in_the_line_of_a_design() -> None:
    message = common_pb2.Job(job_id=JOB)
    message.result.update({"evaluated_count": 20, "cached_count": 9, "failed_count": 1})

    assert live.evaluation_text(job_of(message)) == "9 of 20 found in the store, 1 of 20 failed"
