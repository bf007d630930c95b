from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread
from numpy.testing import assert_array_equal

from vistaflow._rows import guarded
from vistaflow_services.decks.space import Kind, Parameter, Scale, Space
from vistaflow_services.designs import table
from vistaflow_services.designs.generators import generate
from vistaflow_services.designs.recipe import Generator, Recipe, Region
from vistaflow_services.designs.table import Results
from vistaflow_services.doe.plots import plot_design, plot_responses

REGION = Region(
    space=Space(
        parameters=(
            Parameter(name="tox", low=1e-9, high=1e-8, scale=Scale.LOG, unit="m"),
            Parameter(name="n", kind=Kind.INTEGER, low=1, high=8),
            Parameter(name="gate", kind=Kind.CATEGORICAL, choices=("poly", 'me,"tal')),
            Parameter(name="width", kind=Kind.ORDINAL, choices=(1, 2, 5)),
            *(Parameter(name=f"x{at}", low=0.0, high=1.0) for at in range(4)),
        )
    )
)


def made(count: int) -> tuple[dict[str, np.ndarray], Results]:
    columns = generate(Recipe(generator=Generator.LHS, size=count, seed=1), REGION).columns
    ion = columns["n"] * 1e-3 / columns["tox"]
    failures: list[str | None] = [None] * count
    failures[1] = "TIMEOUT"
    ion[1] = np.nan
    results = Results(
        responses={"ion": ion, "gain": np.where(np.isnan(ion), np.nan, columns["x3"])},
        failures=failures,
        messages=["no answer" if each else "" for each in failures],
        seconds=np.full(count, 0.25),
    )
    return dict(columns), results


def test_a_table_gives_back_what_was_written(tmp_path: Path) -> None:
    columns, results = made(10)
    path = tmp_path / "design.parquet"
    table.write_table(path, columns, results, {"generator": "lhs", "seed": 1})
    names = REGION.space.names
    assert pq.read_schema(path).names == [
        "row_id",
        *(f"x.{name}" for name in names),
        "y.ion",
        "y.gain",
        "failure",
        "message",
        "log",
        "origin",
        "seconds",
    ]
    back = table.read_columns(path, REGION.space)
    assert REGION.space.points(back) == REGION.space.points(columns)
    assert table.read_about(path) == {"generator": "lhs", "seed": 1}
    rows = list(table.iterate_rows(path))
    assert [row["row_id"] for row in rows] == list(range(10))
    assert (rows[1]["y.ion"], rows[1]["failure"]) == (None, "TIMEOUT")
    assert (rows[2]["y.ion"], rows[2]["failure"]) == (results.responses["ion"][2], None)
    assert [each.name for each in tmp_path.iterdir()] == ["design.parquet"]


def test_a_design_that_was_not_run_has_no_values(tmp_path: Path) -> None:
    columns, _ = made(3)
    path = tmp_path / "design.parquet"
    table.write_table(path, columns, Results.not_run(3, ["ion"]), {})
    assert [(row["y.ion"], row["failure"], row["seconds"]) for row in table.iterate_rows(path)] == [
        (None, None, None)
    ] * 3


@pytest.mark.parametrize(
    ("offset", "limit", "wanted"),
    [
        (0, 0, range(10_000)),
        (4000, 200, range(4000, 4200)),
        (8192, 0, range(8192, 10_000)),
        (9_999, 5, [9999]),
        (10_000, 0, []),
        (50_000, 3, []),
    ],
)
def test_rows_are_read_from_any_place_across_row_groups(
    tmp_path: Path, offset: int, limit: int, wanted: range | list[int]
) -> None:
    columns, results = made(10_000)
    path = tmp_path / "design.parquet"
    table.write_table(path, columns, results, {})
    rows = table.iterate_rows(path, offset=offset, limit=limit)
    assert [row["row_id"] for row in rows] == list(wanted)


def test_csv_quotes_what_needs_it_and_comes_in_chunks(tmp_path: Path) -> None:
    columns, results = made(2000)
    path = tmp_path / "design.parquet"
    table.write_table(path, columns, results, {})
    chunks = list(table.iterate_csv(path, chunk_bytes=10_000, cell=guarded))
    assert len(chunks) > 10
    assert max(map(len, chunks)) < 11_000
    rows = list(csv.DictReader(io.StringIO(b"".join(chunks).decode(), newline="")))
    assert len(rows) == 2000
    assert {row["x.gate"] for row in rows} == {"poly", 'me,"tal'}
    assert [float(row["x.tox"]) for row in rows] == columns["tox"].tolist()
    assert (rows[1]["y.ion"], rows[1]["failure"]) == ("", "TIMEOUT")


