from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.deck import Deck, Response, shipped_deck
from vistaflow_services.decks.space import Parameter, Space
from vistaflow_services.simulators import Failure, Outcome, run_point, simulator_status
from vistaflow_services.simulators.ngspice import simulator as ngspice
from vistaflow_services.simulators.processes.sandbox import Sandbox, this_sandbox

pytestmark = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")

DIVIDER = """* divider
v1 in 0 dc 1 ac 1
r1 in out @r@
r2 out 0 1k
c1 out 0 1n
.control
op
let vout = v(out)
print vout
{more}
quit
.endc
.end
"""
LIMITS_ONLY = Sandbox(program="", description="resource limits only (by this test)")


def divider(
    more: str = "", text: str = DIVIDER, measure: str = "vout", seconds: float = 60.0
) -> Deck:
    return Deck(
        name="divider",
        simulator="ngspice",
        space=Space(parameters=(Parameter(name="r", low=1.0, high=1e6, unit="ohm"),)),
        responses=(Response(name="gain", unit="V", low=0.0, high=1.0, measure=measure),),
        files={"main.cir": text.replace("{more}", more).encode()},
        templates=("main.cir",),
        timeout_seconds=seconds,
    )


Run = Callable[[Deck, float], Outcome]


@pytest.fixture(params=["bubblewrap", "limits only"])
def run(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    if request.param == "limits only":
        monkeypatch.setattr(ngspice, "this_sandbox", lambda: LIMITS_ONLY)
    elif not this_sandbox().isolated:
        pytest.skip("bubblewrap does not work here")

    def run_one(deck: Deck, resistance: float) -> Outcome:
        return run_point(deck, {"r": resistance}, scratch_root=tmp_path / "scratch")

    yield run_one
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_divider_divides(run: Run) -> None:
    outcome = run(divider(), 3000.0)
    assert outcome.responses == {"gain": pytest.approx(0.25, rel=1e-6)}


def test_blocks_end_by_the_aliases_that_ngspice_has_for_end(run: Run) -> None:
    text = (
        "* divider\nv1 in 0 dc 1\nr1 in out @r@\nr2 out 0 1k\n.CONTROL\n"
        "PRE_SET strict_errorhandling\nop\nlet i = 0\nwhile i < 2\n  let i = i + 1\nendwhile\n"
        "BEGIN\n  if i = 2\n    let vout = v(out)\n    Print\n* in between\n  + vout\n"
        "  EndIf\nend\n.endcontrol\n.end\n"
    )
    assert run(divider(text=text), 3000.0).responses == {"gain": pytest.approx(0.25, rel=1e-6)}


def test_measures_are_found_whatever_their_case(run: Run) -> None:
    deck = divider("ac dec 5 1 1meg\nmeas ac Peak max vm(out)", measure="Peak")
    assert run(deck, 1000.0).responses == {"gain": pytest.approx(0.5, rel=1e-4)}


@pytest.mark.parametrize(
    ("deck", "failure", "said"),
    [
        (
            divider("ac dec 5 1 1k\nmeas ac never when vm(out)=0.9", measure="never"),
            Failure.INFEASIBLE,
            "`never` has no result",
        ),
        (divider(measure="absent"), Failure.CRASHED, "no `absent`"),
        (divider("let vout = -3\nprint vout"), Failure.INFEASIBLE, "physical range 0 to 1"),
        (
            divider(text=DIVIDER.replace("@r@", "{undefined_thing}")),
            Failure.CRASHED,
            "Undefined parameter [undefined_thing]",
        ),
        (
            divider(text=DIVIDER.replace("r2 out 0 1k", "v2 in 0 dc 2")),
            Failure.NO_CONVERGENCE,
            "",
        ),
        (
            divider("let a = 1\nwhile a > 0\nlet a = 1\nend", seconds=1.0),
            Failure.TIMEOUT,
            "no result after 1 s",
        ),
    ],
    ids=["nothing measured", "not printed", "unphysical", "undefined", "conflict", "endless"],
)
def test_each_way_to_fail_has_its_kind(run: Run, deck: Deck, failure: Failure, said: str) -> None:
    outcome = run(deck, 1000.0)
    assert (outcome.failure, outcome.responses) == (failure, {}), outcome.message
    assert said in outcome.message


UNSTABLE = """vr ramp 0 pwl(0 0 1u 1)
cx x 0 1e-18
bx x 0 i = v(ramp) > 0.5 ? (v(x) > 0 ? 1 : -1) : v(x)
"""
"""A transient of it breaks off half way."""
BREAKING = DIVIDER.replace("c1 out 0 1n\n", f"c1 out 0 1n\n{UNSTABLE}")
BATCH = """* batch
v1 in 0 pwl(0 0 1u 1)
r1 in out @r@
c1 out 0 1p
.tran 1n 4u
.print tran v(out) v(in)
{more}
.end
"""


@pytest.mark.parametrize(
    ("deck", "failure", "message"),
    [
        (
            divider("tran 1n 1u\nmeas tran vmax max v(ramp)", text=BREAKING, measure="vmax"),
            Failure.NO_CONVERGENCE,
            "Timestep too small",
        ),
        (
            divider(
                ".meas tran vmax max v(ramp)",
                text=BATCH.replace("c1 out 0 1p\n", UNSTABLE).replace("v(out)", "v(ramp)"),
                measure="vmax",
            ),
            Failure.NO_CONVERGENCE,
            "Timestep too small",
        ),
        (
            divider(
                "ac dec 5 1 1meg\nmeas ac g find vm(out) at=10\n"
                "ac dec 5 1 5\nmeas ac g find vm(out) at=10",
                measure="g",
            ),
            Failure.INFEASIBLE,
            "out of interval",
        ),
        (
            divider(
                "ac dec 5 1 1meg\nmeas ac g find vm(out) at=10\n"
                "meas ac g find vm(out) at=1g\nprint g",
                measure="g",
            ),
            Failure.INFEASIBLE,
            "out of interval",
        ),
        (
            divider("alter @v1[acmag] = 2\nalter r9 = 5\nprint vout"),
            Failure.CRASHED,
            "no such device or model name r9",
        ),
        (divider("op\nprint vout\nunlet vout\nprint vout"), Failure.CRASHED, "vector vout"),
    ],
    ids=["transient", "transient in batch", "measure", "measure printed", "alteration", "print"],
)
def test_evidence_of_failure_counts_whatever_was_printed(
    run: Run, deck: Deck, failure: Failure, message: str
) -> None:
    outcome = run(deck, 1000.0)
    assert (outcome.failure, outcome.responses) == (failure, {}), outcome.message
    assert message in outcome.message


@pytest.mark.parametrize(
    "deck",
    [
        divider(text=DIVIDER.replace("c1 out 0 1n", "c1 out mid 1n\nc2 mid 0 1n")),
        divider(
            "stop when time > 0.5u\ntran 10n 1u\nresume\nmeas tran peak max v(out)",
            measure="peak",
        ),
        divider(
            "ac dec 5 1 5\nmeas ac g find vm(out) at=10\n"
            "ac dec 5 1 1meg\nmeas ac g find vm(out) at=10",
            measure="g",
        ),
    ],
    ids=["a floating node", "a stop of its own", "a second try"],
)
def test_what_ngspice_recovers_from_is_a_success(run: Run, deck: Deck) -> None:
    outcome = run(deck, 1000.0)
    assert outcome.responses == {"gain": pytest.approx(0.5, rel=1e-3)}, outcome.message


def test_a_measure_is_found_before_any_amount_of_output(run: Run) -> None:
    deck = divider(".meas tran peak max v(out)", text=BATCH, measure="peak")
    assert run(deck, 1000.0).responses == {"gain": pytest.approx(1.0, rel=1e-2)}


def test_the_resources_that_ngspice_tells_of_are_no_figures(run: Run) -> None:
    deck = divider(".meas tran peak max v(out)", text=BATCH, measure="stack")
    outcome = run(deck, 1000.0)
    assert outcome.failure is Failure.CRASHED
    assert outcome.message.startswith("ngspice printed no `stack`; it printed peak.")


@pytest.mark.parametrize(
    ("deck", "message"),
    [
        (
            divider(text=DIVIDER.replace("c1 out 0 1n", "d1 out 0 nodiode")),
            "ngspice: warning, can't find model 'nodiode' from line d1 out 0 nodiode; "
            "Error on line 5 or its substitute: could not find a valid modelname",
        ),
        (
            divider(text=DIVIDER.replace("r2 out 0 1k", "r2 out 0 {rload}")),
            "ngspice: Netlist line no. 4: Undefined parameter [rload]",
        ),
        (
            divider(text=DIVIDER.replace("c1 out 0 1n", "x1 out 0 amp")),
            "ngspice: Error: unknown subckt: x1 out 0 amp",
        ),
        (
            divider("ac lin 1 1k 1k\nlet z = v(out)\nprint z", measure="z"),
            "`z` is complex (4.999951e-01,-1.57078e-03), not a number: print a real value of it",
        ),
        (
            divider("ac dec 5 1 1k\nmeas ac peak max vm(nowhere)", measure="peak"),
            "ngspice: Error: measure peak max(TRIG) : no such vector as 'v(nowhere)'",
        ),
        (
            divider("ac dec 5 1 1k\nlet z = vm(out)\nprint z", measure="z"),
            "`z` is printed as a table",
        ),
        (
            divider(text="* t\nr1 a 0 @r@\n.meas tran peak max v(a)\n.end\n", measure="peak"),
            "no `peak`: the netlist runs no analysis",
        ),
        (
            divider(
                text="* t\nv1 a 0 dc 1 ac 1\nr1 a b @r@\nc1 b 0 1n\n.ac dec 5 1 1k\n"
                ".meas ac peak max vdb(b)\n.end\n",
                measure="peak",
            ),
            "no `peak`: Error: no data saved for A.C. Small signal analysis; analysis not run; "
            "list the vectors that it reads in a `.save` line",
        ),
    ],
    ids=[
        "unknown model",
        "undefined parameter",
        "unknown subcircuit",
        "complex",
        "unknown vector",
        "table",
        "no analysis",
        "nothing saved",
    ],
)
def test_the_netlists_own_error_is_what_the_user_reads(run: Run, deck: Deck, message: str) -> None:
    outcome = run(deck, 1000.0)
    assert outcome.failure is Failure.CRASHED
    assert outcome.message.splitlines()[-1].startswith(message)


@pytest.mark.parametrize(
    "deck",
    [
        divider(text=DIVIDER.replace("quit\n", "")),
        divider("plot v(out)\ndisplay\nwhere", text=DIVIDER.replace("quit\n", "")),
        divider(
            measure="peak",
            text="* t\nv1 in 0 dc 1 ac 1\nr1 in out @r@\nr2 out 0 1k\n.ac dec 5 1 1k\n"
            ".control\nrun\nmeas ac peak max vm(out)\n.endc\n.meas ac other max vdb(out)\n.end\n",
        ),
    ],
    ids=["no quit", "plots", "a batch run after it"],
)
def test_a_control_block_without_quit_succeeds_if_all_its_measures_came(
    run: Run, deck: Deck
) -> None:
    outcome = run(deck, 1000.0)
    assert outcome.responses == {"gain": pytest.approx(0.5, rel=1e-3)}, outcome.message


def test_a_forbidden_deck_is_refused_before_anything_runs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(InvalidError):
        run_point(divider(f"shell touch {mark}"), {"r": 1.0}, scratch_root=tmp_path / "scratch")
    assert (mark.exists(), (tmp_path / "scratch").exists()) == (False, False)


def test_nothing_in_a_comment_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngspice, "this_sandbox", lambda: LIMITS_ONLY)
    touch = f"shell touch {tmp_path / 'mark'}".replace("//", "/")
    lines = [f"op ; {touch}", f"; {touch}", f"op // {touch}", f"op $ {touch}", f"op\n+ ; {touch}"]
    deck = divider("\n".join([*lines, f"# {touch}", f'echo "a ; {touch}"']))
    outcome = run_point(deck, {"r": 1000.0}, scratch_root=tmp_path / "scratch")
    assert (outcome.ok, (tmp_path / "mark").exists()) == (True, False), outcome.message


