from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import wrappers_pb2

from vistaflow_services.core.message_limits import NESTING
from vistaflow_services.core.results import JobResult
from vistaflow_services.core.work import attempt as jobs
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt, JobError, plain


def attempt(tmp_path: Path, said: list[dict[str, Any]] | None = None, **more: Any) -> Attempt:
    store = ArtifactStore(tmp_path)
    folder = store.open_prefix("j", 1)
    report = (said if said is not None else []).append
    return Attempt(kit_id=1, job_id="j", folder=folder, artifacts=store, report=report, **more)


def test_progress_is_thinned_out_but_the_end_of_a_phase_is_always_told(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    made = attempt(tmp_path, said)
    for number in range(10_000):
        made.progress("simulate", number + 1, 10_000, unit="runs")
    made.progress("fit", 1, 2)
    assert len(said) < 30
    assert [each["completed"] for each in said if each["phase"] == "simulate"][-1] == 10_000
    assert said[-1]["phase"] == "fit"


def test_a_task_is_told_with_plain_metadata(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = []
    attempt(tmp_path, said).task(
        "fit", "FINISHED", {"rmse": np.float64(0.5), "n": np.int64(3), "r2": float("nan")}
    )
    assert said == [
        {
            "kind": "task",
            "name": "fit",
            "status": "FINISHED",
            "metadata": {"rmse": 0.5, "n": 3, "r2": None},
            "reason": "",
        }
    ]


@pytest.mark.parametrize(
    ("name", "status"), [("", "RUNNING"), ("x" * 101, "RUNNING"), ("a\nb", "RUNNING"), ("a", "OK")]
)
def test_a_task_without_a_proper_name_or_status_is_refused(
    tmp_path: Path, name: str, status: str
) -> None:
    with pytest.raises(ValueError, match=r"no status|task's name"):
        attempt(tmp_path).task(name, status)


def test_metadata_too_large_for_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught:
        attempt(tmp_path).task("fit", "FINISHED", {"x": "y" * jobs.MAX_METADATA_BYTES})
    assert caught.value.reason == "TOO_LARGE"


def test_metadata_nested_too_deep_for_every_reader_is_refused(tmp_path: Path) -> None:
    value: Any = 1
    for _ in range(NESTING):
        value = [value]
    with pytest.raises(JobError) as caught:
        attempt(tmp_path).task("fit", "FINISHED", {"x": value})
    assert caught.value.reason == "TOO_DEEP"
    attempt(tmp_path).task("fit", "FINISHED", {"x": value[0]})


def test_a_spec_is_handed_out_as_the_message_it_is(tmp_path: Path) -> None:
    made = attempt(tmp_path, spec=wrappers_pb2.StringValue(value="x"))
    assert made.unpack(wrappers_pb2.StringValue).value == "x"
    with pytest.raises(JobError, match=r"StringValue, not google\.protobuf\.Int32Value"):
        made.unpack(wrappers_pb2.Int32Value)


def test_the_one_input_of_a_type_is_found(tmp_path: Path) -> None:
    design = JobResult(job_id="a", job_type="DOE", attempt=1, result={"n": 1})
    made = attempt(tmp_path, inputs={"design": design})
    assert made.input("DOE") is design
    with pytest.raises(JobError, match="exactly one ML_TRAIN job"):
        made.input("ML_TRAIN")


def test_values_become_what_json_has() -> None:
    value = {
        "a": np.array([[1.0, np.inf], [2.0, 3.0]]),
        1: (np.bool_(True), {"z"}),
        "path": Path("/srv/private/a.png"),
        "none": None,
    }
    assert plain(value) == {
        "a": [[1.0, None], [2.0, 3.0]],
        "1": [True, ["z"]],
        "path": "a.png",
        "none": None,
    }
    with pytest.raises(TypeError, match="object is not JSON-able"):
        plain(object())
