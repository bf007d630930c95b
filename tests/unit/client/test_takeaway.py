"""Templates of decks, and kits side by side."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.cli.app import app
from vistaflow.cli.files import export
from vistaflow.cli.files.comparison import summary
from vistaflow.cli.files.decks import simulators
from vistaflow.cli.files.export import unpack, write_table
from vistaflow.cli.files.folders import new_folder
from vistaflow.cli.live import waiting_text
from vistaflow.cli.results import held_out
from vistaflow.errors import InvalidArgumentError
from vistaflow.models import Kit, kit_of
from vistaflow_services.decks.archives import read_folder, write_archive
from vistaflow_services.decks.files.loading import parse_deck
from vistaflow_services.pipeline.kitfile import read_kit


def test_there_is_a_template_for_each_simulator() -> None:
    assert simulators() == ["command", "devsim", "grpc", "ngspice", "python", "table"]


@pytest.mark.parametrize("simulator", simulators())
def test_a_template_is_a_deck_with_a_kit(simulator: str, tmp_path: Path) -> None:
    folder = tmp_path / "My amp-2"

    done = CliRunner().invoke(app, ["new", "deck", simulator, str(folder)])

    assert done.exit_code == 0, done.output
    deck = parse_deck(read_folder(folder))
    assert (deck.name, deck.simulator) == ("my_amp_2", simulator)
    archive = write_archive(read_folder(folder))
    spec, mistakes = read_kit((folder / "kit.yaml").read_text(), archive)
    assert mistakes == []
    assert spec.deck.archive == archive


def test_a_folder_that_exists_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")

    for arguments in (["new", "deck", "python", "DIR"], ["export", "7", "--to", "DIR"]):
        words = [str(tmp_path) if word == "DIR" else word for word in arguments]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2
        assert "exists; name a new folder" in done.output.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_unpacked_outside_of_the_folder(tmp_path: Path) -> None:
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../evil.txt", b"x")

    with pytest.raises(InvalidArgumentError, match="outside of the deck"):
        unpack(buffer.getvalue(), tmp_path / "deck")
    assert not (tmp_path / "evil.txt").exists()


def test_a_table_has_the_columns_of_all_rows(tmp_path: Path) -> None:
    rows = [{"a": 1.5, "failure": "TIMEOUT"}, {"a": 2.0, "y": 1e-300, "failure": ""}]

    for name in ("rows.csv", "rows.parquet"):
        write_table(rows, tmp_path / name)

    assert (tmp_path / "rows.csv").read_text() == "a,failure,y\n1.5,TIMEOUT,\n2.0,,1e-300\n"
    from pyarrow import parquet

    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.to_pylist() == [{"y": None, **rows[0]}, rows[1]]


def test_no_text_of_csv_is_a_formula(tmp_path: Path) -> None:
    texts = ["=1+2", "+1", "-cmd", "@sum", "\tx", "'=1", "-1.5e-9", "plain", "'quoted", "a=b", ""]
    write_table([{"=name": text, "n": -2.5} for text in texts], tmp_path / "points.csv")

    with (tmp_path / "points.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["'=name", "n"]
    assert [cell for cell, _ in rows] == [
        "'=1+2", "'+1", "'-cmd", "'@sum", "'\tx", "''=1", "-1.5e-9", "plain", "'quoted", "a=b", ""
    ]  # fmt: skip
    assert {number for _, number in rows} == {"-2.5"}


def test_a_workbook_has_numbers_and_texts_and_no_formulas(tmp_path: Path) -> None:
    pytest.importorskip("xlsxwriter")
    rows = [
        {"a": 1.5, "n": 3, "feasible": True, "message": "=1+2 https://a.example", "log": "\x01-x"},
        {"a": float("inf"), "y": 1e-300, "message": "+cmd|' /C calc'!A0"},
    ]

    write_table(rows, tmp_path / "points.xlsx")

    with zipfile.ZipFile(tmp_path / "points.xlsx") as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
        assert not any("rels" in name and "sheet1" in name for name in book.namelist())
    for text in ("a", "message", "=1+2 https://a.example", "_x0001_-x", "inf"):
        assert f">{text}</t>" in sheet, text
    for cell in ("<v>1.5</v>", "<v>3</v>", "<v>1E-300</v>", 't="b"><v>1</v>'):
        assert cell in sheet, cell
    assert "<f>" not in sheet


def test_a_sheet_has_room_for_so_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("xlsxwriter")
    monkeypatch.setattr(export, "SHEET_ROWS", 3)
    write_table([{"a": 1}] * 2, tmp_path / "points.xlsx")
    with pytest.raises(InvalidArgumentError, match="room for 2 rows; trials has 3"):
        write_table([{"a": 1}] * 3, tmp_path / "trials.xlsx")


def test_a_new_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "whole", "to") as part:
        (part / "a").write_text("a")
        assert not (tmp_path / "whole").exists()

    def fail() -> None:
        with new_folder(tmp_path / "none", "to") as part:
            (part / "a").write_text("a")
            raise OSError("no room")

    with pytest.raises(InvalidArgumentError, match="cannot be written: no room"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_the_verdicts_on_models_are_those_of_the_test_and_none_of_earlier_releases() -> None:
    figures = {"r2": 0.99, "coverage95": 0.8, "rows": 40}
    kit = measured_kit(
        {
            "a": {**figures, "doubts": []},
            "b": {**figures, "doubts": ["few rows"]},
            "before": figures,
            "elsewhere": {"r2": "good"},
        }
    )

    doubts = {name: one.doubts for name, one in held_out(kit).items()}
    assert doubts == {"a": [], "b": ["few rows"], "before": None}


def measured_kit(metrics: dict[str, object]) -> Kit:
    job = common_pb2.Job(
        job_id="j", job_type=common_pb2.JOB_TYPE_ML_TEST, status=common_pb2.STATUS_FINISHED
    )
    job.result.update({"metrics": metrics})
    return kit_of(registry_pb2.Kit(kit_id=3, name="k", jobs=[job]))


def test_a_kit_without_a_result_is_compared_by_its_status() -> None:
    one = summary(kit_of(registry_pb2.Kit(kit_id=3, name="k")), None)
    assert (one["kit_id"], one["settings"]) == (3, {})
    assert "parameters" not in one


@pytest.mark.parametrize(
    ("design", "expected"),
    [
        (common_pb2.STATUS_RUNNING, ["", "waits for design", "waits for train"]),
        (common_pb2.STATUS_FAILED, ["", *["not run: waits for design"] * 2]),
    ],
)
def test_jobs_that_have_not_begun_say_what_they_wait_for(
    design: common_pb2.Status.ValueType, expected: list[str]
) -> None:
    jobs = [
        common_pb2.Job(job_id="1", name="design", status=design),
        common_pb2.Job(
            job_id="2", name="train", status=common_pb2.STATUS_INIT, depends_on=["design"]
        ),
        common_pb2.Job(
            job_id="3", name="optimize", status=common_pb2.STATUS_INIT, depends_on=["train"]
        ),
    ]
    kit = kit_of(registry_pb2.Kit(kit_id=1, status=design, jobs=jobs))

    assert [waiting_text(job, kit) for job in kit.jobs] == expected