def test_no_text_of_csv_is_a_formula() -> None:
    row = {"x.gate": "=1+1", "x.tox": -1.5e-9, "failure": None, "message": "-1 V: no convergence"}
    (chunk,) = table.csv_of(list(row), [row], chunk_bytes=10_000, cell=guarded)
    (read,) = csv.DictReader(io.StringIO(chunk.decode(), newline=""))
    assert read == {
        "x.gate": "'=1+1",
        "x.tox": "-1.5e-09",
        "failure": "",
        "message": "'-1 V: no convergence",
    }


def test_the_file_itself_comes_in_chunks(tmp_path: Path) -> None:
    columns, results = made(2000)
    path = tmp_path / "design.parquet"
    table.write_table(path, columns, results, {})
    chunks = list(table.iterate_file(path, chunk_bytes=1000))
    assert b"".join(chunks) == path.read_bytes()
    assert len(chunks) > 1


def test_the_same_design_is_the_same_file(tmp_path: Path) -> None:
    columns, results = made(50)
    for name in ("one", "other"):
        table.write_table(tmp_path / name, columns, results, {"seed": 1})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("fixed", [{}, {"x0": 0.5, "x1": 0.5, "x2": 0.5, "x3": 0.5, "n": 2}])
def test_pictures_are_drawn_of_designs_run_and_not_run(
    tmp_path: Path, fixed: dict[str, float]
) -> None:
    region = Region(space=REGION.space, fixed=fixed)
    columns, results = made(60)
    units = {"ion": "A/um"}
    plot_design(region, columns, results, units=units).savefig(tmp_path / "run.png")
    plot_design(region, columns, Results.not_run(60, ["ion"]), units=units).savefig(
        tmp_path / "made.png"
    )
    plot_responses(region, columns, results, units=units).savefig(tmp_path / "responses.png")
    pictures = {path.name: imread(path) for path in tmp_path.iterdir()}
    assert sorted(pictures) == ["made.png", "responses.png", "run.png"]
    for picture in pictures.values():
        assert min(picture.shape[:2]) > 300
        assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 5
    assert pictures["made.png"].shape != pictures["run.png"].shape or not np.array_equal(
        pictures["made.png"], pictures["run.png"]
    )


def test_of_many_parameters_those_that_move_the_response_are_drawn() -> None:
    from vistaflow_services.doe.plots import _most_moving

    columns, results = made(200)
    drawn = [each.name for each in _most_moving(REGION, columns, results.responses["ion"])]
    assert len(drawn) == 6
    assert {"tox", "n"} <= set(drawn)
    assert_array_equal(sorted(drawn, key=REGION.space.names.index), drawn)


@pytest.mark.parametrize("count", [1, 2])
def test_the_smallest_designs_are_drawn(tmp_path: Path, count: int) -> None:
    columns = generate(Recipe(generator=Generator.LHS, size=count), REGION).columns
    results = Results(
        responses={"ion": np.ones(count)}, failures=[None] * count, seconds=np.ones(count)
    )
    plot_design(REGION, columns, results, units={}).savefig(tmp_path / "run.png")
    plot_responses(REGION, columns, results, units={}).savefig(tmp_path / "responses.png")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("value", [1e300, 1.7e308, -1.7e308, 5e-324])
def test_a_value_that_no_response_has_spoils_no_picture(tmp_path: Path, value: float) -> None:
    columns = generate(Recipe(generator=Generator.LHS, size=20, seed=1), REGION).columns
    ion = np.linspace(0.1, 1.0, 20)
    ion[[3, 7]] = value
    results = replace(Results.not_run(20, ["ion"]), responses={"ion": ion}, seconds=np.ones(20))
    plot_design(REGION, columns, results, units={}).savefig(tmp_path / "design.png")
    plot_responses(REGION, columns, results, units={}).savefig(tmp_path / "responses.png")
    assert (tmp_path / "responses.png").stat().st_size > 5_000
