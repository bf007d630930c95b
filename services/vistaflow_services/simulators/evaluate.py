"""Many points of a deck: in parallel, none twice, each reported as it comes."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from vistaflow_services.core.work.attempt import JobError
from vistaflow_services.decks.deck import Deck, FailurePolicy, Policy
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators import function_simulator
from vistaflow_services.simulators.canonical import canonical_points
from vistaflow_services.simulators.ngspice.batches import points_together
from vistaflow_services.simulators.outcome import Failure, Outcome, failed
from vistaflow_services.simulators.points import PointStore, point_key
from vistaflow_services.simulators.run import (
    Canceled,
    check_deck,
    require_simulator,
    run_checked,
    run_together,
    sweep_scratch,
)
from vistaflow_services.simulators.run_files import RunFile, files_of

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
    workers = cores() if workers is None else max(1, workers)
    return ThreadPoolExecutor(max_workers=workers, thread_name_prefix="simulator")


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


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
    Failures that the machine may have caused, such as a TIMEOUT, are run again, and so is a
    NO_CONVERGENCE until a second run has confirmed it. A point that several threads or processes
    request at the same time runs once.

    Args:
        deck: What to run.
        points: Where, as the space checks them.
        store: Where outcomes are kept.
        executor: Anything of `concurrent.futures`; tasks and outcomes can be pickled.
        scratch_root: Where runs have their folders, on the machines of the executor.
        on_outcome: Called in this thread with the index and the outcome of each point as it comes.
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
    canonical = canonical_points(deck.space, points)
    outcomes = _Outcomes(deck, canonical, policy, on_outcome)
    remaining = outcomes.refuse_infeasible()
    for key, outcome in store.get_many(deck, remaining).items():
        outcomes.take(key, outcome)
        del remaining[key]
    with _stop_file(scratch_root) as stop:
        tasks = _Tasks(deck, remaining, store, scratch_root, policy, timeout, stop)
        # Closed at once, and not when the traceback is let go: runs must not outlive a failure.
        with contextlib.closing(_completed(executor, tasks, stop, should_stop)) as completed:
            for key, outcome in completed:
                outcomes.take(key, outcome)
    return outcomes.in_order()


class _Outcomes:
    """Outcomes in the points' order, reported as they come, with the failure policy applied.

    What becomes of a point:

        it breaks a constraint      INFEASIBLE without a run; counts as no failure of the policy
        its outcome is stored       the stored outcome, `cached`
        it was run                  the outcome; a failure is substituted if the policy says so
        it equals an earlier one    the outcome of that one, `cached`

    A failure counts once for each of its places; the policy then ends the evaluation or not.
    """

    def __init__(
        self,
        deck: Deck,
        points: Sequence[Point],
        policy: FailurePolicy,
        on_outcome: Callable[[int, Outcome], None],
    ) -> None:
        self._deck, self._points = deck, points
        self._policy, self._on_outcome = policy, on_outcome
        self._outcomes: list[Outcome | None] = [None] * len(points)
        self._places: dict[str, list[int]] = {}
        """The places of each point that may be run, by its key."""
        self._failed = 0

    def refuse_infeasible(self) -> dict[str, Point]:
        """Reports points that break a constraint of the deck; returns the others, by their key."""
        space = self._deck.space
        feasible = space.feasible(self._points).tolist() if self._points else []
        for index, (point, fine) in enumerate(zip(self._points, feasible, strict=True)):
            if fine:
                self._places.setdefault(point_key(point), []).append(index)
                continue
            broken = next(
                constraint for constraint in space.constraints if not constraint.met(point)
            )
            message = f"breaks the deck's constraint {broken}"
            self._report(index, failed(point, Failure.INFEASIBLE, message))
        return {key: self._points[places[0]] for key, places in self._places.items()}

    def take(self, key: str, outcome: Outcome) -> None:
        """Takes the outcome of a point for each of its places.

        Raises:
            JobError: If the policy says that the failures are too many.
        """
        final = outcome
        if outcome.failure and self._policy.policy is Policy.SUBSTITUTE:
            final = replace(
                outcome,
                responses=dict(self._policy.substitute),
                failure=None,
                message=f"{outcome.failure}: {outcome.message}",
                substituted=True,
            )
        first, *others = self._places[key]
        self._report(first, final)
        for index in others:
            # These were not run for: one run serves all places of a point.
            self._report(index, final if final.cached else replace(final, cached=True))
        if outcome.failure:
            self._failed += 1 + len(others)
            self._judge(outcome)

    def _report(self, index: int, outcome: Outcome) -> None:
        self._outcomes[index] = outcome
        self._on_outcome(index, outcome)

    def _judge(self, outcome: Outcome) -> None:
        """Ends the evaluation where the policy says so."""
        count = len(self._outcomes)
        last = f"{outcome.failure}: {outcome.message}"
        if self._policy.policy is Policy.ABORT:
            short = f"a point of {self._deck.name} failed and its policy is abort"
            raise JobError(
                f"{short}; {last}",
                details={"short": short},
                reason="POINT_FAILED",
                hint="set the deck's failure policy to continue to keep failures as data",
            )
        most = self._policy.max_failed_fraction * count
        if count >= FEWEST_FOR_FRACTION and self._failed > most:
            short = (
                f"{self._failed} of {count} points of {self._deck.name} failed, more than the "
                f"{self._policy.max_failed_fraction:.0%} that its policy allows"
            )
            raise JobError(
                f"{short}; the last: {last}",
                details={"short": short},
                reason="TOO_MANY_FAILED",
                hint="look at the failures' messages, narrow the ranges, or raise "
                "max_failed_fraction; finished points are kept and not run again",
            )

    def in_order(self) -> list[Outcome]:
        """All outcomes, in the points' order."""
        return [outcome for outcome in self._outcomes if outcome is not None]


