"""Old partitions of the log go, and nothing that is still told changes."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from psycopg.rows import tuple_row

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import ExpiredError
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.connect import connected
from vistaflow_services.registry.domain import StateFilter, StateRow
from vistaflow_services.registry.log.journal import Journal
from vistaflow_services.registry.log.ledger import Ledger
from vistaflow_services.registry.reads import listing
from vistaflow_services.registry.upkeep.rebuild import DERIVED, rebuild
from vistaflow_services.registry.upkeep.retention import Policy, apply, plan

sys.path.insert(0, str(Path(__file__).parents[1]))

from traffic import connect

SCHEMA = Config.schema
SIZE = 2000
AT_ONCE = Policy(finished_days=1e-9, failed_days=1e-9, canceled_days=1e-9)


class Silent:
    """Is told of rows and does nothing."""

    def publish(self, rows: Any) -> None:
        """Takes them in."""


@asynccontextmanager
async def ledger(database: str) -> AsyncIterator[Ledger]:
    made = Ledger(Journal(database, SCHEMA, partition_size=SIZE), Silent())
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def job(name: str, *, external: bool = True) -> c.NewJob:
    return c.NewJob(
        job_id=uuid.uuid4(),
        name=name,
        job_type=random.choice(["DECK_COLLECTION", "DOE", "ML_TRAIN", "OPTIMIZE"]),
        current_order=0,
        depends_on=(),
        external=external,
        spec=b"" if external else b"spec",
        spec_type="" if external else "x/y",
    )


async def own(made: Ledger, job_id: uuid.UUID, status: str, **fields: Any) -> None:
    await made.submit(c.Append(items=(c.Item(job_id=job_id, status=status, **fields),)))


async def fill(made: Ledger, rows: int, *, end: str = "FINISHED") -> int:
    """A kit of one external job with so many task rows, then over; empty `end`: goes on."""
    kit = (await made.submit(c.CreateKit(name="kit", jobs=(job("work"),)))).kit
    (one,) = kit.jobs
    await own(made, one, "RUNNING")
    for first in range(0, rows, 1000):
        items = tuple(
            c.Item(job_id=one, status="RUNNING", task_name=f"t{n % 7}", attempt=1, seq=n + 1)
            for n in range(first, min(first + 1000, rows))
        )
        await made.submit(c.Append(items=items))
    if end:
        result = {"metadata_json": '{"result": {"n": 1}}', "result_json": '{"n": 1}'}
        await own(made, one, end, **(result if end == "FINISHED" else {}))
    return kit.kit_id


async def leased(made: Ledger, chance: random.Random) -> None:
    """A kit whose job is granted, lost, released and retried before it is over."""
    kit = (await made.submit(c.CreateKit(name="leased", jobs=(job("j", external=False),)))).kit
    (one,) = kit.jobs
    for _ in range(chance.randrange(1, 4)):
        granted = await made.submit(c.Grant(job_id=one, worker="w", lease_seconds=60))
        attempt = granted.job.attempt
        for seq in range(1, chance.randrange(2, 40)):
            task = f"t{chance.randrange(5)}"
            await own(made, one, "RUNNING", task_name=task, attempt=attempt, seq=seq)
        if chance.random() < 0.5:
            await made.submit(c.Lose(job_id=one, attempt=attempt, worker="w"))
        else:
            await own(made, one, "FAILED", attempt=attempt, seq=99)
            await made.submit(c.RetryJob(job_id=one))
    granted = await made.submit(c.Grant(job_id=one, worker="w", lease_seconds=60))
    if granted is not None:
        end = chance.choice(["FINISHED", "FAILED"])
        await own(made, one, end, attempt=granted.job.attempt, seq=1)


def dump(database: str) -> dict[str, list[Any]]:
    with connected(database, SCHEMA, name="test") as connection:
        return {
            name: sorted(map(repr, connection.execute(f"TABLE {name}").fetchall()))  # type: ignore[arg-type]
            for name in DERIVED
        }


def partitions(database: str, policy: Policy) -> dict[str, str]:
    with connected(database, SCHEMA, name="test") as connection:
        return {part.name: part.why_kept for part in plan(connection, policy)}


async def test_everything_is_kept_unless_told_otherwise(database: str) -> None:
    assert Policy.of(Config()).keeps_everything
    async with ledger(database) as made:
        await fill(made, 3 * SIZE)
    assert apply(database, SCHEMA, Policy.of(Config())) == []
    why = partitions(database, Policy())
    assert why["mlops_totalstate_from_1"] == "the policy keeps everything"
    assert all(why.values())


async def test_partitions_go_oldest_first_and_only_when_all_their_kits_are_over_for_long(
    database: str,
) -> None:
    async with ledger(database) as made:
        await fill(made, 2 * SIZE)
        going = await fill(made, 1, end="")
        await fill(made, 2 * SIZE)
        head = made.head
    days = Policy(finished_days=1)
    why = partitions(database, days)
    assert "is FINISHED and changed last" in why["mlops_totalstate_from_1"]
    assert apply(database, SCHEMA, days) == []
    why = partitions(database, AT_ONCE)
    assert [name for name, each in why.items() if not each] == [
        "mlops_totalstate_from_1",
        "mlops_totalstate_from_2001",
    ]
    assert f"kit {going} is RUNNING" in why["mlops_totalstate_from_4001"]
    assert why["mlops_totalstate_from_6001"] == "mlops_totalstate_from_4001 before it is kept"

    before = dump(database)
    dropped = apply(database, SCHEMA, AT_ONCE)

    assert [part.name for part in dropped] == list(why)[:2]
    with connected(database, SCHEMA, name="test") as connection:
        query = "SELECT min(id), max(id), count(*) FROM mlops_totalstate_table"
        assert connection.execute(query).fetchone() == (4001, head, head - 4000)
        assert connection.execute("SELECT oldest_id FROM head").fetchone() == (4001,)
        kept = connection.execute("SELECT id FROM kept_states ORDER BY id").fetchall()
    assert 8 <= len(kept) <= 24
    assert dump(database) == before
    assert not any(rebuild(database, SCHEMA, check=True).values())
    assert apply(database, SCHEMA, AT_ONCE) == []


@pytest.mark.parametrize("seed", [1, 2])
async def test_what_is_derived_can_be_rebuilt_after_any_history_was_dropped(
    database: str, seed: int
) -> None:
    chance = random.Random(seed)
    async with ledger(database) as made:
        for _ in range(12):
            await leased(made, chance)
            if chance.random() < 0.4:
                await fill(made, SIZE // 2, end=chance.choice(["FINISHED", "FAILED", "CANCELED"]))
        with connected(database, SCHEMA, name="test") as connection:
            # Nothing goes on, whatever chance said.
            going = connection.execute(
                "SELECT job_id FROM jobs WHERE status IN ('QUEUED', 'RUNNING')"
            ).fetchall()
        for (job_id,) in going:
            await made.submit(c.CancelJob(job_id=job_id))
        await fill(made, 2 * SIZE)
    before = dump(database)
    assert not any(rebuild(database, SCHEMA, check=True).values())

    assert len(apply(database, SCHEMA, AT_ONCE)) >= 2

    assert dump(database) == before
    assert rebuild(database, SCHEMA, check=True) == dict.fromkeys(DERIVED, 0)


async def test_a_kit_whose_past_was_dropped_is_retried_and_goes_on(database: str) -> None:
    async with ledger(database) as made:
        kit_id = await fill(made, 2 * SIZE, end="FAILED")
        await fill(made, SIZE)
        assert apply(database, SCHEMA, AT_ONCE)
        retried = await made.submit(c.RetryKit(kit_id=kit_id))
        (one,) = retried.kit.jobs
        await own(made, one, "RUNNING", attempt=2, seq=1)
        await own(made, one, "FINISHED", attempt=2, seq=2)
    assert not any(rebuild(database, SCHEMA, check=True).values())


async def test_watchers_behind_are_told_and_others_go_on(database: str, serve) -> None:
    async with serve(database, Config(partition_size=SIZE)) as registry:
        kit_id = await fill(registry.ledger, 2 * SIZE)
        await fill(registry.ledger, SIZE)
        channel, stub = connect(registry.address)
        async with channel:
            assert await asyncio.to_thread(apply, database, SCHEMA, AT_ONCE)
            info = await stub.GetServerInfo(pb.GetServerInfoRequest())
            assert info.oldest_revision == 3 * SIZE + 1
            # A registry that has just started has nothing in memory either.
            async with serve(database, Config(partition_size=SIZE)) as other:
                second, behind = connect(other.address)
                async with second:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        async for _ in behind.WatchStates(pb.WatchStatesRequest(after_revision=7)):
                            pass
                    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
                    oldest = info.oldest_revision - 1
                    async for message in behind.WatchStates(
                        pb.WatchStatesRequest(after_revision=oldest)
                    ):
                        assert message.delta.states[0].revision == oldest + 1
                        break
            # The kit reads as before, and of its history what is kept.
            kit = (await stub.GetKit(pb.GetKitRequest(kit_id=kit_id))).kit
            assert len(kit.jobs[0].tasks) == 7
            wanted = pb.StateFilter(kit_ids=[kit_id])
            told: list[str] = []
            token = ""
            while True:
                page = await stub.ListStates(
                    pb.ListStatesRequest(filter=wanted, page_size=5, page_token=token)
                )
                told += [state.task_name for state in page.states]
                token = page.next_page_token
                if not token:
                    break
            assert {f"t{n}" for n in range(7)} <= set(told)
            assert told.count("") == 3  # all of the job's own rows
            assert len(told) <= 3 + 3 * 8


async def test_rows_kept_of_dropped_partitions_are_listed_by_time_like_others(
    database: str, serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that seconds do here what it takes an hour to see otherwise.
    monkeypatch.setattr(listing, "CLOCK_STEP", timedelta(microseconds=1))
    async with serve(database, Config(partition_size=SIZE)) as registry:
        for _ in range(2):
            await fill(registry.ledger, SIZE)
        assert await asyncio.to_thread(apply, database, SCHEMA, AT_ONCE)

        async def listed(wanted: StateFilter) -> list[StateRow]:
            rows: list[StateRow] = []
            after: int | None = 0
            while after is not None:
                page = await registry.store.list_states(wanted, after=after, limit=7)
                rows += page.entries
                after = page.next_key
            return rows

        every = await listed(StateFilter())
        oldest = (await registry.store.head()).oldest_id
        kept = [row for row in every if row.revision < oldest]
        assert kept
        assert len(kept) < len(every)
        times = [kept[0].created_at, kept[-2].created_at, every[-2].created_at]
        for first in (None, *times):
            for last in (None, *times):
                wanted = StateFilter(recorded_after=first, recorded_before=last)
                assert await listed(wanted) == [
                    row
                    for row in every
                    if (first is None or row.created_at >= first)
                    and (last is None or row.created_at < last)
                ]


async def test_whoever_resumes_at_the_edge_gets_every_row_or_is_told(database: str, serve) -> None:
    async with ledger(database) as made:
        for _ in range(5):
            await fill(made, SIZE)
    chance = random.Random(5)
    told = "OUT_OF_RANGE, told why: True"
    edges = [n * SIZE + d for n in range(6) for d in (-2, -1, 0, 1)]
    async with serve(database, Config(partition_size=SIZE)) as registry:
        head = registry.hub.head
        channel, stub = connect(registry.address)

        async def watch(after: int) -> str:
            await asyncio.sleep(chance.random() * 0.5)
            at = after
            try:
                async for message in stub.WatchStates(pb.WatchStatesRequest(after_revision=at)):
                    if message.end.code == pb.END_REASON_EXPIRED:
                        return told
                    for state in message.delta.states:
                        assert state.revision == at + 1
                        at = state.revision
                    if at == head:
                        return "all"
                    await asyncio.sleep(0.02)
            except grpc.aio.AioRpcError as error:
                kept = "no longer kept" in (error.details() or "")
                return f"{error.code().name}, told why: {kept}"
            raise AssertionError("it ended without a word")

        async with channel, asyncio.timeout(120):
            watches = [asyncio.create_task(watch(max(0, chance.choice(edges)))) for _ in range(40)]
            await asyncio.sleep(0.2)
            await asyncio.to_thread(apply, database, SCHEMA, AT_ONCE)
            ends = await asyncio.gather(*watches)
            assert [await watch(5 * SIZE - 1), await watch(5 * SIZE)] == [told, "all"]
    assert set(ends) <= {"all", told}


async def test_a_page_of_the_past_is_refused_if_the_past_goes_meanwhile(
    database: str, serve
) -> None:
    async with serve(database, Config(partition_size=SIZE)) as registry:
        await fill(registry.ledger, 2 * SIZE)
        await fill(registry.ledger, SIZE)
        store = registry.watches._store
        first = await store.page(StateFilter(), 0, registry.hub.head, 100)
        assert len(first.rows) > 0
        await asyncio.to_thread(apply, database, SCHEMA, AT_ONCE)
        with pytest.raises(ExpiredError) as caught:
            await store.page(StateFilter(), first.through, registry.hub.head, 100)
        assert caught.value.metadata == {"oldest_revision": str(3 * SIZE + 1)}


async def test_appends_go_on_while_partitions_are_dropped(database: str) -> None:
    async with ledger(database) as made:
        for _ in range(6):
            await fill(made, SIZE)
        kit = (await made.submit(c.CreateKit(name="live", jobs=(job("live"),)))).kit
        (one,) = kit.jobs
        await own(made, one, "RUNNING")
        dropping = asyncio.create_task(asyncio.to_thread(apply, database, SCHEMA, AT_ONCE))
        appended = 0
        while not dropping.done() or appended < 50:
            await own(made, one, "RUNNING", task_name="t")
            appended += 1
        assert len(await dropping) == 6
    assert not any(rebuild(database, SCHEMA, check=True).values())


async def test_a_partition_in_use_is_dropped_once_it_is_free(database: str) -> None:
    async with ledger(database) as made:
        await fill(made, SIZE)
        await fill(made, SIZE)
    with psycopg.connect(database, row_factory=tuple_row) as reader:
        reader.execute(f"SELECT count(*) FROM {SCHEMA}.mlops_totalstate_table")
        dropping = asyncio.create_task(asyncio.to_thread(apply, database, SCHEMA, AT_ONCE))
        await asyncio.sleep(0.8)
        assert not dropping.done()
        reader.rollback()
        assert len(await dropping) == 2


async def test_nothing_but_retention_takes_rows_away(database: str) -> None:
    async with ledger(database) as made:
        await fill(made, SIZE)
        await fill(made, SIZE)
    apply(database, SCHEMA, AT_ONCE)
    with connected(database, SCHEMA, name="test") as connection:
        (newest,) = connection.execute("SELECT max(name) FROM partitions").fetchone() or ("",)
        for table in ("mlops_totalstate_table", newest, "kept_states"):
            if table == newest:
                connection.execute(
                    f"INSERT INTO {newest} SELECT (SELECT first_id FROM partitions WHERE name = "
                    f"'{newest}'), kit_id, job_type, task_name, job_id, status, current_order, "
                    "created_at, metadata, batch, attempt, seq, actor, reason, kit_counts "
                    "FROM kept_states LIMIT 1"
                )
                connection.execute(f"UPDATE head SET last_id = (SELECT max(id) FROM {newest})")
            for change in (
                f"UPDATE {table} SET reason = 'x'",
                f"DELETE FROM {table}",
                f"TRUNCATE {table}",
            ):
                with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
                    connection.execute(change)
        with pytest.raises(psycopg.errors.RestrictViolation, match="still to be kept"):
            connection.execute("SELECT drop_partition(%s)", [newest])


def test_a_dry_run_tells_and_changes_nothing(database: str, tmp_path: Path) -> None:
    async def grow() -> None:
        async with ledger(database) as made:
            await fill(made, 2 * SIZE)

    asyncio.run(grow())
    environment = {
        **os.environ,
        "VISTAFLOW_HOME": str(tmp_path),
        "VISTAFLOW_REGISTRY_DATABASE": database,
    }
    command = [sys.executable, "-m", "vistaflow_services.registry.retention", "--days=1e-9"]
    told = subprocess.run(
        [*command, "--dry-run"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert told.count("can be dropped") == 2
    assert "the log still grows in it" in told
    assert len(partitions(database, Policy())) > 2
    bad = [*command[:-1], "--days=-1"]
    refused = subprocess.run(bad, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "argument --days: is -1; give 0 or more" in refused.stderr
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.count("dropped mlops_totalstate_from_") == 2


async def test_what_keeps_a_partition_from_being_added_ahead_keeps_nobody_from_appending(
    database: str,
) -> None:
    async with ledger(database) as made:
        await fill(made, 1, end="")
        (first, *_, last) = partitions(database, Policy())
        made._journal._partition_size = 50_000
        with psycopg.connect(database) as stranger:
            stranger.execute(f"LOCK {SCHEMA}.partitions IN SHARE MODE")
            await fill(made, 8000)
            assert list(partitions(database, Policy()))[-1] == last
        # Where there is no room left it is done at once.
        await fill(made, 9000)
        assert made.head > 16_000
        assert "mlops_totalstate_from_16001" in partitions(database, Policy())
    assert first == "mlops_totalstate_from_1"
