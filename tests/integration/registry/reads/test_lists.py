"""Lists of kits and jobs hold what a filter wants, whichever text and index finds it."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from vistaflow_services.registry import commands as c
from vistaflow_services.registry.__main__ import Registry
from vistaflow_services.registry.database import queries
from vistaflow_services.registry.database.queries import fetch_planned
from vistaflow_services.registry.database.rows import filter_parameters
from vistaflow_services.registry.domain import JobFilter, Kit, KitFilter, StateFilter
from vistaflow_services.registry.reads import list_queries

PROJECTS = ("default", "photonics")
NAMES = ("Mosfet", "diode", "op", "100%_amp", "DIODE-long-name", "Übersicht", "GRÖSSE", "Σίσυφος")
PARTS = ("", "", "dio", "MOS", "0%_", "p", "-2", "ÜBER", "ß", "größe", "ΣΊΣΥΦΟΣ", "ύ")
TYPES = ("DOE", "ML_TRAIN")
ENDS: tuple[tuple[str, ...], ...] = ((), ("RUNNING",), ("RUNNING", "FINISHED"), ("CANCELED",))


async def make_kits(registry: Registry, chance: random.Random, count: int) -> list[Kit]:
    """Kits of one or two jobs in all sorts of states, oldest first."""
    for number in range(count):
        labels = {"site": chance.choice("ab")} | ({"old": "yes"} if number < count // 4 else {})
        jobs = tuple(
            c.NewJob(
                job_id=uuid.UUID(int=chance.getrandbits(128), version=4),
                name=f"j{each}",
                job_type=chance.choice(TYPES),
                current_order=0,
                depends_on=(),
                external=True,
                labels=labels,
            )
            for each in range(chance.choice((1, 1, 2)))
        )
        name = f"{chance.choice(NAMES)}-{number}"
        made = c.CreateKit(name=name, labels=labels, jobs=jobs, project=chance.choice(PROJECTS))
        await registry.ledger.submit(made)
        for job in jobs:
            for status in chance.choice(ENDS):
                item = c.Item(job_id=job.job_id, status=status, task_name="")
                await registry.ledger.submit(c.Append(items=(item,)))
    found = [await registry.store.kit(kit_id) for kit_id in range(1, count + 1)]
    return [kit for kit, _ in found if kit is not None]


@pytest.mark.parametrize("recent", [5, 2000], ids=["most by index", "all walked"])
async def test_kits_are_listed_by_any_filter_as_one_would_pick_them_by_hand(
    running, monkeypatch, recent
):
    monkeypatch.setattr(list_queries, "RECENT_KITS", recent)
    chance = random.Random(recent)
    kits = await make_kits(running, chance, 60)
    full = 0
    for _ in range(90):
        filters = {
            "project": chance.choice(("", "", *PROJECTS)),
            "statuses": chance.choice(((), (), ("RUNNING",), ("QUEUED", "FINISHED"))),
            "labels": chance.choice(({}, {}, {"old": "yes"}, {"site": "a", "old": "yes"})),
            "name_contains": chance.choice(PARTS),
            "created_after": chance.choice((None, None, chance.choice(kits).created_at)),
            "created_before": chance.choice((None, None, chance.choice(kits).created_at)),
        }
        wanted = [
            kit.kit_id
            for kit in reversed(kits)
            if filters["project"] in ("", kit.project)
            and (not filters["statuses"] or kit.status in filters["statuses"])
            and filters["labels"].items() <= kit.labels.items()
            and filters["name_contains"].casefold() in kit.name.casefold()
            and (not filters["created_after"] or kit.created_at >= filters["created_after"])
            and (not filters["created_before"] or kit.created_at < filters["created_before"])
        ]
        kit_filter = KitFilter(
            **filters
            | {
                "statuses": frozenset(filters["statuses"]),
                "labels": tuple(filters["labels"].items()),
            }
        )
        listed: list[int] = []
        before = None
        while True:
            page = await running.store.list_kits(kit_filter, before=before, limit=4)
            listed += [kit.kit_id for kit in page.entries]
            before = page.next_key
            if before is None:
                break
            assert len(page.entries) == 4, "a page that is not the last is full"
        assert listed == wanted, filters
        full += len(wanted) > 4
    assert full > 10


async def test_kits_of_an_hour_are_found_though_the_clock_was_set_back_meanwhile(running):
    kits = await make_kits(running, random.Random(3), 12)
    async with running.store._pool.connection() as connection:
        await connection.execute(
            "UPDATE kits SET created_at = created_at + interval '1 hour' * kit_id"
            " - CASE WHEN kit_id > 6 THEN interval '9 min' ELSE interval '0' END"
        )
    first = kits[5].created_at + timedelta(hours=6)
    page = await running.store.list_kits(KitFilter(created_before=first), before=None, limit=50)
    assert [kit.kit_id for kit in page.entries] == [5, 4, 3, 2, 1]
    page = await running.store.list_kits(KitFilter(created_after=first), before=None, limit=50)
    assert [kit.kit_id for kit in page.entries] == [12, 11, 10, 9, 8, 7, 6]


async def test_jobs_are_listed_by_any_filter_as_one_would_pick_them_by_hand(running):
    chance = random.Random(5)
    kits = await make_kits(running, chance, 40)
    jobs = [(job, kit) for kit in kits for job in kit.jobs.values()]
    jobs.sort(key=lambda each: -each[0].first_revision)
    full = 0
    for _ in range(50):
        filters = {
            "project": chance.choice(("", "", *PROJECTS)),
            "statuses": chance.choice(((), (), ("RUNNING",), ("QUEUED", "FINISHED"))),
            "job_types": chance.choice(((), (), ("DOE",), TYPES)),
            "labels": chance.choice(({}, {}, {}, {"old": "yes"})),
            "kit_ids": chance.choice(([], [], [], chance.sample(range(1, 41), 8))),
        }
        wanted = [
            job.job_id
            for job, kit in jobs
            if filters["project"] in ("", kit.project)
            and (not filters["statuses"] or job.status in filters["statuses"])
            and (not filters["job_types"] or job.job_type in filters["job_types"])
            and filters["labels"].items() <= job.labels.items()
            and (not filters["kit_ids"] or kit.kit_id in filters["kit_ids"])
        ]
        job_filter = JobFilter(
            project=filters["project"],
            statuses=frozenset(filters["statuses"]),
            job_types=frozenset(filters["job_types"]),
            labels=tuple(filters["labels"].items()),
            kit_ids=tuple(filters["kit_ids"]),
        )
        listed: list[uuid.UUID] = []
        before = None
        while True:
            page = await running.store.list_jobs(job_filter, before=before, limit=4)
            listed += [job.job_id for job, _ in page.entries]
            before = page.next_key
            if before is None:
                break
            assert len(page.entries) == 4, "a page that is not the last is full"
        assert listed == wanted, filters
        full += len(wanted) > 4
    assert full > 10


@pytest.mark.parametrize(("few", "scan"), [(10_000, 200_000), (3, 17)], ids=["sorted", "walked"])
async def test_rows_are_listed_by_any_filter_as_one_would_pick_them_by_hand(
    running, monkeypatch, few, scan
):
    chance = random.Random(few)
    kits = await make_kits(running, chance, 25)
    rows = (await running.store.list_states(StateFilter(), after=0, limit=5000)).entries
    monkeypatch.setattr(queries, "FEW_ROWS", few)
    monkeypatch.setattr(queries, "SCAN_ROWS", scan)
    of_kit = {kit.kit_id: kit for kit in kits}
    job_ids = [job_id for kit in kits for job_id in kit.jobs]
    full = 0
    for _ in range(60):
        wanted = StateFilter(
            project=chance.choice(("", "", "", *PROJECTS)),
            statuses=frozenset(chance.choice(((), (), ("RUNNING", "QUEUED")))),
            job_types=frozenset(chance.choice(((), (), ("DOE",)))),
            labels=chance.choice(((), (), (("old", "yes"),))),
            kit_ids=frozenset(chance.choice(((), chance.sample(range(1, 28), 12)))),
            job_ids=frozenset(
                chance.choice(((), (), [uuid.UUID(int=1), *chance.sample(job_ids, 12)]))
            ),
        )
        first = chance.randrange(len(rows))
        by_hand = [
            row.revision
            for row in rows[first:]
            if wanted.project in ("", of_kit[row.kit_id].project)
            and (not wanted.statuses or row.status in wanted.statuses)
            and (not wanted.job_types or row.job_type in wanted.job_types)
            and dict(wanted.labels).items() <= of_kit[row.kit_id].labels.items()
            and (not wanted.kit_ids or row.kit_id in wanted.kit_ids)
            and (not wanted.job_ids or row.job_id in wanted.job_ids)
        ]
        listed: list[int] = []
        after: int | None = first
        while after is not None:
            page = await running.store.list_states(wanted, after=after, limit=4)
            assert page.next_key is None or page.next_key > after
            listed += [row.revision for row in page.entries]
            after = page.next_key
        assert listed == by_hand, wanted
        full += len(by_hand) > 4
    assert full > 10


MANY_KITS = 8_000
COPIES = f"""
INSERT INTO kits
SELECT (jsonb_populate_record(former, jsonb_build_object(
            'kit_id', former.kit_id + n, 'first_revision', former.first_revision + n,
            'name', format('SELECT %s FROM "리뷰%s"', n, CASE WHEN n < 300 THEN '장' END)))).*
  FROM kits AS former, generate_series(1, {MANY_KITS}) AS n
 WHERE kit_id = 1
