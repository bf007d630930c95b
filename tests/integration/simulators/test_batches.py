"""Points that share a process of ngspice have the outcomes that they have alone."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import qmc

from tests.processes import commands  # type: ignore[import-not-found]
from vistaflow_services.decks.deck import Deck, FailurePolicy, Policy, Response, shipped_deck
from vistaflow_services.decks.space import Kind, Parameter, Point, Space
from vistaflow_services.simulators import Failure, Outcome
from vistaflow_services.simulators import evaluate as evaluation
from vistaflow_services.simulators.evaluate import evaluate, local_executor
from vistaflow_services.simulators.ngspice import simulator as ngspice
from vistaflow_services.simulators.points import PointStore
from vistaflow_services.simulators.processes.sandbox import Sandbox, this_sandbox
from vistaflow_services.simulators.run import Canceled, check_deck, run_together

pytestmark = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")

LIMITS_ONLY = Sandbox(program="", description="resource limits only (by this test)")
RESISTANCES = [float(r) for r in (800, 900, 1000, 1100, 100, *range(1200, 1500, 28))]
"""The fifth is below 500, where the circuits of the tests go wrong."""

SWITCHING = (800.0, 100.0, 900.0, 200.0, 300.0, 1000.0, 400.0, 1100.0)


def circuit(control: str, cards: str = "", *measures: str, **options: Any) -> Deck:
    text = (
        f"* divider\nv1 in 0 dc 1 ac 1\nr1 in out @r@\nr2 out 0 1k\nc1 out 0 1u\n{cards}\n"
        f".control\n{control}\nquit\n.endc\n.end\n"
    )
    return Deck(
        name="divider",
        simulator="ngspice",
        space=Space(parameters=(Parameter(name="r", low=1.0, high=1e6, unit="ohm"),)),
        responses=tuple(Response(name=name) for name in measures or ("vout",)),
        files={"main.cir": text.encode()},
        templates=("main.cir",),
        **{"timeout_seconds": 60.0, "points_per_process": 64, **options},
    )


class Runs:
    """Evaluations, and how many processes they had for one point and for several."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.alone: list[Point] = []
        self.together: list[int] = []
        self._count = 0
        run_checked, run_together = evaluation.run_checked, evaluation.run_together

        def one(deck: Deck, point: Point, **options: Any) -> Outcome:
            self.alone.append(point)
            return run_checked(deck, point, **options)

        def several(deck: Deck, points: Sequence[Point], **options: Any) -> list[Outcome | None]:
            self.together.append(len(points))
            return run_together(deck, points, **options)

        monkeypatch.setattr(evaluation, "run_checked", one)
        monkeypatch.setattr(evaluation, "run_together", several)
        monkeypatch.setattr(evaluation, "cores", lambda: 1)

    def __call__(self, deck: Deck, points: Sequence[Any], **options: Any) -> list[Outcome]:
        self._count += 1
        self.alone, self.together = [], []
        store = options.pop("store", None) or PointStore(self.folder / f"points{self._count}")
        with local_executor(2) as executor:
            return evaluate(
                deck,
                points,
                store=store,
                executor=executor,
                scratch_root=self.folder / "scratch",
                **options,
            )

    def both(self, deck: Deck, points: Sequence[Any]) -> tuple[list[Outcome], list[Outcome]]:
        """The outcomes of points that ran alone, and of the same in batches, without times."""
        alone = self(replace(deck, points_per_process=1), points)
        assert not self.together
        batches = self(deck, points)
        assert self.together
        return _timeless(alone), _timeless(batches)


