from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.slow_kit import holding  # type: ignore[import-not-found]
from tests.processes import commands  # type: ignore[import-not-found]
from vistaflow_services.core.errors import InvalidError, UnavailableError
from vistaflow_services.core.work.attempt import JobError
from vistaflow_services.decks.deck import Deck, FailurePolicy, Policy, Response, shipped_deck
from vistaflow_services.decks.expressions import parse_constraint
from vistaflow_services.decks.space import Kind, Parameter, Space
from vistaflow_services.simulators import Failure, Outcome
from vistaflow_services.simulators.evaluate import evaluate, local_executor
from vistaflow_services.simulators.points import PointStore
from vistaflow_services.simulators.run import Canceled


def deck(body: str, **options: Any) -> Deck:
    code = "\n".join(["def simulate(point):", *(f"    {line}" for line in body.splitlines())])
    return Deck(
        name="toy",
        simulator="devsim",
        space=Space(parameters=(Parameter(name="n", kind=Kind.INTEGER, low=0, high=999),)),
        responses=(Response(name="y"),),
        files={"deck.py": code.encode()},
        entry="deck.py:simulate",
        **{"timeout_seconds": 120.0, **options},
    )


SQUARE = deck("return {'y': point['n'] ** 2}")
ODD_FAILS = deck("assert point['n'] % 2 == 0, 'odd'\nreturn {'y': point['n']}")


def numbers(*values: int) -> list[dict[str, int]]:
    return [{"n": each} for each in values]


@pytest.fixture
def executor() -> Iterator[Executor]:
    with local_executor(2) as threads:
        yield threads


Evaluate = Callable[..., list[Outcome]]


@pytest.fixture
def run(tmp_path: Path, executor: Executor) -> Evaluate:
    def run_points(deck: Deck, points: list[Any], **options: Any) -> list[Outcome]:
        return evaluate(
            deck,
            points,
            **{
                "store": PointStore(tmp_path / "points"),
                "executor": executor,
                "scratch_root": tmp_path / "scratch",
                **options,
            },
        )

    return run_points


def test_outcomes_come_in_the_order_of_the_points_and_are_told_once_each(run: Evaluate) -> None:
    told: list[tuple[int, float]] = []
    outcomes = run(
        SQUARE,
        numbers(5, 3, 8),
        on_outcome=lambda index, outcome: told.append((index, outcome.responses["y"])),
    )
    assert [each.responses["y"] for each in outcomes] == [25, 9, 64]
    assert sorted(told) == [(0, 25), (1, 9), (2, 64)]


def test_a_point_that_stands_twice_runs_once(run: Evaluate) -> None:
    outcomes = run(SQUARE, [{"n": 4}, {"n": 4.0}, {"n": np.int64(4)}])
    assert [each.cached for each in outcomes] == [False, True, True]
    assert {each.responses["y"] for each in outcomes} == {16}


def test_what_is_in_the_store_is_not_run_again_unless_the_machine_may_be_to_blame(
    run: Evaluate,
) -> None:
    odd = deck(
        "class Infeasible(Exception): pass\n"
        "if point['n'] == 1: raise Infeasible('odd')\n"
        "if point['n'] == 3: import a_module_that_is_missing\n"
        "return {'y': point['n']}"
    )
    first = run(odd, numbers(1, 2, 3))
    second = run(odd, numbers(2, 3, 1))
    assert [each.cached for each in first] == [False, False, False]
    assert [each.cached for each in second] == [True, False, True]
    assert [each.failure for each in second] == [None, Failure.CRASHED, Failure.INFEASIBLE]
    assert second[2] == replace(first[0], cached=True)


def test_a_point_that_does_not_converge_is_run_until_a_second_run_confirms_it(
    run: Evaluate,
) -> None:
    stuck = deck("class NoConvergence(Exception): pass\nraise NoConvergence('at 0.3 V')")
    outcomes = [run(stuck, numbers(1))[0] for _ in range(3)]
    assert [(each.failure, each.cached) for each in outcomes] == [
        (Failure.NO_CONVERGENCE, False),
        (Failure.NO_CONVERGENCE, False),
        (Failure.NO_CONVERGENCE, True),
    ]


def test_runs_of_the_policy_retry_confirm_that_a_point_does_not_converge(run: Evaluate) -> None:
    stuck = deck("class NoConvergence(Exception): pass\nraise NoConvergence('at 0.3 V')")
    run(stuck, numbers(1), policy=FailurePolicy(policy=Policy.RETRY, retries=1))
    (again,) = run(stuck, numbers(1))
    assert (again.failure, again.cached) == (Failure.NO_CONVERGENCE, True)


