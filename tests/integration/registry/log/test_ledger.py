from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vistaflow_services.core.errors import ExistsError, ServiceError, UnavailableError
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.domain import StateRow, Status, Verdict
from vistaflow_services.registry.log.board import Board
from vistaflow_services.registry.log.journal import Journal
from vistaflow_services.registry.log.ledger import Ledger
from vistaflow_services.registry.upkeep.rebuild import rebuild

SCHEMA = "vistadb_test"
REGISTRY = "vistaflow registry test"
"""Names a session from which the database takes rows of the log."""


class Published:
    """Notes what a ledger publishes."""

    def __init__(self) -> None:
        self.rows: list[StateRow] = []

    def publish(self, rows) -> None:
        self.rows.extend(rows)

    @property
    def revisions(self) -> list[int]:
        return [row.revision for row in self.rows]


@asynccontextmanager
async def ledger(database: str, **fields: Any) -> AsyncIterator[tuple[Ledger, Published]]:
    published = Published()
    journal = Journal(database, SCHEMA, partition_size=fields.pop("partition_size", 1_000_000))
    made = Ledger(journal, published, **fields)
    await made.start()
    try:
        yield made, published
    finally:
        await made.stop()


def new(name: str, *needs: str, external: bool = True) -> c.NewJob:
    return c.NewJob(
        job_id=uuid.uuid4(),
        name=name,
        job_type=random.choice(["DECK_COLLECTION", "DOE", "ML_TRAIN", "ML_TEST", "OPTIMIZE"]),
        current_order=0,
        depends_on=needs,
        external=external,
        spec=b"" if external else b"spec",
        spec_type="" if external else "x/y",
    )


def append(job_id: uuid.UUID, status: str, **fields: Any) -> c.Append:
    return c.Append(items=(c.Item(job_id=job_id, status=status, **fields),))


def request(request_id: uuid.UUID, body: str = "") -> c.Request:
    return c.Request(
        request_id=request_id,
        method="AppendStates",
        body_sha256=hashlib.sha256(body.encode()).hexdigest(),
        data_json="{}",
        encode=lambda answer: b",".join(str(each.revision).encode() for each in answer.results),
    )


def fetch(database: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database) as connection:
        connection.execute(f"SET search_path TO {SCHEMA}")
        return connection.execute(query).fetchall()


def logged(database: str) -> list[int]:
    return [row[0] for row in fetch(database, "SELECT id FROM mlops_totalstate_table ORDER BY id")]


async def started_kit(made: Ledger, jobs: int = 4) -> list[uuid.UUID]:
    kit = await made.submit(c.CreateKit(name="kit", jobs=tuple(new(f"j{n}") for n in range(jobs))))
    ids = [job.job_id for job in kit.kit.ordered_jobs()]
    for job_id in ids:
        await made.submit(append(job_id, Status.RUNNING))
    return ids


async def test_concurrent_appends_share_commits_and_are_numbered_densely(database: str) -> None:
    async with ledger(database) as (made, published):
        ids = await started_kit(made)
        before = made.commits
        answers = await asyncio.gather(
            *(made.submit(append(ids[n % 4], "RUNNING", task_name=f"t{n}")) for n in range(400))
        )
        commits = made.commits - before

    assert [answer.results[0].verdict for answer in answers] == [Verdict.ACCEPTED] * 400
    assert logged(database) == published.revisions == list(range(1, 409))
    assert commits < 40
    assert not any(rebuild(database, SCHEMA, check=True).values())


async def test_concurrent_duplicates_make_one_row(database: str) -> None:
    async with ledger(database) as (made, _):
        (job_id, *_) = await started_kit(made)
        request_id = uuid.uuid4()
        asked = c.Append(
            request=request(request_id),
            items=(c.Item(job_id=job_id, status="RUNNING", task_name="t"),),
        )
        answers = await asyncio.gather(*(made.submit(asked) for _ in range(20)))
        by_seq = await asyncio.gather(
            *(made.submit(append(job_id, "RUNNING", task_name="u", seq=5)) for _ in range(20))
        )
        with pytest.raises(ExistsError) as caught:
            await made.submit(
                c.Append(request=request(request_id, "another body"), items=asked.items)
            )

    first = [answer for answer in answers if isinstance(answer, c.Appended)]
    replayed = [answer for answer in answers if isinstance(answer, c.Replayed)]
    assert (len(first), len(replayed)) == (1, 19)
    assert {each.response for each in replayed} == {str(first[0].revision).encode()}
    assert sorted(answer.results[0].verdict for answer in by_seq) == ["ACCEPTED"] + 19 * [
        "DUPLICATE"
    ]
    assert len({answer.results[0].revision for answer in by_seq}) == 1
    assert caught.value.reason == "REQUEST_ID_REUSED"
    tasks = "SELECT task_name FROM mlops_totalstate_table WHERE task_name <> '' ORDER BY 1"
    assert fetch(database, tasks) == [("t",), ("u",)]


