"""Logs of services and jobs, merged and followed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vistaflow.cli import logs
from vistaflow.cli.logs import LogLine, follow_lines, lines_of


def record(at: str, message: str, **more: object) -> str:
    return json.dumps({"time": at, "level": "INFO", "message": message, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "doe.jsonl").write_text(
        record("2026-01-01T10:00:01", "first")
        + "\n"
        + record("2026-01-01T10:00:03", "third")
        + "\n"
    )
    (tmp_path / "ml.jsonl").write_text(record("2026-01-01T10:00:02", "second") + "\n")
    for job, attempt, text in (("a", 1, "lost\n"), ("a", 2, "one\ntwo\n"), ("b", 1, "three\n")):
        path = tmp_path / "jobs" / job / f"{attempt}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def raws(lines: list[LogLine]) -> list[str]:
    return [json.loads(each.raw)["message"] for each in lines]


def test_services_are_merged_by_time(folder: Path) -> None:
    assert raws(lines_of(folder, "", {})) == ["first", "second", "third"]
    assert raws(lines_of(folder, "doe", {})) == ["first", "third"]
    assert lines_of(folder, "nobody", {}) == []


def test_what_jobs_printed_is_told_with_name_and_attempt(folder: Path) -> None:
    found = lines_of(folder, "", {"a": "design", "b": ""})

    assert {each.text() for each in found} == {
        "design #1: lost",
        "design #2: one",
        "design #2: two",
        "three",
    }
    assert [each.raw for each in lines_of(folder, "", {"a": ""})] == ["lost", "one", "two"]


def test_a_record_is_one_readable_line_with_its_error() -> None:
    raw = record("2026-01-01T10:00:01.123456+00:00", "starts", kit_id=3, job_id="j", attempt=2)
    line = LogLine(time="", source="doe", raw=raw)
    assert line.text() == "10:00:01.123 INFO    doe starts kit_id=3 job_id=j attempt=2"

    failed = LogLine(time="", source="doe", raw=record("", "oh", error="Traceback\nKeyError"))
    assert failed.text().endswith("doe oh\nTraceback\nKeyError")


@pytest.mark.parametrize("raw", ["plain", "[1]", '{"a": 1}', '"text"', "{"])
def test_what_is_no_record_is_told_as_it_is(raw: str) -> None:
    assert LogLine(time="", source="doe", raw=raw).text() == f"doe: {raw}"


def test_only_the_end_of_a_huge_file_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "TAIL_BYTES", 60)
    text = "".join(f"line {at}\n" for at in range(1000))
    (folder / "jobs" / "b" / "1.log").write_text(text)

    found = [each.raw for each in lines_of(folder, "", {"b": ""})]

    assert found == [f"line {at}" for at in range(1000 - len(found), 1000)]
    assert 5 <= len(found) <= 7


def test_bytes_that_are_no_text_do_no_harm(folder: Path) -> None:
    (folder / "jobs" / "b" / "1.log").write_bytes(b"\xff\xfe\n")

    assert [each.raw for each in lines_of(folder, "", {"b": ""})] == ["\ufffd\ufffd"]


def test_what_is_added_is_followed_also_in_new_and_rotated_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.01)
    lines: Iterator[LogLine] = follow_lines(folder, "", {"a": "design"})
    path = folder / "jobs" / "a" / "2.log"

    def write(file: Path, text: str, mode: str = "a") -> None:
        with file.open(mode) as opened:
            opened.write(text)

    # The iterator notes where the files end when it is first asked.
    threading.Timer(0.2, write, (path, "three\nfo")).start()
    assert next(lines).raw == "three"
    write(path, "ur\nfive\n")
    assert [next(lines).raw for _ in range(2)] == ["four", "five"]
    write(folder / "jobs" / "a" / "3.log", "six\n")
    assert next(lines).text() == "design #3: six"
    write(path, "new\n", "w")
    assert next(lines).raw == "new"