def test_a_longer_timeout_runs_what_timed_out_again_and_keeps_every_good_point(
    run: Evaluate,
) -> None:
    with holding() as hold:
        hold.touch()
        slow = deck(
            "import os, time\n"
            f"while point['n'] == 2 and os.path.exists({str(hold)!r}): time.sleep(0.01)\n"
            "return {'y': point['n']}",
            timeout_seconds=6.0,
        )
        first = run(slow, numbers(1, 2))
        hold.unlink()
        longer = run(replace(slow, timeout_seconds=120.0), numbers(1, 2))
    assert [each.failure for each in first] == [None, Failure.TIMEOUT]
    assert [(each.responses, each.cached) for each in longer] == [
        ({"y": 1.0}, True),
        ({"y": 2.0}, False),
    ]


def test_a_point_is_kept_before_it_is_told(run: Evaluate, tmp_path: Path) -> None:
    seen: list[Outcome | None] = []
    run(
        SQUARE,
        numbers(1, 2, 3),
        on_outcome=lambda _, each: seen.append(
            PointStore(tmp_path / "points").get(SQUARE, each.point)
        ),
    )
    assert [each is not None and each.ok for each in seen] == [True, True, True]


def test_points_that_break_a_constraint_are_infeasible_and_not_run(run: Evaluate) -> None:
    constrained = replace(
        SQUARE, space=replace(SQUARE.space, constraints=(parse_constraint("n <= 5", ["n"]),))
    )
    outcomes = run(constrained, numbers(5, 6))
    assert [each.failure for each in outcomes] == [None, Failure.INFEASIBLE]
    assert (outcomes[1].seconds, "n <= 5" in outcomes[1].message) == (0.0, True)


def test_abort_fails_at_the_first_failed_point(run: Evaluate) -> None:
    with pytest.raises(JobError, match="its policy is abort; CRASHED: AssertionError: odd"):
        run(ODD_FAILS, numbers(2, 1), policy=FailurePolicy(policy=Policy.ABORT))


def test_retry_runs_a_failed_point_again(run: Evaluate, tmp_path: Path) -> None:
    slow = deck("import time; time.sleep(0.2); raise ValueError('again')")
    policy = FailurePolicy(policy=Policy.RETRY, retries=2)
    start = time.monotonic()
    (outcome,) = run(slow, numbers(1), policy=policy)
    assert outcome.failure is Failure.CRASHED
    assert time.monotonic() - start > 0.6


def test_substitute_puts_responses_in_place_and_says_so(run: Evaluate) -> None:
    policy = FailurePolicy(policy=Policy.SUBSTITUTE, substitute={"y": -1.0})
    fine, bad = run(ODD_FAILS, numbers(2, 1), policy=policy)
    assert (fine.substituted, bad.substituted, bad.responses) == (False, True, {"y": -1.0})
    assert bad.ok
    assert bad.message.startswith("CRASHED: AssertionError")
    assert run(ODD_FAILS, numbers(1))[0].failure is Failure.CRASHED


def test_too_many_failures_fail_the_job_with_a_hint(run: Evaluate) -> None:
    policy = FailurePolicy(max_failed_fraction=0.25)
    with pytest.raises(JobError, match="more than the 25%") as caught:
        run(ODD_FAILS, numbers(*range(20)), policy=policy)
    assert (caught.value.reason, "narrow the ranges" in caught.value.hint) == (
        "TOO_MANY_FAILED",
        True,
    )


def test_a_few_failures_do_not_and_a_single_failed_point_never_does(run: Evaluate) -> None:
    policy = FailurePolicy(max_failed_fraction=0.5)
    assert len(run(ODD_FAILS, numbers(*range(10)), policy=policy)) == 10
    assert run(ODD_FAILS, numbers(11), policy=policy)[0].failure is Failure.CRASHED


def test_stopping_ends_the_runs_and_keeps_what_is_done(run: Evaluate, tmp_path: Path) -> None:
    told: list[int] = []
    mark = f"vf-stopped-{os.getpid()}"
    slow = deck(
        "import os, time\n"
        f"if point['n'] > 1: os.execv('/bin/sleep', ['{mark}', 'infinity'])\n"
        "return {'y': 1}"
    )
    stopped = False

    def should_stop() -> bool:
        nonlocal stopped
        running = any(mark.encode() in each for each in command_lines())
        stopped = stopped or (len(told) == 2 and running)
        return stopped

    with pytest.raises(Canceled):
        run(
            slow,
            numbers(*range(40)),
            on_outcome=lambda index, _: told.append(index),
            should_stop=should_stop,
        )
    assert (sorted(told), PointStore(tmp_path / "points").count(slow)) == ([0, 1], 2)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not any(mark.encode() in each for each in command_lines())


def test_an_error_of_the_listener_ends_the_runs(run: Evaluate) -> None:
    def fail(index: int, outcome: Outcome) -> None:
        raise RuntimeError("listener")

    slow = deck("import time\nif point['n']: time.sleep(3600)\nreturn {'y': 1}")
    with pytest.raises(RuntimeError, match="listener"):
        run(slow, numbers(0, 1, 2), on_outcome=fail)


