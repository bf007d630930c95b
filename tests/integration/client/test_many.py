"""Several watches on one stream of a real registry, from both clients and the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vistaflow
from tests.integration.client.conftest import RegistryProcess  # type: ignore[import-not-found]
from tests.processes import reaped  # type: ignore[import-not-found]
from vistaflow.aio.client import connect
from vistaflow.cli.app import app
from vistaflow.errors import InvalidArgumentError, OutOfRangeError


async def test_each_watch_of_a_stream_goes_on_after_the_registry_was_killed(
    process: RegistryProcess,
) -> None:
    async with connect(process.address) as client, asyncio.timeout(180):
        one = await client.create_kit("one", ["DOE"], project="a")
        many = client.watch_many(
            all={}, failed={"statuses": ["FAILED"], "kit_ids": [one.kit_id]}, b={"project": "b"}
        )
        rows: dict[str, list[int]] = {"all": [], "failed": [], "b": [], "late": []}
        with pytest.raises(ValueError, match="'b' is the name of a watch that is open"):
            many.open("b")

        async def until(name: str, count: int) -> None:
            async for at, event in many:
                if isinstance(event, vistaflow.Delta):
                    rows[at] += [each.revision for each in event.states]
                if len(rows[name]) >= count:
                    return

        job = one.jobs[0].job_id
        await client.append(job, "RUNNING")
        await client.append(job, "FAILED")
        await until("failed", 1)
        assert many.revision("failed") == 3
        await asyncio.to_thread(process.kill)
        process.start()
        await client.create_kit("two", ["DOE"], project="b")
        await until("b", 1)
        many.open("late", include_snapshot=False, after_revision=3)
        many.close("failed")
        await until("late", 1)
        assert sorted(many.names) == ["all", "b", "late"]
    assert rows == {"all": [1, 2, 3, 4], "failed": [3], "b": [4], "late": [4]}


async def test_a_watch_that_cannot_be_served_is_raised_by_its_name(
    process: RegistryProcess,
) -> None:
    async with connect(process.address) as client, asyncio.timeout(120):
        await client.create_kit("one", ["DOE"])
        for wanted, kind in (
            ({"kit_ids": [-1]}, InvalidArgumentError),
            ({"after_revision": 99}, OutOfRangeError),
        ):
            many = client.watch_many(good={}, bad=wanted)
            with pytest.raises(kind, match="'bad'"):
                async for _ in many:
                    pass
            assert many.names == ["good"]


def test_the_blocking_client_watches_several_and_lists_jobs(process: RegistryProcess) -> None:
    with vistaflow.connect(process.address) as client:
        kit = client.create_kit("one", ["DOE", "ML_TRAIN"], labels={"owner": "ana"})
        more = client.create_job("ML_TEST", kit_id=kit.kit_id, labels={"gpu": "yes"})
        alone = client.create_job(
            "DOE", project="p", request_id="6f1c4a4e-6d0e-4b59-8a3c-2f0d6a1e9c55"
        )
        assert client.kit(alone.kit_id).project == "p"
        assert [each.name for each in client.jobs(kit_ids=[kit.kit_id])] == [
            "ml_test",
            "ml_train",
            "doe",
        ]
        assert [each.job_id for each in client.jobs(labels={"gpu": "yes"})] == [more.job_id]
        head = client.server_info().revision
        assert client.job(more.job_id, min_revision=head).name == "ml_test"
        assert [each.name for each in client.kits(name_contains="ON", min_revision=head)] == ["one"]
        assert len(list(client.states(min_revision=head, limit=2))) == 2

        many = client.watch_many(a={"labels": {"owner": "ana"}})
        many.open("b", kit_ids=[alone.kit_id])
        seen: dict[str, int] = {"a": 0, "b": 0}
        for name, event in many:
            if isinstance(event, vistaflow.Delta):
                seen[name] += len(event.states)
            if seen == {"a": 3, "b": 1}:
                break
        many.close("a")


def test_the_command_line_lists_reports_and_watches(
    process: RegistryProcess, tmp_path: Path
) -> None:
    def told(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, [*arguments, "--address", process.address])
        assert result.exit_code == code, result.output
        return result.output

    made = told("create", "bench 4", "--job", "DOE", "--label", "owner=ana", "-q").strip()
    assert made == "1"
    told("create", "bench 5", "--job", "doe", "--project", "tcad")
    assert told("append", "1/doe", "RUNNING").strip() == "3"
    told("append", "1/doe", "running", "--task", "simulate", "--metadata", '{"point": 3}')
    told("append", "1/doe", "failed", "--reason", "out of memory")
    assert "has no job 'train'; it has doe" in told("append", "1/train", "RUNNING", code=2)
    assert "no JSON" in told("append", "1/doe", "RUNNING", "--metadata", "{", code=2)
    assert "did you mean RUNNING?" in told("append", "1/doe", "RUNNIG", code=2)
    told("append", "1/doe", "FINISHED", code=1)

    assert told("kits", "--label", "owner=ana", "-o", "csv").splitlines()[1].startswith("1,FAILED")
    assert "bench 5" in told("kits", "--name", "5", "--since", "1h", "--status", "queued")
    assert "bench" not in told("kits", "--until", "1h")
    assert "is no time" in told("kits", "--since", "yesterday", code=2)
    assert json.loads(told("jobs", "1", "-o", "json"))["reason"] == "out of memory"
    assert told("jobs", "--status", "queued", "-o", "csv").count("\n") == 2
    rows = told("states", "--label", "owner=ana", "-o", "csv").splitlines()
    assert rows[0].startswith("revision,kit,job,type,task,status")
    assert [each.split(",")[0] for each in rows[1:]] == ["1", "3", "4", "5"]
    assert len(told("states", "--as-of", "3").splitlines()) == 3
    assert len(told("states", "--type", "DOE", "--limit", "2").splitlines()) == 2
    assert told("watch", "--left", code=2)

    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    watched = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "vistaflow.cli.app",
            "watch",
            "--status",
            "failed",
            "--from",
            "0",
            "--latest",
            "--address",
            process.address,
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with reaped(watched):
        assert watched.stdout is not None
        assert "FAILED out of memory" in watched.stdout.readline()
        watched.send_signal(signal.SIGINT)
        _, errors = watched.communicate(timeout=120)
    assert watched.returncode == 130
    assert "go on from here with --from 5" in errors
