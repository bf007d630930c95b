"""Cleaning, outliers, the split, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.space import Parameter, Space
from vistaflow_services.surrogates.dataset import DesignRows
from vistaflow_services.surrogates.families.gaussian_process import GaussianProcess
from vistaflow_services.surrogates.metrics import doubts_of, held_out_figures
from vistaflow_services.surrogates.preparation import Preparation, prepare, rows_needed
from vistaflow_services.surrogates.scaling import fit_scaler
from vistaflow_services.surrogates.transforms import (
    Transform,
    backward,
    spans_decades,
)

SPACE = Space(parameters=(Parameter(name="a", low=0, high=1), Parameter(name="b", low=0, high=1)))


def _rows(n: int = 40) -> DesignRows:
    points = SPACE.decode(np.random.default_rng(0).random((n, 2)))
    a = np.array([float(each["a"]) for each in points])
    return DesignRows(
        row_ids=np.arange(100, 100 + n),
        points=tuple(points),
        responses={"gain": 1 + a, "leak": 10 ** (-12 + 6 * a)},
        failures=(None,) * n,
    )


def _changed(rows: DesignRows, response: str, **values: float) -> DesignRows:
    changed = rows.responses[response].copy()
    for place, value in values.items():
        changed[int(place[3:])] = value
    return replace(rows, responses={**rows.responses, response: changed})


def test_rows_are_dropped_for_named_reasons() -> None:
    rows = _changed(_changed(_rows(), "leak", row1=np.nan), "gain", row1=np.nan)
    points = list(rows.points)
    points[2] = {"a": None, "b": 0.5}
    points[3] = {"a": 7.0, "b": 0.5}
    points[5] = points[4]
    gain, leak = (rows.responses[name].copy() for name in ("gain", "leak"))
    gain[5], leak[5] = gain[4], leak[4]
    rows = replace(
        rows,
        points=tuple(points),
        responses={"gain": gain, "leak": leak},
        failures=("TIMEOUT", *rows.failures[1:]),
    )
    dataset, report = prepare(rows, SPACE, Preparation())
    assert report.dropped == {"failed": 1, "missing": 2, "outside_space": 1, "duplicate": 1}
    assert sorted(dataset.row_ids) == [104, *range(106, 140)]


def test_the_split_is_recorded_repeatable_and_of_the_size_asked_for() -> None:
    first, second = (prepare(_rows(), SPACE, Preparation(test_fraction=0.25))[0] for _ in range(2))
    other = prepare(_rows(), SPACE, Preparation(test_fraction=0.25, seed=1))[0]
    assert int((~first.training).sum()) == 10
    np.testing.assert_array_equal(first.training, second.training)
    assert (first.training != other.training).any()


@pytest.mark.parametrize("seed", range(5))
def test_runs_of_one_point_stay_on_one_side_of_the_split(seed: int) -> None:
    rows = _rows(20)
    doubled = DesignRows(
        row_ids=np.arange(40),
        points=rows.points * 2,
        responses={
            name: np.concatenate([values, values * 1.01]) for name, values in rows.responses.items()
        },
        failures=(None,) * 40,
    )
    training = prepare(doubled, SPACE, Preparation(seed=seed))[0].training
    np.testing.assert_array_equal(training[:20], training[20:])


def test_an_outlier_is_flagged_and_dropped_only_when_asked() -> None:
    rows = _changed(_rows(), "gain", row7=50.0)
    kept, report = prepare(rows, SPACE, Preparation())
    assert report.outliers == {"gain": [107]}
    assert 107 in kept.row_ids
    dropped, report = prepare(rows, SPACE, Preparation(drop_outliers=True))
    assert report.dropped == {"outlier": 1}
    assert 107 not in dropped.row_ids


def test_a_response_of_many_decades_has_no_outliers_for_spanning_them() -> None:
    assert prepare(_rows(), SPACE, Preparation())[1].outliers == {}


def test_responses_that_span_decades_are_modelled_in_their_logarithm() -> None:
    dataset, _ = prepare(_rows(), SPACE, Preparation())
    assert dataset.transforms == {"gain": Transform.IDENTITY, "leak": Transform.LOG10}
    asked, _ = prepare(_rows(), SPACE, Preparation(log_responses=("gain",)))
    assert asked.transforms == {"gain": Transform.LOG10, "leak": Transform.IDENTITY}


def test_logarithms_can_be_switched_off() -> None:
    dataset, _ = prepare(_rows(), SPACE, Preparation(log_responses=("none",)))
    assert set(dataset.transforms.values()) == {Transform.IDENTITY}
    named = replace(_rows(), responses={"none": _rows().responses["gain"]})
    dataset, _ = prepare(named, SPACE, Preparation(log_responses=("none",)))
    assert dataset.transforms == {"none": Transform.LOG10}


def test_a_logarithm_that_predicts_worse_is_not_taken() -> None:
    rows = _rows(60)
    bowl = np.array([(float(point["a"]) - 0.3) ** 2 + 1e-5 for point in rows.points])
    assert spans_decades(bowl)
    dataset, report = prepare(replace(rows, responses={"bowl": bowl}), SPACE, Preparation())
    assert dataset.transforms == {"bowl": Transform.IDENTITY}
    assert any("`bowl` spans decades" in note for note in report.notes)


def test_a_row_that_lacks_one_response_stays_for_the_others() -> None:
    rows = _changed(_rows(), "leak", row1=np.nan, row2=np.nan, row3=np.nan)
    rows = _changed(rows, "gain", row3=np.nan)
    dataset, report = prepare(rows, SPACE, Preparation())
    # Nothing can be learnt from a row without any response.
    assert report.dropped == {"missing": 1}
    assert sorted(dataset.row_ids) == [row for row in range(100, 140) if row != 103]
    assert dataset.row_ids[~dataset.present("leak")].tolist() == [101, 102]
    assert dataset.present("gain").all()
    assert "2 of 39 rows have no `leak`" in report.notes


def test_a_response_that_too_few_rows_have_is_named() -> None:
    rows = _rows()
    leak = rows.responses["leak"].copy()
    leak[5:] = np.nan
    rows = replace(rows, responses={**rows.responses, "leak": leak})
    with pytest.raises(InvalidError) as raised:
        prepare(rows, SPACE, Preparation())
    (violation,) = raised.value.violations
    assert violation.field == "responses.leak"
    assert violation.description.startswith("5 of 40 usable rows have this response")
    prepare(rows, SPACE, Preparation(responses=("gain",)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.logspace(-12, -6, 50), True),
        (np.exp(np.random.default_rng(0).normal(0, 1, 200)), True),
        (np.linspace(1, 5, 50), False),
        (-np.logspace(-12, -6, 50), False),
        (np.append(np.logspace(-12, -6, 50), 0.0), False),
        (np.linspace(0.001, 0.9, 50), False),
    ],
    ids=["decades", "log-normal", "narrow", "negative", "touches zero", "uniform"],
)
def test_what_spans_decades(values: np.ndarray, expected: bool) -> None:
    assert spans_decades(values) is expected


def test_too_few_rows_tell_how_many_are_needed() -> None:
    rows = replace(_rows(12), failures=("CRASHED",) * 4 + (None,) * 8)
    with pytest.raises(InvalidError) as raised:
        prepare(rows, SPACE, Preparation())
    (violation,) = raised.value.violations
    assert violation.field == "design"
    assert violation.description == (
        "8 usable rows (12 in the design; dropped: 4 failed) are too few: a model of 2 parameters "
        "with 0.2 of the rows held out needs at least 10; make the design larger, 20 rows are a "
        "good start"
    )


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("dimension", [1, 6, 30])
def test_as_many_rows_as_are_said_to_be_needed_do(dimension: int, fraction: float) -> None:
    space = Space(
        parameters=tuple(Parameter(name=f"p{each}", low=0, high=1) for each in range(dimension))
    )
    n = rows_needed(dimension, fraction)
    points = space.decode(np.random.default_rng(0).random((n, dimension)))
    rows = DesignRows(
        row_ids=np.arange(n),
        points=tuple(points),
        responses={"y": np.arange(n, dtype=float)},
        failures=(None,) * n,
    )
    how = Preparation(test_fraction=fraction)
    dataset, _ = prepare(rows, space, how)
    assert int(dataset.training.sum()) >= max(8, dimension + 3)
    fewer = replace(
        rows,
        row_ids=rows.row_ids[1:],
        points=rows.points[1:],
        responses={"y": rows.responses["y"][1:]},
        failures=rows.failures[1:],
    )
    with pytest.raises(InvalidError, match="too few"):
        prepare(fewer, space, how)


def test_a_constant_response_is_left_out_of_the_models_and_told() -> None:
    rows = _rows()
    rows = replace(rows, responses={**rows.responses, "gain": np.full(40, 3.0)})
    dataset, report = prepare(rows, SPACE, Preparation(log_responses=("gain",)))
    assert list(dataset.responses) == ["leak"]
    assert report.constants == {"gain": 3.0}
    assert report.notes == ["`gain` is 3 in every row: it is not modelled"]


def test_with_every_response_constant_the_rows_are_still_a_dataset() -> None:
    rows = replace(_rows(), responses={"drc": np.zeros(40), "fail": np.full(40, 1e-300)})
    dataset, report = prepare(rows, SPACE, Preparation(drop_outliers=True))
    assert (len(dataset), dataset.responses) == (40, {})
    assert report.constants == {"drc": 0.0, "fail": 1e-300}
    assert fit_scaler(dataset).responses == {}


def test_a_response_that_varies_in_rows_held_out_only_is_left_out_and_told() -> None:
    rows = _rows()
    held = int(np.flatnonzero(~prepare(rows, SPACE, Preparation())[0].training)[0])
    drc = np.zeros(40)
    drc[held] = 2.0
    rows = replace(rows, responses={**rows.responses, "drc": drc})
    dataset, report = prepare(rows, SPACE, Preparation())
    assert "drc" not in dataset.responses
    assert report.constants == {"drc": 0.0}
    assert "`drc` is 0 in all but 1 of 40 rows" in report.notes[0]


@pytest.mark.parametrize("value", [1e300, 1.7e308, -1e300, 1e31])
def test_a_run_whose_response_is_too_large_to_be_one_is_dropped_and_named(value: float) -> None:
    rows = _changed(_rows(), "gain", row3=value, row9=value)
    dataset, report = prepare(rows, SPACE, Preparation())
    assert report.dropped == {"huge": 2}
    assert {103, 109}.isdisjoint(dataset.row_ids)
    (note,) = report.notes
    assert f"`gain` is too large for a model in row 103 ({value:g}), row 109" in note
    assert ("`range: [null, 20]`" if value > 0 else "`range: [-20, null]`") in note


@pytest.mark.parametrize("unit", [1e-300, 1e-160, 1e-15, 1e160, 1e200, 1e307])
def test_a_response_of_any_magnitude_is_standardised_alike(unit: float) -> None:
    rows = _rows()
    rows = replace(rows, responses={"gain": rows.responses["gain"] * unit})
    dataset, report = prepare(rows, SPACE, Preparation())
    z = fit_scaler(dataset).standardise(dataset, "gain")[dataset.training]
    assert report.notes == []
    assert float(z.std()) == pytest.approx(1.0)
    process = GaussianProcess().fit(
        dataset.features[dataset.training], dataset.responses["gain"][dataset.training]
    )
    mean, sd = process.predict(dataset.features, noise=True)
    assert mean == pytest.approx(dataset.responses["gain"], rel=1e-3)
    assert (sd < 0.01 * unit).all()


def test_all_runs_failed_is_said_plainly() -> None:
    rows = replace(_rows(), failures=("NO_CONVERGENCE",) * 40)
    with pytest.raises(InvalidError, match=r"0 usable rows \(40 in the design; dropped: 40 failed"):
        prepare(rows, SPACE, Preparation())


def test_unknown_responses_are_named_with_the_nearest() -> None:
    how = Preparation(responses=("gian", "leak"), log_responses=("lek",))
    with pytest.raises(InvalidError) as raised:
        prepare(_rows(), SPACE, how)
    assert [(each.field, each.description) for each in raised.value.violations] == [
        ("responses[0]", "the design has no `gian`; did you mean `gain`?"),
        ("log_responses[0]", "`lek` is not modelled; did you mean `leak`?"),
    ]


def test_a_logarithm_of_what_is_not_above_zero_is_refused() -> None:
    rows = _changed(_rows(), "gain", row3=-1.0)
    with pytest.raises(InvalidError, match="has no logarithm"):
        prepare(rows, SPACE, Preparation(log_responses=("gain",)))


def test_settings_out_of_range_are_refused_together() -> None:
    with pytest.raises(InvalidError) as raised:
        Preparation(test_fraction=0.95, outlier_distance=0, responses=("a", "a"))
    assert [each.field for each in raised.value.violations] == [
        "test_fraction",
        "outlier_distance",
        "responses[1]",
    ]


def test_parameters_that_never_vary_are_told() -> None:
    rows = _rows()
    rows = replace(rows, points=tuple({"a": each["a"], "b": 0.5} for each in rows.points))
    assert prepare(rows, SPACE, Preparation())[1].constant_parameters == ["b"]


def test_held_out_figures_of_honest_predictions_are_right() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, 400)
    mean = truth + rng.normal(0, 0.1, 400)
    figures = held_out_figures(
        truth, backward(Transform.IDENTITY, mean, np.full(400, 0.1)), Transform.IDENTITY
    )
    assert figures.rmse.value == pytest.approx(0.1, rel=0.1)
    assert figures.rmse.low < 0.1 < figures.rmse.high
    assert figures.r2.value == pytest.approx(0.99, abs=0.002)
    assert figures.coverage95.value == pytest.approx(0.95, abs=0.03)
    assert all(abs(level - seen) < 0.08 for level, seen in figures.calibration.items())
    assert figures.nlpd.value == pytest.approx(np.log(0.1) + 1.42, abs=0.15)
    assert figures.rmse_decades is None


def test_a_model_is_doubted_for_its_fit_its_intervals_and_few_rows() -> None:
    rng = np.random.default_rng(0)

    def doubts(rows: int, error: float) -> list[str]:
        truth = rng.normal(0, 1, rows)
        mean = truth + error * rng.choice([-1.0, 1.0], rows)
        predicted = backward(Transform.IDENTITY, mean, np.full(rows, 0.1))
        return doubts_of(held_out_figures(truth, predicted, Transform.IDENTITY))

    assert doubts(40, 0.1) == []
    assert doubts(6, 0.1) == ["few rows"]
    assert doubts(6, 3.0) == ["explains 0%", "intervals too narrow", "few rows"]


def test_held_out_figures_of_logarithms_are_also_told_in_decades() -> None:
    rng = np.random.default_rng(0)
    log = rng.uniform(-12, -6, 300)
    predicted = backward(Transform.LOG10, log + rng.normal(0, 0.2, 300), np.full(300, 0.2))
    figures = held_out_figures(10**log, predicted, Transform.LOG10)
    assert figures.rmse_decades is not None
    assert figures.rmse_decades.value == pytest.approx(0.2, rel=0.15)
    assert figures.coverage95.value == pytest.approx(0.95, abs=0.03)
    assert figures.r2.value > 0.95


def test_figures_are_the_same_to_the_bit_for_the_same_seed() -> None:
    truth = np.linspace(0, 1, 30)
    predicted = backward(Transform.IDENTITY, truth + 0.01, np.full(30, 0.02))
    first, second = (held_out_figures(truth, predicted, Transform.IDENTITY, seed=2) for _ in "ab")
    assert first == second