def test_two_evaluations_at_the_same_time_run_each_point_once(run: Evaluate) -> None:
    slow = deck("import time; time.sleep(0.2); return {'y': point['n']}")
    results: list[list[Outcome]] = []
    threads = [
        threading.Thread(target=lambda: results.append(run(slow, numbers(1, 2, 3))))
        for _ in range(3)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    ran = [each for outcomes in results for each in outcomes if not each.cached]
    assert sorted(each.point["n"] for each in ran) == [1, 2, 3]
    assert all(each.ok for outcomes in results for each in outcomes)


def test_processes_do_as_well_as_threads(run: Evaluate) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        outcomes = run(ODD_FAILS, numbers(1, 2), executor=processes)
        functions = run(shipped_deck("branin"), [{"x1": 0.0, "x2": 1.0}], executor=processes)
    assert [each.failure for each in outcomes] == [Failure.CRASHED, None]
    assert functions[0].ok


def test_bad_points_and_decks_are_refused_before_anything_runs(run: Evaluate) -> None:
    with pytest.raises(InvalidError) as caught:
        run(SQUARE, numbers(1, 1000))
    assert [each.field for each in caught.value.violations] == ["points[1].n"]
    with pytest.raises(InvalidError):
        run(replace(SQUARE, entry="missing.py:simulate"), numbers(1))


def test_a_missing_simulator_is_told(run: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    opamp = shipped_deck("opamp")
    point = {each.name: each.default for each in opamp.space.parameters}
    with pytest.raises(UnavailableError, match="apt-get install ngspice"):
        run(opamp, [point])


def test_a_hundred_thousand_points_of_a_function_are_kept_in_few_files(
    run: Evaluate, tmp_path: Path
) -> None:
    borehole = shipped_deck("borehole")
    points = borehole.space.decode(np.random.default_rng(1).random((100_000, 8)))
    outcomes = run(borehole, points)
    assert all(each.ok and not each.cached for each in outcomes)
    assert len([each for each in (tmp_path / "points").rglob("*") if each.is_file()]) == 20
    again = run(borehole, points)
    assert all(each.cached for each in again)
    assert [each.responses for each in again] == [each.responses for each in outcomes]


KILLED = """
from pathlib import Path
from vistaflow_services.decks.deck import Deck, Response
from vistaflow_services.decks.space import Kind, Parameter, Space
from vistaflow_services.simulators.evaluate import evaluate, local_executor
from vistaflow_services.simulators.points import PointStore
deck = Deck(
    name="toy", simulator="devsim",
    space=Space(parameters=(Parameter(name="n", kind=Kind.INTEGER, low=0, high=999),)),
    responses=(Response(name="y"),), files={{"deck.py": {code!r}}},
    entry="deck.py:simulate", timeout_seconds=120.0,
)
root = Path({root!r})
for each in evaluate(
    deck, [{{"n": n}} for n in range(12)], store=PointStore(root / "points"),
    executor=local_executor(2), scratch_root=root / "scratch",
    on_outcome=lambda index, each: print(index, int(each.cached), flush=True),
):
    assert each.responses == {{"y": float(each.point["n"])}}
print("done", flush=True)
"""


def test_after_a_kill_only_the_rest_is_run_and_no_process_is_left(tmp_path: Path) -> None:
    mark = f"vf-killed-{os.getpid()}"
    code = (
        "import subprocess\n"
        "def simulate(point):\n"
        f"    subprocess.run(['{mark}', '0.3'], executable='/bin/sleep')\n"
        "    return {'y': point['n']}\n"
    ).encode()
    script = KILLED.format(code=code, root=str(tmp_path))
    command = [sys.executable, "-c", script]
    told: list[list[str]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            told.append(line.split())
            if len(told) == 5:
                first.send_signal(signal.SIGKILL)
    assert first.returncode == -signal.SIGKILL
    assert [cached for _, cached in told[:5]] == ["0"] * 5
    deadline = time.monotonic() + 120
    while any(mark.encode() in each for each in command_lines()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(mark.encode() in each for each in command_lines())
    kept = {int(index) for index, _ in told}
    second = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=240)
    lines = [line.split() for line in second.stdout.splitlines()]
    assert lines[-1] == ["done"]
    cached = {int(index) for index, was in (each for each in lines[:-1]) if was == "1"}
    assert kept <= cached
    # At most the two that were stored and not yet told are cached beyond what was told.
    assert len(cached) <= len(kept) + 2
    assert len(lines) == 13
    assert [each.name for each in (tmp_path / "scratch").iterdir()] == []


def command_lines() -> list[bytes]:
    return [b"\0".join(command) for process, command in commands() if process != os.getpid()]