"""


async def test_a_search_for_a_part_of_a_name_reads_the_newest_kits_and_those_that_have_it(
    running: Registry, database: str
) -> None:
    await make_kits(running, random.Random(1), 1)
    text = list_queries.kits(by_status=False, by_search=True)
    found, read = {}, {}
    async with await psycopg.AsyncConnection.connect(
        database, autocommit=True, options="-c search_path=vistadb_test -c jit=off"
    ) as connection:
        await connection.execute(COPIES.encode())
        await connection.execute("ANALYZE kits")
        for part in ("zq", "화", "뷰목", "장", "뷰장", "리뷰", "Ct 123 f", "리뷰장"):
            filled = filter_parameters(KitFilter(name_contains=part)) | {
                "before": 2**31 - 1,
                "after": 0,
                "recent": MANY_KITS + 1 - list_queries.RECENT_KITS,
                "limit": 101,
                "bytes": 1 << 20,
            }
            found[part] = len(await fetch_planned(connection, text, filled))
            ((plan,),) = await fetch_planned(
                connection, f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", filled
            )
            steps = list(steps_of(plan[0]["Plan"]))
            assert "Seq Scan" not in {step["Node Type"] for step in steps if step["Actual Loops"]}
            read[part] = sum(
                step["Actual Loops"] * (step["Actual Rows"] + step.get("Rows Removed by Filter", 0))
                for step in steps
                if step.get("Relation Name") == "kits"
            )

    assert found == {
        "zq": 0,
        "화": 0,
        "뷰목": 0,
        "장": 101,
        "뷰장": 101,
        "리뷰": 101,
        "Ct 123 f": 1,
        "리뷰장": 101,
    }
    # Of the 299 that have it; those of the page are read a second time, with all their columns.
    assert all(
        rows <= list_queries.RECENT_KITS + 299 + found[part] for part, rows in read.items()
    ), read


def steps_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of a plan."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from steps_of(part)
