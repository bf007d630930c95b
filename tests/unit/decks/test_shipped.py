"""The decks that come with vistaflow: whole, and right where that can be known."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vistaflow_services.decks.deck import SHIPPED, read_archive, shipped_deck, shipped_decks
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators.functions import FUNCTIONS

ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not on PATH")


def default(name: str) -> Point:
    space = shipped_deck(name).space
    return space.check({each.name: each.default for each in space.parameters})


def outputs(name: str, points: list[Point]) -> dict[str, NDArray[np.float64]]:
    deck = shipped_deck(name)
    function = FUNCTIONS[deck.function]
    columns = deck.space.columns([deck.space.check(each) for each in points])
    return dict(function.compute(*(columns[each] for each in function.inputs)))


def amplify(point: Point, folder: Path) -> dict[str, float]:
    deck = shipped_deck("opamp")
    for path, content in deck.render(deck.space.check(point)).items():
        (folder / path).write_bytes(content)
    run = subprocess.run(
        ["ngspice", "-n", "-b", deck.templates[0]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = dict(re.findall(r"^(\w+)\s*=\s*(\S+)", run.stdout, re.MULTILINE))
    values = {each.name: float(found[each.extract]) for each in deck.responses}
    assert all(each.accepts(values[each.name]) for each in deck.responses)
    return values


def test_the_shipped_decks_are_these() -> None:
    assert shipped_decks() == [
        "borehole",
        "branin",
        "hartmann6",
        "inverter",
        "mosfet",
        "opamp",
        "ring",
        "welded_beam",
    ]


@pytest.mark.parametrize("name", shipped_decks())
def test_a_shipped_deck_is_named_like_its_folder_and_documented(name: str) -> None:
    deck = shipped_deck(name)
    assert deck.name == name
    assert len(deck.description) > 40
    assert set(default(name)) == set(deck.space.names)
    assert read_archive(deck.to_archive()).digest == deck.digest


@pytest.mark.parametrize("name", ["borehole", "branin", "hartmann6", "welded_beam"])
def test_a_shipped_function_deck_matches_its_function(name: str) -> None:
    deck = shipped_deck(name)
    function = FUNCTIONS[deck.function]
    assert set(deck.space.names) == set(function.inputs)
    assert set(deck.response_names) == set(function.outputs)
    points = deck.space.decode(np.random.default_rng(1).random((200, deck.space.dimension)))
    for response in deck.responses:
        values = outputs(name, points)[response.name]
        assert all(response.accepts(each) for each in values.tolist())


def test_the_welded_beam_has_the_optimum_that_it_states() -> None:
    best: Point = {"h": 0.20572964, "l": 3.470488666, "t": 9.03662391, "b": 0.20572964}
    assert shipped_deck("welded_beam").space.feasible([best]).all()
    found = {name: float(each[0]) for name, each in outputs("welded_beam", [best]).items()}
    assert found["cost"] == pytest.approx(1.724852, rel=1e-6)
    assert found["tau"] == pytest.approx(13600, rel=1e-6)
    assert found["sigma"] == pytest.approx(30000, rel=1e-6)
    assert found["pc"] == pytest.approx(6000, rel=1e-6)
    assert found["deflection"] < 0.25


def test_branin_has_the_three_minima_that_it_states() -> None:
    minima: list[Point] = [
        {"x1": -3.141593, "x2": 12.275},
        {"x1": 3.141593, "x2": 2.275},
        {"x1": 9.424778, "x2": 2.475},
    ]
    assert outputs("branin", minima)["y"].tolist() == pytest.approx([0.397887] * 3, abs=1e-6)


def test_hartmann_has_the_minimum_that_it_states() -> None:
    place = (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)
    best: Point = {f"x{at}": each for at, each in enumerate(place, start=1)}
    assert outputs("hartmann6", [best])["y"].tolist() == pytest.approx([-3.32237], abs=1e-5)


def test_the_borehole_kit_states_its_optimum() -> None:
    # The flow is monotone in each parameter, so all but the two that the wall ties together lie at
    # an end of their range; those two are scanned along the bound.
    space = shipped_deck("borehole").space
    others = [each for each in space.parameters if each.name not in ("rw", "l")]
    corners = np.array(np.meshgrid(*[[0.0, 1.0]] * len(others))).reshape(len(others), -1)
    columns = {each.name: each.decode(corners[at])[:, None] for at, each in enumerate(others)}
    length = np.linspace(1120, 1680, 1001)[None, :]
    columns |= {"rw": 112 / length, "l": length}
    flow = FUNCTIONS["borehole"].compute(*(columns[each] for each in FUNCTIONS["borehole"].inputs))[
        "flow"
    ]
    assert flow.max() == pytest.approx(138.0806, abs=1e-4)
    at = np.unravel_index(flow.argmax(), flow.shape)
    assert length[0, at[1]] == 1120
    kit = (SHIPPED / "borehole" / "kit.yaml").read_text()
    assert "The optimum is 138.0806, at rw = 0.1" in kit
    assert "rw * l <= 112" in kit


@ngspice
def test_the_op_amp_at_its_defaults_is_the_amplifier_that_was_measured(tmp_path: Path) -> None:
    assert amplify(default("opamp"), tmp_path) == {
        "gain_db": pytest.approx(89.401, abs=0.01),
        "ugf": pytest.approx(27.51e6, rel=1e-3),
        "phase_margin": pytest.approx(44.99, abs=0.05),
        "power": pytest.approx(1.8 * 1.015386e-4, rel=1e-4),
    }


@ngspice
@pytest.mark.parametrize(
    ("change", "response", "sign"),
    [
        ({"cc": 4.0}, "ugf", -1),
        ({"cc": 4.0}, "phase_margin", +1),
        ({"w1": 60.0}, "ugf", +1),
        ({"ib": 40.0}, "power", +1),
        ({"ib": 40.0}, "gain_db", -1),
        ({"ib": 40.0}, "ugf", +1),
        ({"w7": 120.0}, "power", +1),
        ({"rz": 2000.0}, "phase_margin", +1),
    ],
)
def test_the_op_amp_answers_as_the_textbook_says(
    change: Point, response: str, sign: int, tmp_path: Path
) -> None:
    before = amplify(default("opamp"), tmp_path)[response]
    after = amplify(default("opamp") | change, tmp_path)[response]
    assert sign * (after - before) > 0.01 * abs(before)


@ngspice
def test_the_op_amp_works_in_most_of_its_space(tmp_path: Path) -> None:
    deck = shipped_deck("opamp")
    unit = np.random.default_rng(3).random((25, deck.space.dimension))
    gains = [amplify(point, tmp_path)["gain_db"] for point in deck.space.decode(unit)]
    assert min(gains) > 50
