"""What is kept of the past of kits between the pages of an answer."""

from __future__ import annotations

import uuid
from array import array

import pytest

from vistaflow_services.registry.domain import Head, Kit
from vistaflow_services.registry.reads import past as module
from vistaflow_services.registry.reads.history import Difference
from vistaflow_services.registry.reads.past import Comparison, Past, PastTree

HEAD = Head(last_id=100, last_kit_id=9, epoch=uuid.uuid4(), commit_id=uuid.uuid4(), oldest_id=1)


def kit(kit_id: int) -> Kit:
    return Kit(
        kit_id=kit_id,
        name="kit",
        project="default",
        labels={},
        spec_json="",
        actor="",
        first_revision=1,
    )


class Reads:
    """Takes the place of the reads from the log, and counts them."""

    def __init__(self) -> None:
        self.revisions: list[int] = []

    async def read_moment(
        self, connection: object, kit_id: int, revision: int, head: Head
    ) -> module.Moment:
        self.revisions.append(revision)
        rows = {uuid.UUID(int=1): {f"t{number}": number for number in range(1, revision + 1)}}
        return module.Moment(kit=kit(kit_id), rows=rows, counts={})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    made = Reads()
    monkeypatch.setattr(module, "read_moment", made.read_moment)
    return made


async def test_the_pages_of_an_answer_read_the_log_once(reads: Reads) -> None:
    past = Past()
    trees = [await past.tree(None, 1, 50, HEAD) for _ in range(3)]  # type: ignore[arg-type]
    assert trees[0] is trees[1] is trees[2]
    assert reads.revisions == [50]
    for _ in range(3):
        await past.comparison(None, 1, 10, 50, HEAD)  # type: ignore[arg-type]
    assert reads.revisions == [50, 10, 50]
    assert past.hit_count == 4


async def test_what_was_read_longest_ago_leaves_where_there_is_no_room(
    reads: Reads,
) -> None:
    first = await Past().tree(None, 1, 10, HEAD)  # type: ignore[arg-type]
    assert first is not None
    reads.revisions.clear()
    past = Past(max_weight=2 * first.weight)
    for kit_id in (1, 2, 1, 3, 1, 2):
        await past.tree(None, kit_id, 10, HEAD)  # type: ignore[arg-type]
    # Kit 2 left for kit 3, as kit 1 had been asked for since.
    assert len(reads.revisions) == 4
    assert past.hit_count == 2


async def test_after_rows_left_the_log_nothing_from_before_is_answered(reads: Reads) -> None:
    past = Past()
    await past.tree(None, 1, 50, HEAD)  # type: ignore[arg-type]
    later = Head(
        last_id=100, last_kit_id=9, epoch=HEAD.epoch, commit_id=HEAD.commit_id, oldest_id=40
    )
    await past.tree(None, 1, 50, later)  # type: ignore[arg-type]
    assert reads.revisions == [50, 50]


def test_a_page_of_differences_starts_after_the_revision_of_the_one_before() -> None:
    compared = Comparison(
        before=None, after=kit(1), befores=array("q", [3, 0, 9]), afters=array("q", [5, 7, 0])
    )
    starts = [compared.place_after(revision) for revision in (0, 4, 5, 7, 8, 9)]
    assert starts == [0, 0, 1, 2, 2, 3]
    assert compared.some(1, 5) == [Difference(before=0, after=7), Difference(before=9, after=0)]


def test_a_tree_without_tasks_has_a_weight() -> None:
    assert PastTree(kit=kit(1), counts={}, tasks={}).weight == module.JOB_WEIGHT