async def test_two_replicas_write_at_once_and_nothing_is_lost(database: str) -> None:
    async with ledger(database) as (one, rows_of_one), ledger(database) as (two, rows_of_two):
        ids = await started_kit(one)

        async def write(made: Ledger, writer: int) -> list[int]:
            acked = []
            for n in range(40):
                name = f"w{writer}-{n}"
                answer = await made.submit(append(ids[n % 4], "RUNNING", task_name=name, seq=0))
                assert answer.results[0].verdict is Verdict.ACCEPTED
                acked.append(answer.results[0].revision)
            return acked

        acked = await asyncio.gather(
            *(write(one if writer % 2 else two, writer) for writer in range(8))
        )
        # The same task from both sides: the second must see the first.
        await one.submit(append(ids[0], "FINISHED", task_name="both"))
        late = await two.submit(append(ids[0], "RUNNING", task_name="both"))
        assert late.results[0].verdict is Verdict.REJECTED

    flat = sorted(revision for each in acked for revision in each)
    assert len(set(flat)) == 320
    everything = logged(database)
    assert everything == list(range(1, 8 + 320 + 2))
    for published in (rows_of_one, rows_of_two):
        assert published.revisions == list(range(1, len(published.revisions) + 1))
    assert not any(rebuild(database, SCHEMA, check=True).values())


async def test_one_bad_command_does_not_spoil_the_batch(database: str) -> None:
    async with ledger(database) as (made, _):
        ids = await started_kit(made)
        # Validation upstream refuses this; the database must not be the end of its neighbours.
        bad = append(ids[0], "RUNNING", task_name="bad", metadata_json='{"x": "\\u0000"}')
        answers = await asyncio.gather(
            *(made.submit(append(ids[1], "RUNNING", task_name=f"t{n}")) for n in range(5)),
            made.submit(bad),
            *(made.submit(append(ids[2], "RUNNING", task_name=f"t{n}")) for n in range(5)),
            return_exceptions=True,
        )

    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(failed) == 1
    assert not isinstance(failed[0], ServiceError)
    assert logged(database) == list(range(1, 8 + 10 + 1))


