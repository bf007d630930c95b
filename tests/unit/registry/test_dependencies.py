"""Who waits for whom: what is looked at once is not looked at again, and the answer is the same."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vistaflow_services.registry.dependencies import Dependencies, blocked, dependents
from vistaflow_services.registry.domain import Job, Kit, Status

INIT, QUEUED, RUNNING, FINISHED, FAILED, CANCELED = Status


def kit_of(jobs: dict[str, tuple[str, list[str]]]) -> Kit:
    """A kit of jobs by name: the status, and what each depends on."""
    kit = Kit(kit_id=1, name="kit")
    for place, (name, (status, needs)) in enumerate(jobs.items(), start=1):
        job = Job(
            job_id=uuid.UUID(int=place),
            kit_id=1,
            name=name,
            job_type="DOE",
            current_order=place,
            first_revision=place,
            depends_on=tuple(needs),
            status=status,
        )
        kit.jobs[job.job_id] = job
    return kit


def named(kit: Kit, name: str) -> Job:
    job = kit.job_named(name)
    assert job is not None
    return job


GRAPHS = st.lists(
    st.tuples(st.sampled_from(list(Status)), st.lists(st.integers(0, 99), max_size=5)),
    min_size=1,
    max_size=12,
)


def graph(told: list[tuple[Status, list[int]]]) -> dict[str, tuple[str, list[str]]]:
    """Jobs of which each depends on some of those before."""
    return {
        f"j{place}": (status, sorted({f"j{need % place}" for need in needs}) if place else [])
        for place, (status, needs) in enumerate(told)
    }


@given(GRAPHS, st.permutations(range(12)))
def test_each_job_is_free_exactly_when_the_last_it_needs_is_finished(told, order) -> None:
    kit = kit_of({name: (INIT, needs) for name, (_, needs) in graph(told).items()})
    dependencies = Dependencies(kit)
    finished: set[str] = set()
    for place in order:
        name = f"j{place}"
        job = kit.job_named(name)
        if job is None:
            continue
        before = {each.name for each in kit.jobs.values() if finished.issuperset(each.depends_on)}
        job.status = FINISHED
        finished.add(name)
        free = dependencies.finish(name, kit.jobs)
        after = {each.name for each in kit.jobs.values() if finished.issuperset(each.depends_on)}
        waiting = {each.name for each in kit.jobs.values() if each.status == INIT}
        assert [each.name for each in free] == [
            each.name for each in kit.ordered_jobs() if each.name in (after - before) & waiting
        ]


@given(GRAPHS)
def test_a_job_waits_in_vain_if_a_job_before_it_is_failed_or_canceled(told) -> None:
    jobs = graph(told)
    reasons = {
        named(kit_of(jobs), name).name: reason
        for name in jobs
        for job_id, reason in blocked(kit_of(jobs)).items()
        if named(kit_of(jobs), name).job_id == job_id
    }

    def cause(name: str) -> str:
        status, needs = jobs[name]
        if status != INIT:
            return name if status in (FAILED, CANCELED) else ""
        return next((found for need in needs if (found := cause(need))), "")

    assert reasons == {
        name: f"waits for {cause(name)}, which is {jobs[cause(name)][0]}" if cause(name) else ""
        for name, (status, _) in jobs.items()
        if status == INIT
    }


def test_the_reason_of_a_failure_is_quoted_in_short_by_those_that_wait() -> None:
    kit = kit_of({"a": (FAILED, []), "b": (INIT, ["a"])})
    named(kit, "a").reason = "x" * 4096
    (reason,) = blocked(kit).values()
    assert reason.startswith("waits for a, which is FAILED: xxx")
    assert reason.endswith("…")
    assert len(reason) < 250


def test_of_a_job_that_was_replaced_the_successor_is_waited_for() -> None:
    kit = kit_of({"a": (FINISHED, []), "b": (INIT, ["a"])})
    dependencies = Dependencies(kit)
    assert dependencies.ready(named(kit, "b"))
    successor = Job(job_id=uuid.UUID(int=9), kit_id=1, name="a@2", job_type="DOE", current_order=1)
    kit.jobs[successor.job_id] = successor
    dependencies.add(successor)
    assert not dependencies.ready(named(kit, "b"))
    successor.status = FINISHED
    assert [job.name for job in dependencies.finish("a", kit.jobs)] == ["b"]


def test_a_job_that_is_retried_is_waited_with_again() -> None:
    kit = kit_of({"a": (RUNNING, []), "b": (RUNNING, []), "c": (CANCELED, ["a", "b"])})
    dependencies = Dependencies(kit)
    named(kit, "a").status = FINISHED
    assert dependencies.finish("a", kit.jobs) == []
    named(kit, "c").status = INIT
    dependencies.wait(named(kit, "c"))
    named(kit, "b").status = FINISHED
    assert [job.name for job in dependencies.finish("b", kit.jobs)] == ["c"]


class Counted(str):
    """A name that counts how often it is compared or looked up."""

    looks = 0

    def __hash__(self) -> int:
        Counted.looks += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


def test_to_finish_all_of_many_jobs_looks_at_each_dependency_a_few_times_only() -> None:
    """600 jobs that all wait for the same 600 others: 360,000 dependencies."""
    count = 600
    needs = [Counted(f"a{number}") for number in range(count)]
    jobs: dict[str, tuple[str, list[str]]] = {str(name): (RUNNING, []) for name in needs}
    jobs |= {f"b{number}": (INIT, needs) for number in range(count)}
    kit = kit_of(jobs)
    dependencies = Dependencies(kit)
    Counted.looks = 0
    free: list[Job] = []
    for number in range(count):
        kit.jobs[uuid.UUID(int=number + 1)].status = FINISHED
        free += dependencies.finish(f"a{number}", kit.jobs)
    assert len(free) == count
    assert Counted.looks <= 3 * count * count


@pytest.mark.parametrize("count", [1, 500])
def test_what_depends_on_a_job_is_told_nearest_first(count: int) -> None:
    chain = {f"j{n}": (FINISHED, [f"j{n - 1}"] if n else []) for n in range(count)}
    kit = kit_of(chain | {"far": (FINISHED, []), "two": (FINISHED, ["far", "j0"])})
    told = dependents(kit.current_jobs(), {"j0"})
    nearest = {"j1", "two"} if count > 1 else {"two"}
    assert set(told[: len(nearest)]) == nearest
    assert told[len(nearest) :] == [f"j{n}" for n in range(2, count)]
