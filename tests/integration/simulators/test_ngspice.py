from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.deck import Deck, Response, shipped_deck
from vistaflow_services.decks.space import Parameter, Space
from vistaflow_services.simulators import Failure, Outcome, run_point, simulator_status
from vistaflow_services.simulators import ngspice_simulator as ngspice
from vistaflow_services.simulators.sandbox import Sandbox, this_sandbox

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
    more: str = "", text: str = DIVIDER, measure: str = "vout", seconds: float = 10.0
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


def test_measures_are_found_whatever_their_case(run: Run) -> None:
    deck = divider("ac dec 5 1 1meg\nmeas ac Peak max vm(out)", measure="Peak")
    assert run(deck, 1000.0).responses == {"gain": pytest.approx(0.5, rel=1e-4)}


@pytest.mark.parametrize(
    ("deck", "failure", "said"),
    [
        (
            divider("ac dec 5 1 1k\nmeas ac never when vm(out)=0.9", measure="never"),
            Failure.INFEASIBLE,
            "`never` found nothing",
        ),
        (divider(measure="absent"), Failure.CRASHED, "no `absent`"),
        (divider("let vout = -3\nprint vout"), Failure.INFEASIBLE, "physical range 0 to 1"),
        (
            divider(text=DIVIDER.replace("@r@", "{undefined_thing}")),
            Failure.CRASHED,
            "exit status 1",
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


def test_a_control_block_without_quit_is_told_to_have_one(run: Run) -> None:
    outcome = run(divider(text=DIVIDER.replace("quit\n", "")), 1000.0)
    assert outcome.failure is Failure.CRASHED
    assert outcome.message.startswith("end the control block with `quit`")


def test_a_forbidden_deck_is_refused_before_anything_runs(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(InvalidError):
        run_point(divider(f"shell touch {mark}"), {"r": 1.0}, scratch_root=tmp_path / "scratch")
    assert (mark.exists(), (tmp_path / "scratch").exists()) == (False, False)


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
