"""Many points of a deck: in parallel, none twice, each told as it comes."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from vistaflow_services.core.jobs import JobError
from vistaflow_services.decks.deck import Deck, FailurePolicy, Policy
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators import function_simulator
from vistaflow_services.simulators.canonical import canonical_points
from vistaflow_services.simulators.outcome import Failure, Outcome, failed
from vistaflow_services.simulators.points import PointStore, point_key
from vistaflow_services.simulators.run import (
    Canceled,
    check_deck,
    require_simulator,
    run_point,
    sweep_scratch,
)

CHUNK: Final = 5000
"""Points of a cheap simulator that are computed and stored together."""

WINDOW: Final = 64
"""Runs given to the executor at a time: enough for any machine, few to take back."""

FEWEST_FOR_FRACTION: Final = 8
"""Below this number of points a part of them that failed means nothing."""

_POLL_SECONDS = 0.1


def local_executor(workers: int | None = None) -> Executor:
    """Threads, each of which supervises a simulator's process.

    Args:
        workers: How many runs at a time; as many as this process may use cores by default.
    """
    if workers is None:
        try:
            workers = len(os.sched_getaffinity(0))
        except AttributeError:
            workers = os.cpu_count() or 1
    return ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="simulator")


def evaluate(
    deck: Deck,
    points: Sequence[Mapping[str, Any]],
    *,
    store: PointStore,
    executor: Executor,
    scratch_root: Path,
    on_outcome: Callable[[int, Outcome], None] = lambda index, outcome: None,
    policy: FailurePolicy | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    timeout: float | None = None,
) -> list[Outcome]:
    """Runs what is not in the store, and returns the outcome of each point in the points' order.

    An outcome that is a property of its point is stored before it is returned; a point whose
    outcome is stored, or that occurs twice in `points`, is not run and is returned as `cached`.
    Failures that the machine may have caused, such as a TIMEOUT, are run again. A point that
    several threads or processes request at the same time runs once.

    Args:
        deck: What to run.
        points: Where, as the space checks them.
        store: Where outcomes are kept.
        executor: Anything of `concurrent.futures`; tasks and outcomes can be pickled.
        scratch_root: Where runs have their folders, on the machines of the executor.
        on_outcome: Told the index and the outcome of each point as it comes, in this thread.
        policy: What failed points do; the deck's own by default.
        should_stop: Asked about ten times a second.
        timeout: Wall clock for each run; the deck's own by default.

    Raises:
        InvalidError: If the deck must not be run or a point is none of its space.
        UnavailableError: If the simulator is not on this machine.
        JobError: If the policy says that the failures are too many.
        Canceled: If `should_stop` said so; all runs have ended, what they gave is kept.
    """
    check_deck(deck)
    require_simulator(deck.simulator)
    sweep_scratch(scratch_root)
    policy = policy or deck.failure_policy
    known = canonical_points(deck.space, points)
    telling = _Telling(deck, len(known), policy, on_outcome)

    places: dict[str, list[int]] = {}
    keys = [point_key(point) for point in known]
    feasible = deck.space.feasible(known).tolist() if known else []
    for index, (key, fine) in enumerate(zip(keys, feasible, strict=True)):
        if fine:
            places.setdefault(key, []).append(index)
        else:
            broken = next(each for each in deck.space.constraints if not each.met(known[index]))
            message = f"breaks the deck's constraint {broken}"
            telling.tell([index], failed(known[index], Failure.INFEASIBLE, message), ran=False)

    remaining = {key: known[at[0]] for key, at in places.items()}
    for key, outcome in store.get_many(deck, remaining).items():
        telling.tell(places[key], outcome)
        del remaining[key]
    with _stop_file(scratch_root) as stop:
        tasks = _tasks(deck, remaining, store, scratch_root, policy, timeout, stop)
        # Closed at once, and not when the traceback is let go: runs must not outlive a failure.
        with contextlib.closing(_completed(executor, tasks, stop, should_stop)) as completed:
            for key, outcome in completed:
                telling.tell(places[key], outcome)
    return telling.outcomes()


class _Telling:
    """Outcomes in the points' order, told as they come, with the failure policy applied."""

    def __init__(
        self,
        deck: Deck,
        count: int,
        policy: FailurePolicy,
        on_outcome: Callable[[int, Outcome], None],
    ) -> None:
        self._deck, self._policy, self._on_outcome = deck, policy, on_outcome
        self._outcomes: list[Outcome | None] = [None] * count
        self._failed = 0

    def tell(self, indices: list[int], outcome: Outcome, *, ran: bool = True) -> None:
        """Tells one outcome for each of its places; those after the first were not run for."""
        final = outcome
        if ran and outcome.failure and self._policy.policy is Policy.SUBSTITUTE:
            final = replace(
                outcome,
                responses=dict(self._policy.substitute),
                failure=None,
                message=f"{outcome.failure}: {outcome.message}",
                substituted=True,
            )
        for position, index in enumerate(indices):
            each = replace(final, cached=True) if position and not final.cached else final
            self._outcomes[index] = each
            self._on_outcome(index, each)
        if ran and outcome.failure:
            self._failed += len(indices)
            self._judge(outcome)

    def _judge(self, outcome: Outcome) -> None:
        """Ends the evaluation where the policy says so."""
        count = len(self._outcomes)
        last = f"{outcome.failure}: {outcome.message}"
        if self._policy.policy is Policy.ABORT:
            raise JobError(
                f"a point of {self._deck.name} failed and its policy is abort; {last}",
                reason="POINT_FAILED",
                hint="set the deck's failure policy to continue to keep failures as data",
            )
        most = self._policy.max_failed_fraction * count
        if count >= FEWEST_FOR_FRACTION and self._failed > most:
            raise JobError(
                f"{self._failed} of {count} points of {self._deck.name} failed, more than the "
                f"{self._policy.max_failed_fraction:.0%} that its policy allows; the last: {last}",
                reason="TOO_MANY_FAILED",
                hint="look at the failures' messages, narrow the ranges, or raise "
                "max_failed_fraction; finished points are kept and not run again",
            )

    def outcomes(self) -> list[Outcome]:
        """All outcomes."""
        return [each for each in self._outcomes if each is not None]


