from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.deck import Deck, Response, parse_deck, shipped_deck
from vistaflow_services.decks.space import Parameter, Space
from vistaflow_services.simulators import check_deck
from vistaflow_services.simulators.ngspice.batches import points_together


def circuit(control: str = "op", cards: str = "", end: str = "quit\n", **options: Any) -> Deck:
    text = f"* title\nr1 1 0 @r@\nv1 1 0 1\n{cards}\n.control\n{control}\n{end}.endc\n.end\n"
    files = {"main.cir": text.encode(), **options.pop("more", {})}
    return Deck(
        name="divider",
        simulator="ngspice",
        space=Space(parameters=(Parameter(name="r", low=1.0, high=1e6, unit="ohm"),)),
        responses=(Response(name="y"),),
        files=files,
        templates=("main.cir",),
        **{"points_per_process": 16, **options},
    )


@pytest.mark.parametrize(
    ("deck", "place", "problem"),
    [
        (circuit("while 1\nop\nend"), "main.cir:6", "`while` may leave something behind"),
        (circuit("define f(x) 2*x"), "main.cir:6", "`define` may leave"),
        (circuit("op\nalterparam r=5\nreset"), "main.cir:7", "`alterparam` may leave"),
        (circuit("op\nsetseed 3"), "main.cir:7", "`setseed` may leave"),
        (circuit("set temp=50"), "main.cir:6", "settings other than numdgt and units"),
        (circuit("set units=degrees numdgt=3"), "main.cir:6", "settings other than"),
        (circuit("let c = 3"), "main.cir:6", "constant of ngspice"),
        (circuit("let ac1.x = 3"), "main.cir:6", "no plain name"),
        (circuit("setplot const"), "main.cir:6", "`setplot` of other than an analysis"),
        (circuit("let x = sunif(0)"), "main.cir:6", "`sunif` draws random numbers"),
        (circuit(cards=".param k={agauss(1,1,1)}"), "main.cir:4", "`agauss` draws"),
        (circuit(cards=".param k={limit(1, 2)}"), "main.cir:4", "draws random numbers"),
        (circuit("op\nif 1\nquit\nend"), "main.cir:9", "something follows `quit`"),
        (circuit(end="quit 1\n"), "main.cir:7", "`quit` with a status"),
        (circuit(end=""), "main.cir", "ends with `quit`"),
        (circuit(cards="*# op"), "main.cir:4", "command outside of the netlist's control block"),
        (
            circuit(cards=".include b.cir", more={"b.cir": b".control\nop\n.endc\n"}),
            "b.cir:2",
            "command outside of the netlist's control block",
        ),
        (
            circuit("set units=degrees", more={".spiceinit": b"set units=radians\n"}),
            ".spiceinit:1",
            "`units` is set here",
        ),
        (circuit(extract="read.py:read", more={"read.py": b""}), "points_per_process", "extract"),
    ],
)
def test_what_would_reach_the_next_point_is_refused(deck: Deck, place: str, problem: str) -> None:
    with pytest.raises(InvalidError) as refused:
        check_deck(deck)
    assert [violation.field for violation in refused.value.violations][:1] == [place]
    assert problem in str([violation.description for violation in refused.value.violations])
    if "quit" not in problem:
        check_deck(replace(deck, points_per_process=1))


def test_a_random_comment_or_a_limiter_is_no_random_number() -> None:
    cards = "* agauss\n.model lim limit(in_offset=0.1 gain=2)"
    check_deck(circuit("* gauss\nop ; sunif", cards))


def test_decks_with_noise_or_files_run_one_point_a_process() -> None:
    assert points_together(circuit()) == 16
    for option in ("noisy", "keep_files"):
        deck = circuit("define f(x) 2*x", **{option: True})
        assert points_together(deck) == 1
        check_deck(deck)


def test_how_many_share_a_process_does_not_change_what_is_stored() -> None:
    deck = shipped_deck("opamp")
    other = replace(deck, points_per_process=1)
    assert other.simulation_digest == deck.simulation_digest
    assert other.digest != deck.digest
    assert parse_deck({**deck.files}).points_per_process == 16


TEXT = """\
name: d
simulator: {simulator}
{source}
parameters: [{{name: r, range: [1, 2]}}]
responses: [{{name: y}}]
points_per_process: {count}
"""


@pytest.mark.parametrize(
    ("simulator", "source", "count", "problem"),
    [
        ("ngspice", "template: a.cir", "0", "1 to 64"),
        ("ngspice", "template: a.cir", "65", "1 to 64"),
        ("ngspice", "template: a.cir", "1.5", "whole"),
        ("python", "entry: a.py:f", "2", "not used by the simulator python"),
    ],
)
def test_the_field_has_bounds(simulator: str, source: str, count: str, problem: str) -> None:
    text = TEXT.format(simulator=simulator, source=source, count=count)
    files = {"deck.yaml": text.encode(), "a.cir": b"* @r@\n", "a.py": b"def f(r): pass\n"}
    with pytest.raises(InvalidError, match="points_per_process") as refused:
        parse_deck(files)
    assert problem in str(refused.value)
