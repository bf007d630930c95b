"""The MOSFET that comes with vistaflow: right physics, everywhere, smoothly."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import qmc

from vistaflow_services.decks.deck import shipped_deck
from vistaflow_services.simulators import Outcome, simulator_status
from vistaflow_services.simulators.evaluate import evaluate, local_executor
from vistaflow_services.simulators.points import PointStore

pytestmark = pytest.mark.skipif(
    not any(each.available for each in simulator_status() if each.name == "devsim"),
    reason="DEVSIM is not installed",
)

DECK = shipped_deck("mosfet")
DEFAULTS = {each.name: each.default for each in DECK.space.parameters}


def run(folder: Path, points: list[dict[str, object]]) -> list[Outcome]:
    with local_executor(2) as executor:
        return evaluate(
            DECK,
            points,
            store=PointStore(folder / "points"),
            executor=executor,
            scratch_root=folder / "scratch",
        )


@pytest.fixture(scope="module")
def trends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Responses at the defaults and with one parameter changed."""
    changes: dict[str, dict[str, float]] = {
        "default": {},
        "thick oxide": {"oxide_thickness": 3.5},
        "doped channel": {"channel_doping": 2.4e18},
        "short gate": {"gate_length": 75.0},
        "long gate": {"gate_length": 250.0},
        "doped source": {"source_doping": 2e20},
        "deep junction, short gate": {"gate_length": 75.0, "junction_depth": 40.0},
    }
    points = [{**DEFAULTS, **change} for change in changes.values()]
    outcomes = run(tmp_path_factory.mktemp("mosfet"), points)
    assert [each.message for each in outcomes if not each.ok] == []
    return {name: each.responses for name, each in zip(changes, outcomes, strict=True)}


Trends = dict[str, dict[str, float]]


def test_the_default_transistor_is_a_plausible_one(trends: Trends) -> None:
    default = trends["default"]
    assert 0.2 < default["vth"] < 0.6
    assert 1e-4 < default["ion"] < 1e-3
    assert 1e-13 < default["ioff"] < 1e-9
    assert 59.5 < default["swing"] < 90
    assert 5 < default["dibl"] < 60


def test_a_thicker_oxide_has_a_worse_swing_and_less_current(trends: Trends) -> None:
    assert trends["thick oxide"]["swing"] > trends["default"]["swing"] + 3
    assert trends["thick oxide"]["ion"] < 0.9 * trends["default"]["ion"]


def test_a_more_doped_channel_has_a_higher_threshold_and_leaks_less(trends: Trends) -> None:
    assert trends["doped channel"]["vth"] > trends["default"]["vth"] + 0.1
    assert trends["doped channel"]["ioff"] < 0.1 * trends["default"]["ioff"]


def test_a_shorter_gate_has_more_current_on_and_off_and_more_dibl(trends: Trends) -> None:
    short, default, long = trends["short gate"], trends["default"], trends["long gate"]
    for response in ("ion", "ioff", "dibl"):
        assert short[response] > 1.1 * default[response] > 1.1 * 1.1 * long[response]


def test_a_more_doped_source_has_less_series_resistance(trends: Trends) -> None:
    assert trends["doped source"]["ion"] > 1.02 * trends["default"]["ion"]


def test_deeper_junctions_have_stronger_short_channel_effects(trends: Trends) -> None:
    deep, shallow = trends["deep junction, short gate"], trends["short gate"]
    assert deep["dibl"] > 1.2 * shallow["dibl"]
    assert deep["ioff"] > 1.5 * shallow["ioff"]


def test_a_long_channel_has_the_threshold_of_the_textbook(trends: Trends) -> None:
    """S. M. Sze, Physics of Semiconductor Devices: V_FB + 2 phi_F + Q_B / C_ox at that doping."""
    doping, oxide = 1.2e18, 2.5e-7
    fermi = 0.02585 * np.log(doping / 1e10)
    charge = np.sqrt(4 * 1.602e-19 * 11.7 * 8.854e-14 * doping * fermi)
    expected = -(0.56 + fermi) + 2 * fermi + charge / (3.9 * 8.854e-14 / oxide)
    assert trends["long gate"]["vth"] == pytest.approx(expected, abs=0.06)


def test_a_hundredth_of_a_range_moves_responses_evenly(tmp_path: Path) -> None:
    """The mesh follows the parameters: second differences are small against first ones."""
    places = np.full((5, 5), 0.45) + np.linspace(-0.02, 0.02, 5)[:, None]
    outcomes = run(tmp_path, DECK.space.decode(places))
    for name, log in (("vth", False), ("ion", True), ("ioff", True), ("swing", False)):
        values = np.array([each.responses[name] for each in outcomes])
        values = np.log(values) if log else values
        first, second = np.diff(values), np.diff(values, 2)
        assert np.abs(second).max() < 0.05 * np.abs(first).max(), name


@pytest.mark.slow
def test_sixty_points_and_all_corners_of_the_box_converge(tmp_path: Path) -> None:
    sample = qmc.LatinHypercube(5, seed=7).random(60)
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=5)))
    outcomes = run(tmp_path, DECK.space.decode(np.vstack([sample, corners])))
    assert [each.message for each in outcomes if not each.ok] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_forty_points_teach_a_surrogate(tmp_path: Path) -> None:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.model_selection import KFold, cross_val_predict

    places = qmc.LatinHypercube(5, seed=3).random(40)
    outcomes = run(tmp_path, DECK.space.decode(places))
    kernel = ConstantKernel() * RBF(np.ones(5), (0.05, 100)) + WhiteKernel(1e-5, (1e-10, 1))
    for name, log in (("vth", False), ("ion", True), ("ioff", True), ("swing", False)):
        values = np.array([each.responses[name] for each in outcomes])
        values = np.log(values) if log else values
        model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        folds = KFold(10, shuffle=True, random_state=0)
        predicted = cross_val_predict(model, places, values, cv=folds)
        assert 1 - np.mean((predicted - values) ** 2) / np.var(values) > 0.95, name
