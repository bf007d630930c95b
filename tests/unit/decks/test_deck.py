from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.decks.deck import (
    Deck,
    FailurePolicy,
    Policy,
    Response,
    load_deck,
    parse_deck,
    read_archive,
    shipped_deck,
)
from vistaflow_services.decks.space import Parameter, Space

YAML = b"""\
name: lowpass
simulator: ngspice
template: rc.cir
parameters:
  - {name: r, range: [100, 10000]}
  - {name: c, range: [1.0e-13, 1.0e-9]}
responses:
  - {name: f3db, range: [1, 1.0e+12]}
"""
NETLIST = b"r1 in out @r@\nc1 out 0 @c@\n.meas ac f3db when vdb(out)=-3\n"
FILES = {"deck.yaml": YAML, "rc.cir": NETLIST, "models/d.lib": b"* @r@ stays\n"}


def test_comments_and_layout_of_deck_yaml_do_not_change_the_identity() -> None:
    spaced = b"# a comment\n" + YAML.replace(
        b"{name: r, range: [100, 10000]}", b"range: [1e2, 1e4]\n    name: r"
    )
    assert parse_deck(FILES | {"deck.yaml": spaced}).digest == parse_deck(FILES).digest


@pytest.mark.parametrize(
    "change",
    [
        {"deck.yaml": YAML.replace(b"10000", b"10001")},
        {"deck.yaml": YAML.replace(b"1.0e+12", b"1.0e+11")},
        {"deck.yaml": YAML + b"version: 2\n"},
        {"deck.yaml": YAML + b"timeout: 5\n"},
        {"rc.cir": NETLIST + b"* more\n"},
        {"models/d.lib": b""},
        {"models/e.lib": b""},
    ],
    ids=["range", "gate", "version", "timeout", "template", "model", "new file"],
)
def test_whatever_could_change_a_result_changes_the_identity(change: dict[str, bytes]) -> None:
    assert parse_deck(FILES | change).digest != parse_deck(FILES).digest


def test_the_identity_is_a_stable_sha256() -> None:
    deck = Deck(
        name="x",
        simulator="function",
        function="branin",
        space=Space(parameters=(Parameter(name="a", low=0, high=1),)),
        responses=(Response(name="y"),),
    )
    # Points are kept under it: when it changes, all that was simulated is simulated again.
    assert deck.digest == "04e3e0b3302fab6814c878bd6ad250ffb8701794236c7a748d22850c3de759fc"


def test_a_deck_is_the_same_from_a_folder_an_archive_and_a_pickle(tmp_path: Path) -> None:
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    deck = load_deck(tmp_path)
    assert deck == parse_deck(FILES)
    assert read_archive(deck.to_archive()) == deck
    assert pickle.loads(pickle.dumps(deck)).digest == deck.digest


def test_a_deck_made_in_python_survives_its_archive() -> None:
    deck = Deck(
        name="x",
        description="Two\nlines: and a colon",
        simulator="function",
        function="branin",
        space=Space(parameters=(Parameter(name="a", low=1e-12, high=1),)).constrain(["a >= 1e-9"]),
        responses=(Response(name="y", low=0.0), Response(name="z", measure="zz")),
        failure_policy=FailurePolicy(policy=Policy.SUBSTITUTE, substitute={"y": 1.0, "z": 2e-20}),
    )
    read = read_archive(deck.to_archive())
    assert read.digest == deck.digest
    assert replace(read, files={}) == deck


def test_rendering_fills_the_placeholders_of_templates_only() -> None:
    rendered = parse_deck(FILES).render({"r": 1234.5, "c": 2.5e-12})
    assert rendered == {
        "rc.cir": b"r1 in out 1234.5\nc1 out 0 2.5e-12\n.meas ac f3db when vdb(out)=-3\n",
        "models/d.lib": b"* @r@ stays\n",
    }


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("v1 a 0 -@r@", "v1 a 0 +1.5"),
        ("v1 a 0 @r@", "v1 a 0 -1.5"),
        (".param q={-@r@*-@r@}", ".param q={1.5*1.5}"),
        (".param q={3-@r@}", ".param q={3+1.5}"),
        (".param q={(1)-@r@u}", ".param q={(1)+1.5u}"),
        (".param q={2*@r@}", ".param q={2*-1.5}"),
        (".param q={@r@^2}", ".param q={(-1.5)^2}"),
        (".param q={-@r@**2}", ".param q={-(-1.5)**2}"),
        (".param q={@r@-@r@}", ".param q={-1.5+1.5}"),
        (".ic v(a)=-@r@", ".ic v(a)=1.5"),
    ],
)
def test_a_negative_value_stays_one_value_beside_signs_and_powers(text: str, rendered: str) -> None:
    yaml = YAML.replace(b"[100, 10000]", b"[-2, 2]")
    deck = parse_deck(FILES | {"deck.yaml": yaml, "rc.cir": NETLIST + text.encode()})
    point = {"r": -1.5, "c": 1e-12}
    assert deck.render(point)["rc.cir"].decode().splitlines()[-1] == rendered


def test_rendered_values_are_the_point_to_the_last_digit() -> None:
    point = parse_deck(FILES).space.decode([[0.1234567, 0.7654321]])[0]
    written = parse_deck(FILES).render(point)["rc.cir"].decode().split()
    assert [float(written[3]), float(written[7])] == [point["r"], point["c"]]


@pytest.mark.parametrize(
    ("value", "accepted"),
    [(1.0, True), (3.0, True), (0.9, False), (3.1, False), (float("nan"), False)],
)
def test_a_response_accepts_what_is_finite_and_within_its_gate(
    value: float, accepted: bool
) -> None:
    assert Response(name="y", low=1, high=3).accepts(value) is accepted


def test_an_open_gate_still_refuses_what_is_not_finite() -> None:
    assert [Response(name="y").accepts(each) for each in (-1e300, float("inf"))] == [True, False]


def test_an_unknown_shipped_deck_is_told_with_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="did you mean `borehole`"):
        shipped_deck("bore_hole")