Task = Callable[[], dict[str, Outcome]]
"""One unit of work for the executor; gives outcomes by their point's key."""


def _tasks(
    deck: Deck,
    points: Mapping[str, Point],
    store: PointStore,
    scratch_root: Path,
    policy: FailurePolicy,
    timeout: float | None,
    stop: Path,
) -> Iterator[Task]:
    if deck.simulator == "function":
        rest = iter(points.items())
        while chunk := dict(islice(rest, CHUNK)):
            yield partial(_run_chunk, deck, chunk, store, stop)
        return
    retries = policy.retries if policy.policy is Policy.RETRY else 0
    for key, point in points.items():
        yield partial(_run_one, deck, key, point, store, scratch_root, timeout, retries, stop)


def _run_chunk(
    deck: Deck, points: dict[str, Point], store: PointStore, stop: Path
) -> dict[str, Outcome]:
    """Computes points of a function and keeps them in one file."""
    with store.running(deck, "chunk", stop.exists) as mine:
        if not mine:
            raise Canceled("stopped before it began")
        kept = store.get_many(deck, points)
        fresh = [key for key in points if key not in kept]
        computed = function_simulator.compute(deck, [points[key] for key in fresh])
        outcomes = dict(zip(fresh, computed, strict=True))
        store.put_many(deck, outcomes)
    return kept | outcomes


def _run_one(
    deck: Deck,
    key: str,
    point: Point,
    store: PointStore,
    scratch_root: Path,
    timeout: float | None,
    retries: int,
    stop: Path,
) -> dict[str, Outcome]:
    """Runs a point, unless somebody else has just done so, and keeps what came of it."""
    with store.running(deck, key, stop.exists) as mine:
        if not mine:
            raise Canceled("stopped before it began")
        kept = store.get_many(deck, {key: point})
        if kept:
            return kept
        for _ in range(retries + 1):
            outcome = run_point(
                deck, point, scratch_root=scratch_root, timeout=timeout, should_stop=stop.exists
            )
            if outcome.failure in (None, Failure.INFEASIBLE):
                break
        store.put(deck, outcome)
        return {key: outcome}


def _completed(
    executor: Executor, tasks: Iterator[Task], stop: Path, should_stop: Callable[[], bool]
) -> Generator[tuple[str, Outcome], None, None]:
    """Outcomes as they come. However this ends, no run of it goes on afterwards."""
    pending: set[Future[dict[str, Outcome]]] = set()
    try:
        while True:
            if should_stop():
                raise Canceled("the evaluation was stopped")
            pending |= {executor.submit(task) for task in islice(tasks, WINDOW - len(pending))}
            if not pending:
                return
            done, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
            for each in done:
                yield from each.result().items()
    finally:
        if pending:
            stop.touch()
            for each in pending:
                each.cancel()
            wait(pending)


@contextlib.contextmanager
def _stop_file(scratch_root: Path) -> Iterator[Path]:
    """A path that will exist when runs are to stop: seen by threads, processes and machines."""
    scratch_root.mkdir(parents=True, exist_ok=True)
    path = scratch_root / f"stop-{uuid.uuid4().hex}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
