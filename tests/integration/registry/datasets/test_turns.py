"""Datasets under several registries: at once, with lost connections, over time, after a restore."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.datasets.v1 import datasets_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.upkeep.backup import backup
from vistaflow_services.registry.upkeep.rebuild import rebuild
from vistaflow_services.registry.upkeep.restore import restore

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from recording import Client, become, refusal, sha
from traffic import until

Code = grpc.StatusCode
SCHEMA = Config.schema


@asynccontextmanager
async def clients(
    serve: Callable[..., Any], database: str, *, count: int = 1, **settings: Any
) -> AsyncIterator[list[Client]]:
    """Callers of as many registries of one database."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            registry = await stack.enter_async_context(serve(database, Config(**settings)))
            channel = grpc.aio.insecure_channel(registry.address)
            made.append(Client(await stack.enter_async_context(channel)))
        yield made


async def test_writers_at_once_leave_no_gap_and_pass_no_quota(database: str, serve) -> None:
    async with clients(serve, database, count=2, project_quota_bytes=120) as (one, other):
        limits = pb.DatasetLimits(quota_bytes=70)
        await one.datasets.UpdateDataset(pb.UpdateDatasetRequest(dataset="race.a", limits=limits))

        async def write(number: int) -> Any:
            client = (one, other)[number % 2]
            name = "ab"[number // 2 % 2]
            job_id = await client.job("race")
            try:
                return await client.record(name, {f"f{number}": 10}, job_id=job_id)
            except grpc.aio.AioRpcError as error:
                return error.code()

        answers = await asyncio.gather(*(write(number) for number in range(32)))
        recorded = Counter(isinstance(answer, Code) for answer in answers)
        assert recorded == {False: 12, True: 20}
        assert {answer for answer in answers if isinstance(answer, Code)} == {
            Code.RESOURCE_EXHAUSTED
        }
        sizes = {}
        for name in "ab":
            dataset = (await other.get(f"race.{name}")).dataset
            sizes[name] = dataset.size_bytes
            numbers = await one.numbers(f"race.{name}")
            assert numbers == list(range(dataset.version_count, 0, -1))
        assert sum(sizes.values()) == 120
        assert sizes["a"] <= 70
        # What is shared counts once; other projects have a quota of their own.
        await one.record("a", {"f0": 10}, project="race")
        await one.record("a", {"f0": 10}, project="others")


async def test_a_file_is_either_recorded_or_given_to_be_purged(database: str, serve) -> None:
    async with clients(serve, database, count=2) as (one, other):
        names = [f"f{number}" for number in range(20)]
        jobs = [await one.job(f"race{number % 3}") for number in range(20)]

        async def record(name: str, job_id: str) -> Code:
            try:
                await one.record("swept", {name: 1}, job_id=job_id)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return Code.OK

        outcomes, given = await asyncio.gather(
            asyncio.gather(*map(record, names, jobs)),
            asyncio.gather(*(other.purge(unused=[name]) for name in names)),
        )

        purged = {sha256 for due in given for sha256 in due}
        refused = [name for name, code in zip(names, outcomes, strict=True) if code is not Code.OK]
        assert purged == set(map(sha, refused))
        assert set(outcomes) <= {Code.OK, Code.FAILED_PRECONDITION}


async def test_a_lost_connection_loses_and_doubles_nothing(database: str, serve) -> None:
    async with clients(serve, database) as (client,):
        jobs = [await client.job() for _ in range(30)]
        done = 0

        async def write(number: int) -> pb.RecordDatasetVersionResponse:
            nonlocal done
            while True:
                try:
                    answer = await client.record("hard", {f"h{number}": 1}, job_id=jobs[number])
                except grpc.aio.AioRpcError as error:
                    if error.code() is not Code.UNAVAILABLE:
                        raise
                else:
                    done += 1
                    return answer

        async def kill() -> None:
            query = (
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE application_name = 'vistaflow registry' AND datname = current_database()"
            )
            async with await psycopg.AsyncConnection.connect(database) as connection:
                while done < len(jobs):
                    await connection.execute(query)
                    seen = done
                    await until(lambda seen=seen: done > seen or done == len(jobs))

        answers, _ = await asyncio.gather(
            asyncio.gather(*(write(number) for number in range(30))), kill()
        )
        assert sorted(answer.version.version for answer in answers) == list(range(1, 31))
        listed = await client.datasets.ListDatasetVersions(
            pb.ListDatasetVersionsRequest(dataset="hard")
        )
        assert {version.job_id: version.version for version in listed.versions} == {
            answer.version.job_id: answer.version.version for answer in answers
        }


async def test_versions_expire_without_a_new_one(database: str, serve) -> None:
    async with clients(serve, database, retention_interval_seconds=0.05) as (client,):
        for number in range(3):
            await client.record("aging", {f"a{number}": 1})
        limits = pb.DatasetLimits()
        limits.max_age.FromTimedelta(timedelta(seconds=1))
        await client.datasets.UpdateDataset(pb.UpdateDatasetRequest(dataset="aging", limits=limits))

        async def expired() -> bool:
            return await client.numbers("aging") == [3]

        await become(expired)
        assert await client.references("a0", "a1", "a2") == ["a2"]
    with psycopg.connect(database, options=f"-c search_path={SCHEMA}") as connection:
        rows = connection.execute(
            "SELECT version, deletion, manifest FROM dataset_versions ORDER BY version"
        ).fetchall()
    assert [row[:2] for row in rows] == [(1, "MAX_AGE"), (2, "MAX_AGE"), (3, None)]
    assert [row[2] is None for row in rows] == [True, True, False]


async def test_a_purge_that_falls_due_over_a_restart_is_given(
    database: str, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with clients(serve, database) as (client,):
        await client.record("people", {"ana": 1})
        await client.record(
            "people",
            {"others": 1},
            parent=1,
            forgotten_versions=[1],
            forgotten_blobs=[sha("ana")],
            purge_at=datetime.now(UTC) + timedelta(seconds=1),
        )
    given = list[str]()

    async def gives() -> bool:
        given[:] = await client.purge()
        return bool(given)

    async with clients(serve, database) as (client,):
        await become(gives)
        assert given == [sha("ana")]
    # Nobody says that it is purged, so it is given again once that takes too long.
    monkeypatch.setattr("vistaflow_services.registry.datasets.store.PURGE_SECONDS", 0.0)
    async with clients(serve, database) as (client,):
        assert await client.purge() == [sha("ana")]
        assert await client.purge("ana") == []
        assert await client.references("ana", "others") == ["others"]


async def test_a_restore_keeps_what_is_forgotten_and_the_numbers(
    database: str, serve, tmp_path: Path
) -> None:
    file = tmp_path / "registry.dump"
    async with clients(serve, database) as (client,):
        await client.record("people", {"ana": 1}, alias="best")
        await client.record("whole", {"w": 1})
        await asyncio.to_thread(backup, database, SCHEMA, file)
        await client.record(
            "people",
            {"others": 1},
            parent=1,
            forgotten_versions=[1],
            forgotten_blobs=[sha("ana")],
            purge_at=datetime.now(UTC) - timedelta(hours=2),
        )
    assert not any(rebuild(database, SCHEMA).values())
    await asyncio.to_thread(restore, database, SCHEMA, file)
    async with clients(serve, database) as (client,):
        assert (await client.get("whole")).version.version == 1
        dataset = (await client.get("people")).dataset
        assert (dataset.version_count, dict(dataset.aliases)) == (0, {})

        async def complains() -> bool:
            info = await client.registry.GetServerInfo(registry_pb2.GetServerInfoRequest())
            states = {finding.name: finding.state for finding in info.findings}
            return states.get("purge") == registry_pb2.CHECK_STATE_WRONG

        await become(complains)
        assert await client.purge() == [sha("ana")]
        assert (await client.record("people", {"new": 1})).version.version == 3


MANY = """
INSERT INTO datasets (project, name, description, labels)
SELECT 'full', 'd' || lpad(number::text, 3, '0'), repeat('가', 4000),
       (SELECT jsonb_object_agg('k' || key, repeat('"', 250)) FROM generate_series(1, 64) AS key)
  FROM generate_series(0, 299) AS number
"""


async def test_a_page_ends_where_it_is_full(database: str, serve) -> None:
    async with clients(serve, database) as (client,):
        with psycopg.connect(
            database, application_name="vistaflow test", options=f"-c search_path={SCHEMA}"
        ) as connection:
            connection.execute(MANY)
        request = pb.ListDatasetsRequest(project="full", page_size=1_000)
        listed = await client.pages(client.datasets.ListDatasets, request, "datasets")
        assert len(listed) > 2
        assert [dataset.name for page in listed for dataset in page] == [
            f"d{number:03}" for number in range(300)
        ]


STATEMENTS = (
    "UPDATE {}.datasets SET last_version = 0",
    "DELETE FROM {}.dataset_versions",
    "TRUNCATE {}.dataset_blobs",
    "INSERT INTO {}.forgotten_blobs VALUES (sha256('a'), now())",
)
CHANGES = (
    "DELETE FROM {}.dataset_versions",
    "UPDATE {}.dataset_versions SET manifest = '1'",
    "UPDATE {}.dataset_versions SET digest = 'a'",
)


async def test_only_the_registry_changes_datasets_and_not_what_was_recorded(
    database: str, serve
) -> None:
    async with clients(serve, database) as (client,):
        await client.record("kept", {"a": 1})
        for name, statements in (("psql", STATEMENTS), ("vistaflow registry", CHANGES)):
            for statement in statements:
                with psycopg.connect(database, application_name=name) as connection:
                    connection.execute("SET session_replication_role = replica")
                    with pytest.raises(psycopg.errors.RestrictViolation):
                        connection.execute(statement.format(SCHEMA))
        assert await client.numbers("kept") == [1]


async def test_a_job_that_is_canceled_meanwhile_records_nothing(database: str, serve) -> None:
    async with clients(serve, database) as (client,):
        job_id = await client.job()
        async with await psycopg.AsyncConnection.connect(
            database, application_name="vistaflow test"
        ) as connection:
            await connection.execute(f"SET search_path = {SCHEMA}")
            await client.record("late", {"a": 1})
            # Its turn comes once this is over, and then the job is.
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended("
                "'vistaflow datasets ' || current_schema() || ' default', 0))"
            )
            recording = asyncio.create_task(client.record("late", {"b": 1}, job_id=job_id))

            async def waits() -> bool:
                query = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                return (await connection.execute(query)).rowcount > 0

            await become(waits)
            await client.move(job_id, common.STATUS_CANCELED)
        code, reason = await refusal(recording)
        assert (code, "does not run" in reason) == (Code.FAILED_PRECONDITION, True)
        assert await client.numbers("late") == [1]
