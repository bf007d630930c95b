"""The past of a kit, what changed in it, and pauses, after histories chosen at random."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from vistaflow._rpc import paging
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import ServiceError, Violations
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.bulk import BulkService, MovedJobs, moved_jobs
from vistaflow_services.registry.database.queries import QUERIES
from vistaflow_services.registry.domain import (
    RETRYABLE,
    TERMINAL,
    JobChangeFilter,
    Kit,
    StateRow,
    Status,
    count,
    first_name,
    kit_row_id,
)
from vistaflow_services.registry.lease.store import LeaseStore
from vistaflow_services.registry.log.board import Board
from vistaflow_services.registry.log.journal import Journal
from vistaflow_services.registry.log.ledger import Ledger
from vistaflow_services.registry.messages import filters
from vistaflow_services.registry.messages.translate import kit_to_proto
from vistaflow_services.registry.reads.history import Moment
from vistaflow_services.registry.reads.past import Comparison
from vistaflow_services.registry.reads.store import Store, make_pool
from vistaflow_services.registry.upkeep.rebuild import rebuild

SCHEMA = "vistadb_test"
TYPES = ["DOE", "ML_TRAIN", "OPTIMIZE"]

# What may happen, chosen at random: (what, to which kit, to which job, which detail).
MOVES = [
    "go", "go", "go", "go", "task", "task", "task", "progress", "lose", "release", "cancel",
    "retry", "cancel kit", "retry kit", "replace", "replace", "pause", "resume", "add", "many",
]  # fmt: skip
STEPS = st.lists(
    st.tuples(st.sampled_from(MOVES), st.integers(0, 1), st.integers(0, 3), st.integers(0, 5)),
    min_size=10,
    max_size=30,
)
PROPERTY = settings(
    max_examples=3,
    deadline=None,
    # What fails is told as it is: making it smaller takes minutes.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


# One of everything: attempts with tasks that a later one leaves behind, lost ones, a pause over
# which nothing is granted, jobs that wait in vain.
STORY = [
    ("go", 0, 0, 0), ("task", 0, 0, 2), ("go", 0, 3, 0), ("task", 0, 3, 3), ("progress", 0, 3, 0),
    ("lose", 0, 3, 0), ("pause", 0, 0, 0), ("go", 0, 3, 0), ("cancel", 0, 0, 0),
    ("retry", 0, 0, 0), ("go", 0, 0, 0), ("task", 0, 0, 5), ("go", 0, 0, 2), ("resume", 0, 0, 0),
    ("go", 0, 3, 0), ("task", 0, 3, 4), ("go", 0, 3, 0), ("retry", 0, 0, 0), ("pause", 0, 0, 0),
    ("many", 0, 0, 0), ("go", 1, 0, 0), ("many", 0, 0, 5), ("add", 0, 0, 0), ("go", 0, 0, 0),
    ("pause", 1, 0, 0), ("go", 0, 0, 0),
    ("go", 1, 3, 0), ("resume", 1, 0, 0), ("go", 1, 3, 0), ("go", 1, 3, 0), ("replace", 1, 3, 0),
    ("go", 1, 4, 0), ("replace", 1, 0, 0), ("replace", 1, 3, 0), ("go", 1, 4, 0), ("go", 1, 4, 0),
    ("replace", 1, 3, 0), ("cancel kit", 1, 0, 0), ("retry kit", 1, 0, 0),
]  # fmt: skip


class Published:
    """Notes what a ledger publishes."""

    def __init__(self) -> None:
        self.rows: list[StateRow] = []

    def publish(self, rows: Sequence[StateRow]) -> None:
        self.rows.extend(rows)


class World:
    """A log with two kits, and what each was after every commit."""

    def __init__(self, ledger: Ledger, store: Store, watched: LeaseStore, log: Published) -> None:
        self.ledger, self.store, self.watched, self.log = ledger, store, watched, log
        self.kit_ids: list[int] = []
        self.seen: dict[tuple[int, int], Kit] = {}

    async def found(self, number: int, **fields: Any) -> None:
        job = ("a", ()), ("b", ("a",)), ("c", ("a", "b")), ("d", ())
        jobs = tuple(
            c.NewJob(
                job_id=uuid.uuid4(),
                name=name,
                job_type=TYPES[(place + number) % 3],
                current_order=place + 1,
                depends_on=needs,
                external=name in ("a", "c"),
                spec=b"" if name in ("a", "c") else b"spec",
                spec_type="" if name in ("a", "c") else "x/y",
                max_attempts=2,
                labels={"side": "left" if place < 2 else "right"},
            )
            for place, (name, needs) in enumerate(job)
        )
        made = await self.ledger.submit(c.CreateKit(name="kit", jobs=jobs, **fields))
        self.kit_ids.append(made.kit.kit_id)
        await self.note()

    async def note(self) -> None:
        """Remembers what the tables say now."""
        for kit_id in self.kit_ids:
            kit, revision = await self.store.kit(kit_id)
            assert kit is not None
            self.seen[kit_id, revision] = kit

    async def step(self, what: str, which: int, place: int, detail: int) -> None:
        kit, _ = await self.store.kit(self.kit_ids[which])
        assert kit is not None
        job = kit.ordered_jobs()[place]
        own = {"job_id": job.job_id, "attempt": 0 if job.external else job.attempt}
        onwards = {
            Status.QUEUED: Status.RUNNING,
            Status.RUNNING: ["FINISHED", "FINISHED", "FAILED", "CANCELED"][detail % 4],
        }
        status = list(Status)[detail]
        if what == "go":
            what = "own" if job.external or job.status == Status.RUNNING else "grant"
        held = {"attempt": job.attempt, "job_id": job.job_id, "worker": "w"}
        result = '{"result": {"n": 1}}'
        commands: dict[str, c.Command] = {
            "own": c.Append(
                items=(
                    c.Item(
                        **own,
                        status=str(onwards.get(Status(job.status), status)),
                        metadata_json=result,
                        result_json='{"n": 1}',
                        actor="ada",
                        reason="as it goes",
                    ),
                )
            ),
            "task": c.Append(
                items=(
                    c.Item(**own, status="RUNNING", task_name=f"t{detail}"),
                    c.Item(**own, status=status, task_name=f"t{detail}"),
                )
            ),
            "progress": c.Append(items=(c.Item(**own, status="RUNNING", task_name="progress"),)),
            "grant": c.Grant(job_id=job.job_id, worker="w", lease_seconds=5),
            "release": c.Release(**held, counts=detail > 2),
            "lose": c.Lose(**held),
            "cancel": c.CancelJob(job_id=job.job_id, actor="ada"),
            "retry": c.RetryJob(job_id=job.job_id),
            "cancel kit": c.CancelKit(kit_id=kit.kit_id),
            "retry kit": c.RetryKit(kit_id=kit.kit_id, reason="again"),
            "replace": c.RetryKit(
                kit_id=kit.kit_id, replacements=(c.Replacement(name=first_name(job.name)),)
            ),
            "pause": c.PauseKit(kit_id=kit.kit_id, reason="lunch", actor="ada"),
            "resume": c.ResumeKit(kit_id=kit.kit_id, actor="bob"),
            "add": c.CreateJob(
                kit_id=kit.kit_id,
                job=c.NewJob(
                    job_id=uuid.uuid4(),
                    name=f"n{uuid.uuid4().hex[:6]}",
                    job_type="DOE",
                    current_order=0,
                    depends_on=("a",),
                    external=True,
                ),
            ),
            "many": c.ChangeJobs(
                kit_id=kit.kit_id,
                job_ids=tuple(kit.jobs),
                statuses=frozenset(Status),
                retry=detail > 2,
            ),
        }
        with suppress(ServiceError):
            answer = await self.ledger.submit(commands[what])
            if what == "grant" and kit.paused:
                assert answer is None
        await self.note()
        await self.check_pauses()

    async def check_pauses(self) -> None:
        """What would be handed out next is of no paused kit."""
        for job_id, _ in await self.watched.queued_jobs(TYPES, 100):
            kit_id = self.ledger.board.kit_of(job_id)
            kits = [(await self.store.kit(each))[0] for each in self.kit_ids]
            assert not any(kit.paused for kit in kits if kit and job_id in kit.jobs), kit_id


@asynccontextmanager
async def world(database: str, *, board: Board | None = None) -> AsyncIterator[World]:
    log = Published()
    ledger = Ledger(Journal(database, SCHEMA, partition_size=1_000_000), log, board=board)
    pool = make_pool(database, schema=SCHEMA, size=4)
    await pool.open()
    await ledger.start()
    try:
        yield World(ledger, Store(pool), LeaseStore(pool), log)
    finally:
        await ledger.stop()
        await pool.close()


async def played(lived: World, steps: Sequence[tuple[str, int, int, int]]) -> None:
    await lived.found(0, project="left", labels={"team": "x"})
    await lived.found(1, project="right")
    for step in steps:
        await lived.step(*step)


def replayed(rows: Sequence[StateRow], kit_id: int, revision: int) -> dict[Any, StateRow]:
    """The tree as whoever reads the log from its beginning would keep it."""
    tree: dict[Any, StateRow] = {}
    for row in rows:
        if row.kit_id != kit_id or row.revision > revision:
            continue
        own = tree.get((row.job_id, ""))
        if not row.task_name and own is not None and row.attempt > own.attempt:
            tree = {key: each for key, each in tree.items() if key[0] != row.job_id}
        tree[row.job_id, row.task_name] = row
    return tree


def without_heartbeats(kit: pb.Kit) -> pb.Kit:
    """Without what is in no row."""
    told = pb.Kit()
    told.CopyFrom(kit)
    for job in told.jobs:
        job.ClearField("progress")
    return told


async def read_in_pages(store: Store, kit_id: int, size: int, **asked: Any) -> pb.Kit:
    """A kit of which each page has so many jobs and tasks, put together as clients do."""

    async def ask(request: pb.GetKitRequest) -> pb.GetKitResponse:
        _, began_at, after = filters.tree_page(request, Violations())
        page, revision = await store.tree_page(
            kit_id, size=size, began_at=began_at, after=after, **asked
        )
        assert page is not None
        parts = [part for job in page.kit.jobs for part in (job.name, *job.tasks) if part]
        assert not size or len(parts) <= size
        token = filters.tree_token(request, revision, page.next_place)
        return pb.GetKitResponse(kit=page.kit, revision=revision, next_page_token=token)

    answer = await paging.whole(ask, pb.GetKitRequest(kit_id=kit_id))
    kit: pb.Kit = answer.kit
    return kit


@PROPERTY
@example(steps=STORY, seed=1)
@given(steps=STEPS, seed=st.integers(0, 2**16))
def test_a_kit_of_the_past_is_what_it_was_then(database: str, steps: Any, seed: int) -> None:
    async def check() -> None:
        chance = random.Random(seed)
        board = Board(max_weight=chance.choice([1, 1000]))
        async with world(database, board=board) as lived:
            before = lived.ledger.head or 0
            await played(lived, steps)
            rows = list(lived.log.rows)
            for (kit_id, revision), then in lived.seen.items():
                moment, at = await lived.store.kit_at(kit_id, revision=revision)
                assert at == revision
                assert moment is not None
                for size in (0, 1, chance.randint(2, 9)):
                    kit = await read_in_pages(lived.store, kit_id, size, revision=revision)
                    assert without_heartbeats(kit) == without_heartbeats(kit_to_proto(then))
            # In the middle of an append too.
            for revision in range(before + 1, lived.ledger.head + 1):
                for kit_id in lived.kit_ids:
                    tree = replayed(rows, kit_id, revision)
                    moment, _ = await lived.store.kit_at(kit_id, revision=revision)
                    assert (moment is None) == (not tree)
                    if moment is not None:
                        assert moment_places(moment) == places(tree)
                        assert moment.counts == task_counts(tree, moment.kit)
                        assert_like(moment.kit, tree)
                        told = [row.revision for row in rows if row.kit_id == kit_id]
                        assert moment.kit.revision == max(n for n in told if n <= revision)
        assert not any(rebuild(database, SCHEMA, check=True).values())

    asyncio.run(check())


@PROPERTY
@example(steps=STORY, later=STORY[:9], size=1)
@given(steps=STEPS, later=STEPS, size=st.integers(1, 9))
def test_a_kit_that_moves_while_it_is_read_in_pages_is_as_of_the_first_page(
    database: str, steps: Any, later: Any, size: int
) -> None:
    async def check() -> None:
        async with world(database) as lived:
            await played(lived, steps)
            kit_id = lived.kit_ids[0]
            then = await read_in_pages(lived.store, kit_id, 0)
            left = list(later)

            async def ask(request: pb.GetKitRequest) -> pb.GetKitResponse:
                _, began_at, after = filters.tree_page(request, Violations())
                page, revision = await lived.store.tree_page(
                    kit_id, size=size, began_at=began_at, after=after
                )
                assert page is not None
                if left:
                    what, _, place, detail = left.pop()
                    await lived.step(what, 0, place, detail)
                token = filters.tree_token(request, revision, page.next_place)
                return pb.GetKitResponse(kit=page.kit, revision=revision, next_page_token=token)

            answer = await paging.whole(ask, pb.GetKitRequest(kit_id=kit_id))
            assert without_heartbeats(answer.kit) == without_heartbeats(then)

    asyncio.run(check())


def moment_places(moment: Moment) -> dict[Any, int]:
    return {
        (job_id, name): revision
        for job_id, rows in moment.rows.items()
        for name, revision in rows.items()
    }


def task_counts(tree: dict[Any, StateRow], kit: Kit) -> dict[Any, Any]:
    tasks = [
        (job_id, row.status)
        for (job_id, name), row in tree.items()
        if name and job_id in kit.jobs and kit.jobs[job_id].counts_task(name)
    ]
    return {
        job_id: count(status for each, status in tasks if each == job_id) for job_id, _ in tasks
    }


def places(rows: Any) -> dict[Any, int]:
    return {key: row.revision for key, row in rows.items()}


def assert_like(kit: Kit, tree: dict[Any, StateRow]) -> None:
    own = {key[0]: row for key, row in tree.items() if not key[1]}
    assert {key: (job.status, job.attempt) for key, job in kit.jobs.items()} == {
        key: (row.status, row.attempt) for key, row in own.items()
    }
    pause = tree.get((kit_row_id(kit.kit_id), "pause"))
    assert kit.paused == (pause is not None and pause.status == Status.RUNNING)
    assert sum(kit.counts) == len(own)


@PROPERTY
@example(steps=STORY, seed=1)
@given(steps=STEPS, seed=st.integers(0, 2**16))
def test_a_diff_is_the_difference_of_two_reads_of_the_past(
    database: str, steps: Any, seed: int
) -> None:
    async def check() -> None:
        chance = random.Random(seed)
        async with world(database) as lived:
            start = lived.ledger.head
            await played(lived, steps)
            rows = list(lived.log.rows)
            for _ in range(30):
                kit_id = chance.choice(lived.kit_ids)
                first, last = sorted(chance.choices(range(start, lived.ledger.head + 1), k=2))
                compared, end = await lived.store.comparison(kit_id, first, last or 0)
                assert end == (last or lived.ledger.head)
                earlier = (await lived.store.kit_at(kit_id, revision=first))[0] if first else None
                later, _ = await lived.store.kit_at(kit_id, revision=end)
                if compared is None:
                    assert later is None
                    continue
                assert later is not None
                assert compared.after == replace(later.kit, jobs={})
                assert compared.before == (earlier and replace(earlier.kit, jobs={}))
                found = {
                    (each.before or None, each.after or None)
                    for each in compared.some(0, len(compared))
                }
                one = places(replayed(rows, kit_id, first))
                two = places(replayed(rows, kit_id, end))
                assert found == {
                    (one.get(key), two.get(key))
                    for key in one.keys() | two.keys()
                    if one.get(key) != two.get(key)
                }
                assert_listed_in_order(compared)

    asyncio.run(check())


def assert_listed_in_order(compared: Comparison) -> None:
    revisions = [each.revision for each in compared.some(0, len(compared))]
    assert revisions == sorted(set(revisions))
    for last in revisions:
        left = [each.revision for each in compared.some(compared.place_after(last), len(compared))]
        assert left == [revision for revision in revisions if revision > last]


FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "kit_ids": st.sampled_from([(0,), (1,), (0, 1)]),
        "job_types": st.frozensets(st.sampled_from(TYPES), min_size=1),
        "statuses": st.frozensets(st.sampled_from(list(Status)), min_size=1),
        "project": st.sampled_from(["left", "right", "nowhere"]),
        "kit_labels": st.just((("team", "x"),)),
        "labels": st.sampled_from([(("side", "left"),), (("side", "right"),)]),
    },
)


@PROPERTY
@example(steps=[], wanted={"project": "left"}, retry=False, named=True)
@example(steps=[], wanted={"labels": (("side", "left"),)}, retry=False, named=True)
@example(steps=STORY, wanted={"kit_labels": (("team", "x"),)}, retry=True, named=False)
@given(steps=STEPS, wanted=FILTERS, retry=st.booleans(), named=st.booleans())
def test_a_dry_run_tells_what_the_change_then_does(
    database: str, steps: Any, wanted: dict[str, Any], retry: bool, named: bool
) -> None:
    async def check() -> None:
        async with world(database) as lived:
            await played(lived, steps)
            movable = RETRYABLE if retry else frozenset(Status) - TERMINAL
            fields = dict(wanted)
            # Other examples left their kits in the same log.
            chosen = [lived.kit_ids[place] for place in fields.pop("kit_ids", (0, 1))]
            statuses = frozenset(fields.pop("statuses", movable)) & movable
            asked = c.ManyJobs(
                request=c.Request(
                    request_id=uuid.uuid4() if named else None,
                    method="CancelJobs",
                    body_sha256="x",
                    data_json="{}",
                    encode=lambda answer: str(moved_jobs(answer).count).encode(),
                ),
                filter=JobChangeFilter(kit_ids=tuple(chosen), statuses=statuses, **fields),
                retry=retry,
                dry_run=False,
                reason="enough",
                actor="ada",
            )
            service = BulkService(ledger=lived.ledger, store=lived.store)
            head = lived.ledger.head
            dry = await service.count(asked)
            assert lived.ledger.head == head

            done = await service.change(asked, seconds=10, decode=count_alone)
            assert isinstance(done, MovedJobs)
            rows = [row for row in lived.log.rows if row.revision > head]
            assert done.count == dry.count == len(rows)
            assert [job.job_id for job in done.jobs] == [job.job_id for job in dry.jobs]
            assert {str(row.job_id) for row in rows} == {job.job_id for job in dry.jobs}
            assert done.revision == (lived.ledger.head if rows else 0)
            for row in rows:
                assert row.status in ((Status.QUEUED, Status.INIT) if retry else ("CANCELED",))
                assert (row.reason, row.actor) == ("enough", "ada")

            again = await service.change(
                replace(asked, filter=replace(asked.filter, statuses=movable)),
                seconds=10,
                decode=count_alone,
            )
            if named:
                assert isinstance(again, c.Replayed)
                assert again.response == str(done.count).encode()

    asyncio.run(check())


def count_alone(answer: bytes) -> MovedJobs:
    return MovedJobs(count=int(answer), jobs=[], revision=0)


def test_a_time_stands_for_the_last_revision_recorded_by_it(database: str) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    # A restored log goes on further up.
    rows = [(n, begin + timedelta(seconds=n)) for n in (*range(1, 8), *range(1000, 1004))]
    insert = (
        "INSERT INTO mlops_totalstate_table (id, kit_id, job_type, task_name, job_id, status, "
        "current_order, created_at, batch, attempt, seq, actor, reason) "
        "VALUES (%s, 1, 'DOE', '', gen_random_uuid(), 'QUEUED', 1, %s, 1, 0, 0, '', '')"
    )
    query = QUERIES["revision_at"]
    # The database takes rows of the log from the registry alone.
    with psycopg.connect(database, application_name="vistaflow registry test") as connection:
        connection.execute(f"SET search_path TO {SCHEMA}")
        connection.execute("SELECT add_partitions(1000000)")
        connection.cursor().executemany(insert, rows)
        for oldest in (1, 3):
            connection.execute("UPDATE head SET last_id = 1003, oldest_id = %s", [oldest])
            for seconds in (-1, 0.5, 1, 1.5, 3, 5.5, 7, 400, 999.5, 1000, 1002.5, 1003, 9999):
                time = begin + timedelta(seconds=seconds)
                found = connection.execute(query, {"time": time}).fetchone()
                kept = [n for n, at in rows if at <= time and n >= oldest]
                assert found == (max(kept, default=oldest - 1), True)
