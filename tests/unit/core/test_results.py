from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vistaflow_services.core.errors import ConflictError, NotFoundError
from vistaflow_services.core.results import (
    FILES,
    MANIFEST,
    ONE_FILE,
    JobResult,
    Manifest,
    PublishedFile,
    find_result,
    readable,
    stored_result,
)

JOB_ID = "0198c0de-0000-7000-8000-000000000001"
FILE = {"uri": "artifact://jobs/j/1/rows.parquet", "sha256": "ab", "bytes": 3}


@dataclass(frozen=True, kw_only=True)
class Report(Manifest):
    rows: PublishedFile = field(metadata=ONE_FILE)
    count: int
    note: str | None = None
    plots: tuple[PublishedFile, ...] = field(default=(), metadata=FILES)


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    report = Report(
        rows=PublishedFile(uri="artifact://a", sha256="ab", bytes=3),
        count=2,
        plots=(PublishedFile(uri="artifact://p", sha256="cd", bytes=4, name="p.png"),),
    )

    result = json.loads(json.dumps(report.to_dict()))

    assert result["plots"] == [{"uri": "artifact://p", "sha256": "cd", "bytes": 4, "name": "p.png"}]
    assert "note" not in result
    assert Report.read(result) == report


def test_keys_of_another_version_are_ignored_and_optional_ones_may_be_missing() -> None:
    report = Report.read({"rows": {**FILE, "digest": "x"}, "count": 1, "later": []})

    assert (report.rows.sha256, report.count, report.note, report.plots) == ("ab", 1, None, ())


@pytest.mark.parametrize(
    "result",
    [
        {"rows": FILE},
        {"count": 1},
        {"rows": {"uri": "artifact://a"}, "count": 1},
        {"rows": None, "count": 1},
        {"rows": FILE, "count": 1, "plots": 7},
        {"rows": FILE, "count": 1, "plots": ["a"]},
    ],
)
def test_a_result_that_is_no_manifest_cannot_be_read(result: dict[str, object]) -> None:
    with (
        pytest.raises(
            ConflictError, match="design_id: the result of job j cannot be read"
        ) as caught,
        readable("j", "design_id"),
    ):
        Report.read(result)
    assert caught.value.reason == "UNREADABLE_RESULT"


def test_errors_of_services_pass_unchanged() -> None:
    with pytest.raises(NotFoundError, match="gone"), readable("j", "design_id"):
        raise NotFoundError("gone")


def test_a_result_is_found_by_the_name_in_the_kit_or_by_the_id() -> None:
    inputs = {"doe": JobResult(job_id=JOB_ID, job_type="DOE", attempt=1, result={})}

    assert find_result("doe", inputs) is inputs["doe"]
    assert find_result(JOB_ID, inputs) is inputs["doe"]
    assert find_result("train", inputs) is None


def test_a_stored_result_is_that_of_the_newest_complete_attempt(tmp_path: Path) -> None:
    for attempt in (2, 10, 11):
        folder = tmp_path / "jobs" / JOB_ID / str(attempt)
        folder.mkdir(parents=True)
        if attempt != 11:  # it did not end
            (folder / MANIFEST).write_text(json.dumps({"attempt": attempt}))

    assert stored_result(JOB_ID, tmp_path) == {"attempt": 10}
    assert stored_result(JOB_ID.replace("1", "2"), tmp_path) is None
    assert stored_result("../secrets", tmp_path) is None