def _timeless(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [replace(outcome, seconds=0.0) for outcome in outcomes]


def resistances(*values: float) -> list[dict[str, float]]:
    return [{"r": value} for value in values or RESISTANCES]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    runs = Runs(tmp_path, monkeypatch)
    yield runs
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("sandbox", [this_sandbox(), LIMITS_ONLY], ids=["this", "limits only"])
def test_points_of_the_amplifier_are_equal_to_the_last_digit(
    run: Runs, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngspice, "this_sandbox", lambda: sandbox)
    deck = shipped_deck("opamp")
    assert deck.points_per_process > 1
    points = deck.space.decode(qmc.Sobol(deck.space.dimension, rng=3).random(32))
    alone, batches = run.both(deck, points)
    assert run.together == [16, 16]
    assert batches == alone
    assert len(run.alone) == sum(not outcome.ok for outcome in alone)


CARDS = (
    ".tran 10u 5m\n.print tran v(out)\n.meas tran highest max v(out)\n"
    ".meas tran late find v(out) at=4m\n.temp 50\n.options reltol=1e-4"
)
IN_CONTROL = "run\nop\nlet vout = v(out)\nprint vout"


def test_points_of_cards_and_commands_are_equal(run: Runs) -> None:
    deck = circuit(IN_CONTROL, CARDS, "highest", "late", "vout")
    alone, batches = run.both(deck, resistances())
    assert all(outcome.ok for outcome in alone)
    assert batches == alone
    assert not run.alone


def test_points_whose_included_files_differ_are_equal(run: Runs) -> None:
    deck = circuit("set units=degrees\nop\nlet vout = v(out)\nprint vout", ".include load.inc")
    more = {"load.inc": b"r3 out 0 @r@\n.include fixed.inc\n", "fixed.inc": b"r4 out 0 5k\n"}
    init = {".spiceinit": b"set ngbehavior=ps\n"}
    deck = replace(deck, files={**deck.files, **more, **init}, templates=("main.cir", "load.inc"))
    alone, batches = run.both(deck, resistances())
    assert batches == alone
    assert len({outcome.responses["vout"] for outcome in batches}) == len(RESISTANCES)
    assert not run.alone


def test_a_netlist_in_a_folder_of_the_deck_finds_the_files_beside_it(run: Runs) -> None:
    deck = circuit("op\nlet vout = v(out)\nprint vout", ".include load.inc")
    files = {"bench/main.cir": deck.files["main.cir"], "bench/load.inc": b"r3 out 0 2k\n"}
    deck = replace(deck, files=files, templates=("bench/main.cir",))
    alone, batches = run.both(deck, resistances())
    assert batches == alone
    assert not run.alone


def test_what_a_point_printed_is_kept_with_it_alone(run: Runs, tmp_path: Path) -> None:
    deck = circuit("op\nlet vout = v(out)\nprint vout\necho resistance @r@")
    store = PointStore(tmp_path / "kept")
    run(deck, resistances(), store=store)
    assert not run.alone
    for point in resistances():
        outcome = store.get(deck, point)
        assert outcome is not None
        assert outcome.seconds > 0
        assert outcome.log.count("resistance") == 1
        assert f"resistance {point['r']}" in outcome.log
        assert "point-" not in outcome.log


TRAPS = {
    # A measure fails where the one before had a figure.
    "measure": circuit("op\nac dec 20 1 2k\nmeas ac vout when vm(out)=0.4"),
    # Figures beside plots stay in the process until they are removed.
    "constant": circuit("if @r@ > 500\nlet vout = 5\nend\nop\nprint vout"),
    "vector": circuit("op\nif @r@ > 500\nlet vout = v(out)\nend\nprint vout"),
    # Conflicting sources: no convergence.
    "singular": circuit(
        "op\nlet vout = v(out)\nprint vout", ".if (@r@ < 500)\nv2 in 0 dc 2\n.endif"
    ),
    "netlist": circuit("op\nlet vout = v(out)\nprint vout", "r3 out 0 {sqrt(@r@-500)}"),
    "unphysical": replace(
        circuit("op\nlet vout = v(out)\nprint vout"),
        responses=(Response(name="vout", low=0.0, high=0.7),),
    ),
    "fallback": replace(
        circuit("op\nac dec 20 1 2k\nmeas ac vout when vm(out)=0.4"),
        responses=(Response(name="vout", fallback=3.0),),
    ),
    "aborted": circuit(
        "op\ntran 1n 1u\nmeas tran vout max v(out)",
        "vr ramp 0 pwl(0 0 1u {@r@ < 500 ? 1 : 0.4})\ncx x 0 1e-18\n"
        "bx x 0 i = v(ramp) > 0.5 ? (v(x) > 0 ? 1 : -1) : v(x)",
    ),
}


@pytest.mark.parametrize("trap", list(TRAPS))
def test_a_point_that_fails_between_others_fails_as_it_does_alone(run: Runs, trap: str) -> None:
    deck = TRAPS[trap]
    alone, batches = run.both(deck, resistances())
    assert batches == alone
    assert [outcome.ok for outcome in alone] == [
        r > 500 or trap == "fallback" for r in RESISTANCES
    ], alone[4].message
    assert run.together == [8, 8]
    assert run.alone == [{"r": 100.0}]


def test_a_point_that_ends_the_process_has_the_others_run_alone(run: Runs) -> None:
    deck = circuit("op\nlet vout = v(out)\nprint vout", ".param fine=1k\nr3 out 0 {@name@}")
    name = Parameter(name="name", kind=Kind.CATEGORICAL, choices=("fine", "absent"))
    deck = replace(deck, space=Space(parameters=(*deck.space.parameters, name)))
    points = [{"r": r, "name": "fine" if r > 500 else "absent"} for r in RESISTANCES]
    alone, batches = run.both(deck, points)
    assert batches == alone
    assert [outcome.failure for outcome in alone] == [
        None if r > 500 else Failure.CRASHED for r in RESISTANCES
    ]
    assert "Undefined parameter [absent]" in alone[4].message
    assert sorted(point["r"] for point in run.alone) == RESISTANCES[4:8]


def test_settings_of_a_point_do_not_reach_the_next(run: Runs) -> None:
    control = (
        "if @r@ > 500\nset units=degrees\nset numdgt=12\nend\nac lin 1 1k 1k\n"
        "let vout = ph(v(out))\nprint vout"
    )
    alone, batches = run.both(circuit(control), resistances(*SWITCHING))
    assert batches == alone
    assert all(outcome.ok for outcome in alone)
    assert abs(alone[0].responses["vout"]) > 2 > abs(alone[1].responses["vout"])


def test_circuit_and_options_of_a_point_do_not_reach_the_next(run: Runs) -> None:
    cards = (
        ".if (@r@ > 500)\n.param k=2\n.temp 80\n.options gmin=1e-3\n.save v(out)\n.endif\n"
        ".if (@r@ < 500)\n.param k=3\n.endif\nr9 out 0 {k*1k} tc1=0.01\nd1 out 0 dd\n"
        ".model dd d is=1e-15"
    )
    control = (
        "op\nlet vout = v(out)\nprint vout\nlet high = 0\nif @r@ < 500\nlet high = v(in)\nend\n"
        "print high\nalter r1 = 5\nop\nlet low = v(out)\nprint low"
    )
    deck = circuit(control, cards, "vout", "high", "low")
    alone, batches = run.both(deck, resistances(*SWITCHING))
    assert batches == alone


def test_few_points_run_one_a_process(run: Runs) -> None:
    deck = circuit("op\nlet vout = v(out)\nprint vout")
    outcomes = run(deck, resistances(800, 900, 1000))
    assert all(outcome.ok for outcome in outcomes)
    assert not run.together
    assert len(run.alone) == 3


@pytest.mark.parametrize("option", ["noisy", "keep_files"])
def test_decks_whose_runs_are_looked_at_run_one_a_process(run: Runs, option: str) -> None:
    deck = circuit("op\nlet vout = v(out)\nprint vout", **{option: True})
    outcomes = run(deck, resistances())
    assert all(outcome.ok for outcome in outcomes)
    assert not run.together


def test_points_are_stored_alike(run: Runs, tmp_path: Path) -> None:
    deck = circuit("op\nlet vout = v(out)\nprint vout")
    store = PointStore(tmp_path / "both")
    first = run(deck, resistances(), store=store)
    assert run.together
    again = run(replace(deck, points_per_process=1), resistances(), store=store)
    assert not run.alone
    assert all(outcome.cached for outcome in again)
    assert [outcome.responses for outcome in again] == [outcome.responses for outcome in first]


def test_the_policy_counts_and_retries_failures_of_batches(run: Runs) -> None:
    policy = FailurePolicy(policy=Policy.RETRY, retries=2, max_failed_fraction=0.5)
    outcomes = run(TRAPS["singular"], resistances(), policy=policy)
    assert run.alone == [{"r": 100.0}] * 3
    assert outcomes[4].failure is Failure.NO_CONVERGENCE


ENDLESS_CONTROL = "op\nlet vout = v(out)\nprint vout\nif @r@ < 500\ntran 1n 1e6 0 1n\nend"


def endless(**options: Any) -> Deck:
    """A deck whose points below 500 ohm come to no end."""
    return circuit(ENDLESS_CONTROL, ".save v(in)\n.save v(out)", **options)


def test_a_point_without_an_end_times_out_alone_and_no_other(run: Runs) -> None:
    outcomes = run(endless(timeout_seconds=3.0), resistances())
    assert run.together
    assert [outcome.failure for outcome in outcomes] == [
        None if r > 500 else Failure.TIMEOUT for r in RESISTANCES
    ]
    assert outcomes[4].message == "no result after 3 s"


def under_way(scratch: Path) -> bool:
    """Whether the fifth point of a batch has begun."""
    return any(b"-4-begin" in file.read_bytes() for file in scratch.glob("run-*/logs0/stderr"))


def processes() -> list[int]:
    """Those of batches."""
    return [
        process
        for process, command in commands()
        if command[0].endswith(b"ngspice") and b"point-" in command[-2]
    ]


def test_after_a_kill_only_whole_answers_count(run: Runs, tmp_path: Path) -> None:
    scratch, deck = tmp_path / "scratch", endless()
    check_deck(deck)
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(run_together, deck, resistances(), scratch_root=scratch)
        wait_for(lambda: under_way(scratch))
        for process in processes():
            os.kill(process, signal.SIGKILL)
        outcomes = future.result(60)
    assert outcomes[4:] == [None] * 12
    for r, outcome in zip(RESISTANCES[:4], outcomes, strict=False):
        assert outcome is None or outcome.responses["vout"] == pytest.approx(
            1000 / (1000 + r), rel=1e-6
        )


def test_stopping_ends_a_batch(run: Runs, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    with pytest.raises(Canceled):
        run(endless(), resistances(), should_stop=lambda: under_way(scratch))
    assert processes() == []


def test_a_point_that_another_evaluation_runs_is_not_waited_for_by_its_batch(
    run: Runs, tmp_path: Path
) -> None:
    deck = circuit("op\nlet vout = v(out)\nprint vout")
    store = PointStore(tmp_path / "shared")
    points = resistances()
    barrier = threading.Barrier(2)

    def one(order: int) -> list[Outcome]:
        barrier.wait()
        return run(deck, points[::order], store=store)

    with ThreadPoolExecutor(2) as executor:
        first, second = executor.map(one, (1, -1))
    assert [o.responses for o in first] == [o.responses for o in reversed(second)]


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
