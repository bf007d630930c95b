"""Decks, studies and trials as values, data frames and HTML."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas
import pytest

import vistaflow
from vistaflow._rows import AsyncListing, Listing, Rows
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.models import kit_of, state_of
from vistaflow.results import deck_of, study_of, trial_of

PNG = b"\x89PNG not really"


def trial(number: int, *, failed: bool = False) -> optimize_pb2.Trial:
    message = optimize_pb2.Trial(number=number, origin="infill", feasible=not failed)
    message.parameters.update({"width": 2.0, "choice": "a"})
    if failed:
        message.failure = "TIMEOUT"
    else:
        message.responses["cost"] = 1.5
        message.objective = 1.5
    return message


def study(*plots: str) -> optimize_pb2.Study:
    cost = common_pb2.Response(name="cost", unit="EUR")
    message = optimize_pb2.Study(
        study_id="s1", kit_id=7, goals="minimize cost", best=trial(3), notes=["a note"]
    )
    message.comparisons.add(
        response=cost, predicted=ml_pb2.Prediction(mean=1.4, standard_deviation=0.1), simulated=1.5
    )
    message.constraints.add(text="<b>cost</b> <= 2", value=1.5, limit=2.0, met=True)
    for uri in plots:
        message.plots.add(name="p.png", uri=uri)
    return message


def kit(**best: Any) -> vistaflow.Kit:
    job = common_pb2.Job(
        job_id="j", name="optimize", job_type=common_pb2.JOB_TYPE_OPTIMIZE,
        status=common_pb2.STATUS_FINISHED,
    )  # fmt: skip
    job.result.update(
        {
            "best": best or {"point": {"width": 2.25}, "simulated": {"cost": 1.5}},
            "parameters": [{"name": "width", "unit": "mm"}],
            "plots": [{"uri": "artifact://jobs/p.png"}],
        }
    )
    message = registry_pb2.Kit(kit_id=7, name="<kit>", jobs=[job], revision=3)
    message.job_counts.finished_count = 1
    return kit_of(message)


def test_a_study_is_a_value_that_keeps_its_message() -> None:
    message = study()
    value = study_of(message)
    assert value.best.parameters == {"choice": "a", "width": 2}
    assert value.best.objective == 1.5
    assert value.design_best is None
    assert value.comparisons[0].predicted.unit == "EUR"
    assert value.pb is message
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.goals = "x"  # type: ignore[misc]


def test_code_of_the_first_version_finds_the_fields_of_the_message() -> None:
    value = study_of(study())
    assert value.best.HasField("objective")  # type: ignore[attr-defined]
    assert not value.HasField("design_best")  # type: ignore[attr-defined]
    assert list(value.plots) == []  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        _ = value.gaols  # type: ignore[attr-defined]


def test_a_failed_trial_has_no_objective() -> None:
    value = trial_of(trial(4, failed=True))
    assert (value.objective, value.responses, value.failure) == (None, {}, "TIMEOUT")
    assert value.run_time is None


def test_a_trial_says_how_long_it_ran() -> None:
    message = trial(4)
    message.run_duration.FromMilliseconds(1_250)
    assert trial_of(message).run_time == timedelta(milliseconds=1_250)


def test_a_deck_has_ranges_and_choices() -> None:
    message = ingestion_pb2.Deck(name="beam", version="1")
    message.parameters.add(name="h", low=0.0, high=2.0, unit="in")
    message.parameters.add(name="kind").choices.add(string_value="round")
    message.responses.add(name="cost")
    value = deck_of(message)
    assert [(each.low, each.high, each.choices) for each in value.parameters] == [
        (0.0, 2.0, ()),
        (None, None, ("round",)),
    ]
    assert "0 … 2" in value._repr_html_()
    assert "round" in value._repr_html_()


def test_trials_have_a_column_for_each_parameter_and_response() -> None:
    frame = Rows(map(trial_of, [trial(0), trial(1, failed=True)])).to_pandas()
    assert list(frame["number"]) == [0, 1]
    assert list(frame["parameters.width"]) == [2, 2]
    assert frame["responses.cost"][0] == 1.5
    assert pandas.isna(frame["responses.cost"][1])
    assert "pb" not in frame


def test_states_kits_jobs_and_designs_are_data_frames() -> None:
    states = Listing(iter([state_of(common_pb2.State(revision=5, task_name="a"))])).to_pandas()
    assert (states["revision"][0], states["task_name"][0]) == (5, "a")
    kits = Rows([kit()]).to_pandas()
    assert (kits["kit_id"][0], kits["job_counts.finished"][0]) == (7, 1)
    assert kit().to_pandas()["name"][0] == "optimize"
    assert list(Rows([{"row_id": 1, "x": 2.0}]).to_pandas()["x"]) == [2.0]


async def test_an_asynchronous_listing_is_a_data_frame() -> None:
    async def source():  # type: ignore[no-untyped-def]
        yield state_of(common_pb2.State(revision=5))

    assert list((await AsyncListing(source()).to_pandas())["revision"]) == [5]


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(vistaflow.MissingPackageError, match="pip install"):
        Rows([{"x": 1}]).to_pandas()
    assert issubclass(vistaflow.MissingPackageError, ImportError)


def test_pandas_is_not_imported_before_it_is_used() -> None:
    script = "import sys, vistaflow.client, vistaflow.aio; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", script], check=True)


@pytest.mark.parametrize("value", [kit(), kit().jobs[0], study_of(study()), trial_of(trial(1))])
def test_a_repr_is_short(value: object) -> None:
    assert len(repr(value)) < 250
    assert type(value).__name__ in repr(value)


def test_the_html_of_a_kit_has_its_result_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path))
    (tmp_path / "artifacts" / "jobs").mkdir(parents=True)
    (tmp_path / "artifacts" / "jobs" / "p.png").write_bytes(PNG)
    text = kit()._repr_html_()
    assert "<kit>" not in text
    assert "&lt;kit&gt;" in text
    assert "<td>width</td><td>2.25</td><td>mm</td>" in text
    assert text.count('src="data:image/png;base64,') == 1


def test_the_html_of_a_study_is_escaped_and_shows_no_file_outside_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_HOME", str(tmp_path))
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "secret.png").write_bytes(PNG)
    text = study_of(
        study("artifact://../secret.png", f"file://{tmp_path}/secret.png")
    )._repr_html_()
    assert "<b>cost</b>" not in text
    assert "<td>cost</td><td>1.4</td><td>0.1</td><td>1.5</td><td>EUR</td>" in text
    assert "<img" not in text


@pytest.mark.parametrize("best", [{"point": 5}, {"point": None, "simulated": [1]}])
def test_the_html_of_a_kit_survives_the_result_of_an_external_job(best: dict[str, Any]) -> None:
    assert "kit 7" in kit(**best)._repr_html_()