Task = Callable[[], Mapping[str, Outcome | None]]
"""One unit of work for the executor; gives outcomes by their point's key, None for a point that is
to be run alone."""


class _Tasks:
    """What is left to do, handed out a task at a time.

    A batch of points that share a process comes back with those that it has beyond doubt; the
    others are handed out next, one a task.
    """

    def __init__(
        self,
        deck: Deck,
        points: Mapping[str, Point],
        store: PointStore,
        scratch_root: Path,
        policy: FailurePolicy,
        timeout: float | None,
        stop: Path,
    ) -> None:
        self._deck, self._points, self._store = deck, points, store
        self._scratch_root, self._timeout, self._stop = scratch_root, timeout, stop
        self._retries = policy.retries if policy.policy is Policy.RETRY else 0
        self._planned = self._plan()
        self._alone: deque[str] = deque()

    def __iter__(self) -> _Tasks:
        return self

    def __next__(self) -> Task:
        return self._one(self._alone.popleft()) if self._alone else next(self._planned)

    def run_alone(self, key: str) -> None:
        """Hands out a point by itself that its batch has not settled."""
        self._alone.append(key)

    def _plan(self) -> Iterator[Task]:
        deck, rest = self._deck, iter(self._points.items())
        if deck.simulator == "function":
            while chunk := dict(islice(rest, CHUNK)):
                yield partial(_run_chunk, deck, chunk, self._store, self._stop)
            return
        # Not so many that cores are idle at the end.
        size = min(points_together(deck), len(self._points) // (2 * cores()))
        while batch := dict(islice(rest, max(1, size))):
            if len(batch) == 1:
                yield self._one(*batch)
            else:
                yield partial(
                    _run_batch,
                    deck,
                    batch,
                    self._store,
                    self._scratch_root,
                    self._timeout,
                    self._stop,
                )

    def _one(self, key: str) -> Task:
        return partial(
            _run_one,
            self._deck,
            key,
            self._points[key],
            self._store,
            self._scratch_root,
            self._timeout,
            self._retries,
            self._stop,
        )


def _run_chunk(
    deck: Deck, points: dict[str, Point], store: PointStore, stop: Path
) -> dict[str, Outcome]:
    """Computes points of a function and keeps them in one file."""
    with store.running(deck, "chunk", stop.exists) as mine:
        if not mine:
            raise Canceled("stopped before it began")
        stored = store.get_many(deck, points)
        fresh = [key for key in points if key not in stored]
        computed = function_simulator.compute(deck, [points[key] for key in fresh])
        outcomes = dict(zip(fresh, computed, strict=True))
        store.put_many(deck, outcomes)
    return {**stored, **outcomes}


def _run_batch(
    deck: Deck,
    points: dict[str, Point],
    store: PointStore,
    scratch_root: Path,
    timeout: float | None,
    stop: Path,
) -> dict[str, Outcome | None]:
    """Runs points in one process and stores the outcomes that are beyond doubt."""
    outcomes: dict[str, Outcome | None] = dict.fromkeys(points)
    with contextlib.ExitStack() as held:
        # Those that another caller runs now are not waited for: it may wait for one of these.
        free = {
            key: point
            for key, point in points.items()
            if held.enter_context(store.running(deck, key, lambda: True))
        }
        outcomes |= store.get_many(deck, free)
        fresh = {key: point for key, point in free.items() if outcomes[key] is None}
        if len(fresh) > 1:
            ran = run_together(
                deck,
                list(fresh.values()),
                scratch_root=scratch_root,
                timeout=timeout,
                should_stop=stop.exists,
            )
            clean = {key: one for key, one in zip(fresh, ran, strict=True) if one is not None}
            store.put_many(deck, clean)
            outcomes |= {key: replace(outcome, log="") for key, outcome in clean.items()}
    return outcomes


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
    """Runs a point, unless another caller has just done so, and stores its outcomes."""
    with store.running(deck, key, stop.exists) as mine:
        if not mine:
            raise Canceled("stopped before it began")
        stored = store.get_many(deck, {key: point})
        if stored:
            return stored
        for _ in range(retries + 1):
            written: list[RunFile] = []

            def observe(work: Path | None, printed: str, written: list[RunFile] = written) -> None:
                if work is not None:
                    written += files_of(deck, work, inputs=False)

            outcome = run_checked(
                deck,
                point,
                scratch_root=scratch_root,
                timeout=timeout,
                should_stop=stop.exists,
                **({"observe": observe} if deck.keep_files else {}),
            )
            # Each run, not the last: whether a failure to converge repeats is a property to keep.
            store.put(deck, outcome, written)
            if outcome.failure in (None, Failure.INFEASIBLE):
                break
        # What was printed is read where a point is looked at, not held for all of them.
        return {key: replace(outcome, log="") if outcome.ok else outcome}


def _completed(
    executor: Executor, tasks: _Tasks, stop: Path, should_stop: Callable[[], bool]
) -> Generator[tuple[str, Outcome], None, None]:
    """Outcomes as they come. However this ends, no run of it goes on afterwards."""
    pending: set[Future[Mapping[str, Outcome | None]]] = set()
    try:
        while True:
            if should_stop():
                raise Canceled("the evaluation was stopped")
            pending |= {executor.submit(task) for task in islice(tasks, WINDOW - len(pending))}
            if not pending:
                return
            done, pending = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                for key, outcome in future.result().items():
                    if outcome is None:
                        tasks.run_alone(key)
                    else:
                        yield key, outcome
    finally:
        if pending:
            stop.touch()
            for future in pending:
                future.cancel()
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