def test_the_sandbox_holds_what_the_screen_would_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not this_sandbox().isolated:
        pytest.skip("bubblewrap does not work here")
    monkeypatch.setattr("vistaflow_services.simulators.run.screen", lambda deck: None)
    mark, secret = tmp_path / "mark", tmp_path / "secret"
    secret.write_text("topsecret")
    deck = divider(f"shell touch {mark}\nshell cat {secret}\nwrite {mark}.raw\ncd /etc")
    outcome = run_point(deck, {"r": 1000.0}, scratch_root=tmp_path / "scratch")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["scratch", "secret"]
    assert "topsecret" not in outcome.message


def test_the_op_amp_that_comes_with_vistaflow_works_at_its_defaults(tmp_path: Path) -> None:
    deck = shipped_deck("opamp")
    point = {each.name: each.default for each in deck.space.parameters}
    outcome = run_point(deck, deck.space.check(point), scratch_root=tmp_path)
    assert outcome.failure is None, outcome.message
    assert set(outcome.responses) == set(deck.response_names)
    assert 70 < outcome.responses["gain_db"] < 110


def test_a_machine_without_ngspice_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (status,) = [each for each in simulator_status() if each.name == "ngspice"]
    assert (status.available, status.version) == (False, "")
    assert "apt-get install ngspice" in status.hint


@pytest.mark.parametrize(
    ("name", "point", "expected"),
    [
        (
            "ring",
            {"Wn": 1.0, "Wp": 2.5, "Lg": 300, "Vdd": 1.5},
            {"frequency": 1.663e9, "power": 3.557e-4},
        ),
        (
            "inverter",
            {"Wn": 1.0, "Wp": 2.0, "Lg": 0.23, "corner": "ff"},
            {"threshold": 0.8206, "delay": 1.924e-11, "skew": 7.386e-12},
        ),
    ],
)
def test_the_shipped_cells_run(
    tmp_path: Path, name: str, point: dict[str, float | str], expected: dict[str, float]
) -> None:
    outcome = run_point(shipped_deck(name), point, scratch_root=tmp_path)
    assert outcome.responses == {
        key: pytest.approx(value, rel=0.02) for key, value in expected.items()
    }