async def test_a_commit_is_found_though_its_answer_was_lost(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ledger(database) as (made, published):
        (job_id, *_) = await started_kit(made)
        write = Journal.write

        async def write_and_lose(self: Journal, *args: Any) -> Any:
            await write(self, *args)
            monkeypatch.setattr(Journal, "write", write)
            await self.close()
            raise psycopg.OperationalError("the answer was lost")

        monkeypatch.setattr(Journal, "write", write_and_lose)
        answer = await made.submit(append(job_id, "RUNNING", task_name="t"))
        again = await made.submit(append(job_id, "RUNNING", task_name="u"))

    assert (answer.revision, again.revision) == (9, 10)
    assert published.revisions == logged(database) == list(range(1, 11))


async def test_a_connection_that_is_cut_costs_time_and_no_row(database: str) -> None:
    async with ledger(database) as (made, published):
        ids = await started_kit(made)

        async def cut() -> None:
            for _ in range(5):
                await asyncio.sleep(0.08)
                fetch(
                    database,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'vistaflow registry ledger' "
                    "AND datname = current_database()",
                )

        async def write(job_id: uuid.UUID) -> list[int]:
            answers = []
            for n in range(60):
                answers.append(await made.submit(append(job_id, "RUNNING", task_name=f"t{n}")))
                await asyncio.sleep(0.005)
            return [answer.revision for answer in answers]

        *acked, _ = await asyncio.gather(*(write(job_id) for job_id in ids), cut())

    assert sorted(itertools.chain(*acked)) == list(range(9, 249))
    assert published.revisions == logged(database) == list(range(1, 249))


async def test_who_waits_for_a_database_that_is_away_is_told_in_time(tmp_path) -> None:
    from vistaflow_services.registry.database.embedded import EmbeddedPostgres
    from vistaflow_services.registry.database.migrations import migrate

    postgres = EmbeddedPostgres(tmp_path)
    conninfo = await asyncio.to_thread(postgres.start)
    try:
        await asyncio.to_thread(migrate, conninfo, SCHEMA, "vistaflow_services.registry")
        async with ledger(conninfo) as (made, _):
            (job_id, *_) = await started_kit(made)
            await asyncio.to_thread(postgres.stop)
            with pytest.raises(UnavailableError, match="outcome is unknown"):
                await made.submit(append(job_id, "RUNNING", task_name="t"), seconds=0.5)
            waiting = asyncio.create_task(made.submit(append(job_id, "RUNNING", task_name="u")))
            await asyncio.sleep(0.1)
            await asyncio.to_thread(postgres.start)
            assert (await waiting).results[0].verdict is Verdict.ACCEPTED
    finally:
        await asyncio.to_thread(postgres.stop)


async def test_partitions_are_there_before_they_are_needed(database: str) -> None:
    async with ledger(database, partition_size=1_000) as (made, _):
        ids = await started_kit(made)
        items = tuple(
            c.Item(job_id=ids[0], status="RUNNING", task_name=f"t{n % 50}") for n in range(1000)
        )
        for _ in range(25):
            await made.submit(c.Append(items=items))
    ends = fetch(database, "SELECT first_id, end_id FROM partitions ORDER BY 1")
    assert ends[-1][1] > 25_008
    assert all(one[1] == two[0] for one, two in itertools.pairwise(ends))


def test_nobody_changes_the_log(database: str) -> None:
    with psycopg.connect(database, autocommit=True, application_name=REGISTRY) as connection:
        connection.execute(f"SET search_path TO {SCHEMA}")
        connection.execute("SELECT add_partitions(1000000)")
        connection.execute(
            "INSERT INTO mlops_totalstate_table (id, kit_id, job_type, task_name, job_id, status, "
            "current_order, created_at, batch, attempt, seq, actor, reason) "
            "VALUES (1, 1, 'DOE', '', gen_random_uuid(), 'QUEUED', 1, now(), 1, 0, 0, '', '')"
        )
        connection.execute("UPDATE head SET last_id = 1")
        partition = connection.execute("SELECT name FROM partitions").fetchone()[0]
        for table in ("mlops_totalstate_table", partition):
            for change in (
                f"UPDATE {table} SET reason = 'x'",
                f"DELETE FROM {table}",
                f"TRUNCATE {table}",
            ):
                with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
                    connection.execute(change)


# What may happen to a kit of four jobs, chosen at random: (what, which job, which detail).
MOVES = [
    "go", "go", "go", "own", "task", "task", "release", "lose", "cancel", "retry", "cancel kit",
    "retry kit", "add",
]  # fmt: skip
STEPS = st.lists(
    st.tuples(st.sampled_from(MOVES), st.integers(0, 3), st.integers(0, 5)),
    min_size=10,
    max_size=50,
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, seed=st.integers(0, 2**16))
def test_tables_and_memory_agree_after_any_history(database: str, steps, seed: int) -> None:
    asyncio.run(play(database, steps, seed))
    assert rebuild(database, SCHEMA, check=True) == dict.fromkeys(
        rebuild(database, SCHEMA, check=True), 0
    )


async def play(database: str, steps: list[tuple[str, int, int]], seed: int) -> None:
    random.seed(seed)
    # A board this small forgets between commands, so that half of them read from the tables.
    board = Board(max_weight=random.choice([1, 1000]))
    async with ledger(database, board=board) as (made, published):
        first = made.head
        jobs = (
            new("a", external=True),
            new("b", "a", external=False),
            new("c", "a", "b"),
            new("d", external=False),
        )
        kit_id = (await made.submit(c.CreateKit(name="kit", jobs=jobs))).kit.kit_id
        model = {job.job_id: Status.INIT if job.depends_on else Status.QUEUED for job in jobs}
        await made.submit(c.CreateKit(name="other", jobs=(new("x"),)))
        for what, which, detail in steps:
            job_id = jobs[which].job_id
            status = list(Status)[detail]
            kit = (await made._journal.kits([kit_id]))[kit_id]
            job = kit.jobs[job_id]
            attempt = job.attempt
            if what == "go":
                # Onwards: a queued job runs, a running one ends.
                what = "own" if job.external or job.status == Status.RUNNING else "grant"
                onwards = {Status.QUEUED: Status.RUNNING, Status.RUNNING: Status.FINISHED}
                status = onwards.get(Status(job.status), status)
                attempt = 0 if job.external else attempt
            command: c.Command = {
                "own": append(
                    job_id, status, attempt=attempt, seq=detail, metadata_json='{"result": {}}',
                    result_json="{}",
                ),
                "task": append(
                    job_id, status, attempt=attempt, seq=detail, task_name=f"t{detail}"
                ),
                "grant": c.Grant(job_id=job_id, worker="w", lease_seconds=5),
                "release": c.Release(
                    job_id=job_id, attempt=attempt, worker="w", counts=detail > 2
                ),
                "lose": c.Lose(job_id=job_id, attempt=attempt, worker="w"),
                "cancel": c.CancelJob(job_id=job_id, actor="ada"),
                "retry": c.RetryJob(job_id=job_id),
                "cancel kit": c.CancelKit(kit_id=kit_id),
                "retry kit": c.RetryKit(kit_id=kit_id, reason="again"),
                "add": c.CreateJob(kit_id=kit_id, job=new(f"n{uuid.uuid4().hex[:6]}", "a")),
            }[what]  # fmt: skip
            with suppress(ServiceError):
                await made.submit(command)
        for row in published.rows:
            if row.job_id in model and not row.task_name:
                model[row.job_id] = Status(row.status)
        kit = (await made._journal.kits([kit_id]))[kit_id]
        assert {key: kit.jobs[key].status for key in model} == model
        held = made.board.kit(kit_id)
        if held is not None:
            assert held == kit
        assert published.revisions == list(range(first + 1, made.head + 1))
