"""From the rows of a design to predictions with units, and to disk and back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vistaflow_services.core.errors import ConflictError, InvalidError, NotFoundError
from vistaflow_services.decks.space import Kind, Parameter, Point, Scale, Space
from vistaflow_services.ml.domain import TrainingPlan, train
from vistaflow_services.surrogates.choice import FAMILIES
from vistaflow_services.surrogates.dataset import Dataset, DesignRows
from vistaflow_services.surrogates.features import model_features
from vistaflow_services.surrogates.model import Model
from vistaflow_services.surrogates.preparation import Preparation, prepare
from vistaflow_services.surrogates.scaling import FeatureScale, Scaler, fit_scaler
from vistaflow_services.surrogates.storage import MANIFEST
from vistaflow_services.surrogates.transforms import Transform

SPACE = Space(
    parameters=(
        Parameter(name="length", low=10.0, high=50.0, unit="nm"),
        Parameter(name="doping", low=1e16, high=1e19, unit="cm^-3", scale=Scale.LOG),
        Parameter(name="fins", kind=Kind.INTEGER, low=1, high=4),
        Parameter(name="gate", kind=Kind.CATEGORICAL, choices=("poly", "metal", "other")),
    )
)
QUICK = {"extra_trees": {"trees": 30}, "gradient_boosting": {"rounds": 30}, "gp": {"starts": 1}}


def _simulated(point: Point) -> dict[str, float]:
    length, doping = float(point["length"]), float(point["doping"])
    gate = {"poly": 0.0, "metal": 0.3, "other": -0.2}[str(point["gate"])]
    drive = 5.0 + float(point["fins"]) - length / 20
    return {
        "ion": drive * (1 + gate),
        "ioff": 10 ** (-9 + 40 / length - 0.8 * math.log10(doping / 1e16) + gate),
    }


def design(n: int = 120, seed: int = 0) -> DesignRows:
    points = SPACE.decode(np.random.default_rng(seed).random((n, 4)))
    outcomes = [_simulated(point) for point in points]
    return DesignRows(
        row_ids=np.arange(n),
        points=tuple(points),
        responses={name: np.array([each[name] for each in outcomes]) for name in ("ion", "ioff")},
        failures=(None,) * n,
    )


def trained(families: list[str] | None = None, rows: DesignRows | None = None) -> Model:
    dataset, _ = prepare(rows or design(), SPACE, Preparation(), {"ion": "A", "ioff": "A"})
    plan = TrainingPlan(families=tuple(families or FAMILIES), folds=3, hyper_parameters=QUICK)
    return train(dataset, fit_scaler(dataset), plan, deck_id="d" * 64)


@pytest.fixture(scope="module")
def model() -> Model:
    return trained(["gp"])


def test_raw_points_are_predicted_in_the_units_of_the_responses(model: Model) -> None:
    points = SPACE.decode(np.random.default_rng(8).random((200, 4)))
    truth = [_simulated(point) for point in points]
    found = model.predictions(points)
    ion = np.array([each["ion"] for each in truth])
    assert np.sqrt(np.mean((found["ion"].mean - ion) ** 2)) < 0.03 * ion.std()
    decades = np.log10(found["ioff"].median) - np.log10([each["ioff"] for each in truth])
    assert np.sqrt(np.mean(decades**2)) < 0.05
    assert (found["ioff"].low95 > 0).all()
    assert (found["ioff"].low95 < found["ioff"].median).all()
    assert (found["ioff"].median <= found["ioff"].mean).all()
    assert model.transform("ioff") is Transform.LOG10
    assert model.transform("ion") is Transform.IDENTITY


def test_mean_and_deviation_are_those_of_predictions(model: Model) -> None:
    points = SPACE.decode(np.full((1, 4), 0.3))
    mean, sd = model.predict(points)["ioff"]
    whole = model.predictions(points)["ioff"]
    assert (mean[0], sd[0]) == (whole.mean[0], whole.sd[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_answers_to_the_bit_as_before(family: str, tmp_path: Path) -> None:
    model = trained([family], design(60))
    points = SPACE.decode(np.random.default_rng(3).random((50, 4)))
    again = Model.load(tmp_path / "m", model.save(tmp_path / "m"))
    for name, (mean, sd) in model.predict(points).items():
        np.testing.assert_array_equal(mean, again.predict(points)[name][0])
        np.testing.assert_array_equal(sd, again.predict(points)[name][1])
    assert [each.family for each in again.responses] == [family, family]
    assert again.deck_id == model.deck_id


def test_saving_twice_writes_the_same_bytes(model: Model, tmp_path: Path) -> None:
    assert model.save(tmp_path / "a") == model.save(tmp_path / "b")


@pytest.mark.parametrize("name", ["response.ion.npz", "model.json", MANIFEST])
def test_a_tampered_file_is_refused_before_it_is_read(
    name: str, model: Model, tmp_path: Path
) -> None:
    digest = model.save(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConflictError, match="is not what was saved") as raised:
        Model.load(tmp_path, digest)
    assert raised.value.reason == "MODEL_DAMAGED"


def test_pickled_objects_are_refused_even_with_right_hashes(model: Model, tmp_path: Path) -> None:
    import hashlib

    model.save(tmp_path)
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(marker), "w")

    target = tmp_path / "response.ion.npz"
    np.savez(target, kernel=np.array([Evil()], dtype=object))
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    manifest["files"][target.name]["sha256"] = hashlib.sha256(target.read_bytes()).hexdigest()
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="allow_pickle"):
        Model.load(tmp_path)
    assert not marker.exists()


def test_a_manifest_that_names_a_file_elsewhere_is_refused(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((tmp_path / "m" / MANIFEST).read_text())
    manifest["files"]["../secret"] = {"sha256": "0" * 64, "bytes": 1}
    (tmp_path / "m" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ConflictError):
        Model.load(tmp_path / "m")


def test_a_model_whose_files_are_gone_says_so(model: Model, tmp_path: Path) -> None:
    digest = model.save(tmp_path)
    (tmp_path / "response.ion.npz").unlink()
    with pytest.raises(NotFoundError, match=r"response\.ion\.npz is gone"):
        Model.load(tmp_path, digest)


def test_every_mistake_in_raw_points_is_named_with_its_place(model: Model) -> None:
    good: Point = {"length": 20.0, "doping": 1e17, "fins": 2, "gate": "poly"}
    with pytest.raises(InvalidError) as raised:
        model.predict(
            [
                good,
                good | {"length": 60.0, "fins": 2.5},
                {"lenght": 20.0, "doping": 1e17, "fins": 2, "gate": "poly"},
                good | {"gate": "wood", "doping": float("nan")},
            ]
        )
    assert [each.field for each in raised.value.violations] == [
        "points[1].length",
        "points[1].fins",
        "points[2].lenght",
        "points[2].length",
        "points[3].doping",
        "points[3].gate",
    ]
    assert "did you mean `length`?" in raised.value.violations[2].description


def test_extrapolation_is_only_for_who_asks_and_only_for_numbers(model: Model) -> None:
    outside: Point = {"length": 60.0, "doping": 1e20, "fins": 5, "gate": "metal"}
    with pytest.raises(InvalidError):
        model.predict([outside])
    inside = model.predict([outside | {"length": 50.0, "doping": 1e19, "fins": 4}])
    beyond = model.predict([outside], extrapolate=True)
    assert beyond["ion"][1][0] > inside["ion"][1][0]
    for bad in ({"gate": "wood"}, {"doping": -1.0}, {"fins": 5.5}, {"length": "long"}):
        with pytest.raises(InvalidError) as raised:
            model.predict([outside | bad], extrapolate=True)  # type: ignore[operator]
        assert [each.field for each in raised.value.violations] == [f"points[0].{next(iter(bad))}"]


def test_a_parameter_held_in_the_design_is_refused_at_other_values() -> None:
    rows = design(60)
    rows = replace(rows, points=tuple({**each, "fins": 2} for each in rows.points))
    outcomes = [_simulated(dict(point)) for point in rows.points]
    ion = np.array([each["ion"] for each in outcomes])
    model = trained(["polynomial_ridge"], replace(rows, responses={"ion": ion}))
    assert model.held == {"fins": 2}
    good: Point = {"length": 20.0, "doping": 1e17, "fins": 2, "gate": "poly"}
    model.predict([good])
    with pytest.raises(InvalidError, match="was held at 2 in the design"):
        model.predict([good | {"fins": 3}])
    model.predict([good | {"fins": 3}], extrapolate=True)


def test_features_inside_the_ranges_are_those_of_the_space() -> None:
    points = SPACE.decode(np.random.default_rng(1).random((20, 4)))
    np.testing.assert_array_equal(model_features(SPACE, points)[0], SPACE.features(points)[0])


def test_features_go_on_evenly_beyond_the_ranges() -> None:
    point: Point = {"length": 70.0, "doping": 1e22, "fins": 2, "gate": "poly"}
    row = model_features(SPACE, [point])[0][0]
    assert row[0] == pytest.approx(1.5)
    assert row[1] == pytest.approx(2.0)


def test_a_model_of_wide_log_deviation_stays_finite() -> None:
    from vistaflow_services.surrogates.transforms import backward

    found = backward(Transform.LOG10, np.array([-12.0, 200.0]), np.array([30.0, 50.0]))
    assert all(np.isfinite(each).all() for each in vars(found).values())


def test_log_normal_moments_are_those_of_drawing() -> None:
    from vistaflow_services.surrogates.transforms import backward

    found = backward(Transform.LOG10, np.array([-9.0]), np.array([0.2]))
    draws = 10 ** np.random.default_rng(0).normal(-9.0, 0.2, 400_000)
    assert found.mean[0] == pytest.approx(draws.mean(), rel=0.01)
    assert found.sd[0] == pytest.approx(draws.std(), rel=0.02)
    assert found.median[0] == pytest.approx(1e-9)
    assert np.mean((draws >= found.low95[0]) & (draws <= found.high95[0])) == pytest.approx(
        0.95, abs=0.003
    )


def _dataset(n: int = 40) -> Dataset:
    return prepare(design(n), SPACE, Preparation())[0]


def test_a_scaler_standardises_by_the_training_rows_alone() -> None:
    dataset = _dataset()
    scaler = fit_scaler(dataset)
    z = scaler.standardise(dataset, "ioff")
    assert z[dataset.training].mean() == pytest.approx(0, abs=1e-12)
    assert z[dataset.training].std() == pytest.approx(1)
    assert scaler.fitted_on == int(dataset.training.sum())


def test_a_scaler_refuses_rows_held_out_for_the_test() -> None:
    dataset = _dataset()
    with pytest.raises(ConflictError, match="learns from training rows only; 8 of these"):
        fit_scaler(dataset, np.ones(len(dataset), bool))


def test_a_scaler_refuses_a_dataset_it_was_not_fitted_on() -> None:
    scaler = fit_scaler(_dataset(40))
    other = _dataset(41)
    with pytest.raises(ConflictError) as raised:
        scaler.standardise(other, "ion")
    assert raised.value.reason == "SCALER_MISMATCH"


def test_one_changed_value_makes_another_dataset() -> None:
    dataset = _dataset()
    changed = Dataset.__new__(Dataset)
    changed.__dict__.update(dataset.__dict__)
    changed.__dict__.pop("digest", None)
    changed.__dict__["responses"] = {**dataset.responses, "ion": dataset.responses["ion"] + 1e-9}
    assert changed.digest != dataset.digest


@pytest.mark.parametrize("features", FeatureScale)
def test_a_scaler_survives_json(features: FeatureScale) -> None:
    scaler = fit_scaler(_dataset(), features=features)
    assert Scaler.from_dict(json.loads(json.dumps(scaler.to_dict()))) == scaler


def test_scaling_by_training_rows_spans_the_unit_cube() -> None:
    dataset = _dataset()
    inputs = fit_scaler(dataset, features=FeatureScale.TRAINING).inputs(dataset.features)
    assert inputs[dataset.training].min() == 0.0
    assert inputs[dataset.training].max() == 1.0


def test_a_dataset_survives_its_file(tmp_path: Path) -> None:
    dataset = _dataset()
    dataset.write(tmp_path / "d.parquet")
    again = Dataset.read(tmp_path / "d.parquet")
    assert again.digest == dataset.digest
    assert again.points == dataset.points
    np.testing.assert_array_equal(again.features, dataset.features)
