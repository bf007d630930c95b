"""Datasets as values, on a terminal, and as record batches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner, Result

from tests.unit.client.scripted import ScriptedRegistry  # type: ignore[import-not-found]
from vistaflow._datasets import DatasetFigures, bars, summary_of
from vistaflow.aio._data.record_batches import batch_reader, write_batches
from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.cli.app import app
from vistaflow.cli.data import figures
from vistaflow.errors import InternalError, MissingPackageError, NotFoundError


def answer() -> datasets_pb2.GetDatasetResponse:
    """Korean reviews: a table with a profile, and one without."""
    message = datasets_pb2.GetDatasetResponse()
    message.dataset.name = "reviews"
    message.dataset.aliases["production"] = 3
    message.version.version = 3
    message.version.source = "raw/reviews.ndjson\x1b[2J"
    message.version.created_at.CopyFrom(Timestamp(seconds=1_700_000_000))
    reviews = message.tables.add(
        name="reviews", rows=1200, read_rows=1500, profiled=True, primary_key=["review_id"]
    )
    reviews.rejected.update({"duplicate": 200, "rated": 100})
    reviews.columns.add(name="review_id", type="BIGINT", distinct_count=1200)
    reviews.columns.add(
        name="아주 긴 이름을 가진 한국어 열", type="VARCHAR", null_count=12, distinct_count=900,
        minimum="가나다라마바사아자차카타파하" * 5, maximum="힣힣힣힣힣힣힣힣힣힣힣힣" * 5,
    )  # fmt: skip
    reviews.columns.add(
        name="rating", type="BIGINT", distinct_count=10, minimum="1", maximum="10",
        bounds=range(1, 21), counts=[8, 0, 4, 1, *[1000] * 16],
    )  # fmt: skip
    movies = message.tables.add(name="movies", rows=3, read_rows=3)
    movies.columns.add(name="movie_id", type="\x1b[2J")
    movies.references.add(columns=["movie_id"], table="reviews", key=["movie_id"])
    movies.orphans["movie_id -> reviews.movie_id"] = 2
    return message


def test_a_version_is_a_value_with_figures() -> None:
    dataset = DatasetFigures(answer())
    assert (dataset.name, dataset.rows, dataset.table_name) == ("reviews@3", 1200, "reviews")
    assert dataset.columns == ("review_id", "아주 긴 이름을 가진 한국어 열", "rating")
    assert dataset.version.created_at is not None
    assert dataset.version.created_at.year == 2023
    assert dataset.report == [
        {
            "table": "reviews", "read": 1500, "accepted": 1200, "dropped": 0,
            "rejected.duplicate": 200, "rejected.rated": 100,
        },
        {
            "table": "movies", "read": 3, "accepted": 3, "dropped": 0,
            "orphans.movie_id -> reviews.movie_id": 2,
        },
    ]  # fmt: skip
    assert dataset.report.to_pandas()["accepted"].tolist() == [1200, 3]
    assert dataset.profile.to_pandas()["maximum"].tolist()[2] == "10"
    assert repr(dataset) == "DatasetFigures(reviews@3, reviews: 1,200 rows)"
    assert DatasetFigures(answer(), "movies").profile == []
    assert DatasetFigures(answer(), rejects=True).rows == 300
    with pytest.raises(NotFoundError, match="has no table moovies; it has reviews, movies"):
        DatasetFigures(answer(), "moovies")


def test_a_notebook_shows_a_version_and_runs_nothing_of_it() -> None:
    message = answer()
    message.tables[0].columns[0].name = "<script>"
    html = DatasetFigures(message)._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "▁▁" in html


def test_a_dataset_without_versions_is_listed() -> None:
    message = datasets_pb2.Dataset(name="whisky", labels={"owner": "ana"})
    summary = summary_of(message)
    assert (summary.latest, summary.created_at, summary.labels) == (None, None, {"owner": "ana"})
    assert repr(summary) == "DatasetSummary(name='whisky', version_count=0)"
    with pytest.raises(NotFoundError, match="dataset whisky has no version yet"):
        DatasetFigures(datasets_pb2.GetDatasetResponse(dataset=message))


@pytest.mark.parametrize(
    ("counts", "bins", "text"),
    [
        ([], 20, ""),
        ([0, 0], 20, "  "),
        ([1, 0, 1_000_000], 20, "▁ █"),
        ([1, 1, 4, 4, 8, 8, 0, 0], 4, "▁▄█ "),
        (list(range(20)), 10, "▁▂▂▃▄▅▆▇██"),
    ],
)
def test_a_histogram_is_a_bar_for_each_bin(counts: list[int], bins: int, text: str) -> None:
    assert bars(counts, bins) == text


@pytest.mark.parametrize("width", [80, 160])
def test_a_version_fits_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=width, force_terminal=True, color_system=None, highlight=False)
    monkeypatch.setattr(figures, "console", console)
    dataset = DatasetFigures(answer())
    with console.capture() as capture:
        console.print(figures.profile_table(dataset.tables[0], width))
    lines = capture.get().splitlines()
    assert max(map(cell_len, lines)) <= width
    # Korean characters are two cells wide: the figures after them are in line with the others.
    columns = {cell_len(re.split(" (?:BIGINT|VARCHAR)", line)[0]) for line in lines[1:]}
    assert len(columns) == 1
    assert ("▁ ▁▁████████████████" if width == 160 else "▁▁████████") in lines[3]

    with console.capture() as capture:
        figures.print_dataset(dataset)
    text = capture.get()
    assert "\x1b[2J" not in text
    assert text.count(r"\x1b[2J") == 2
    assert "weak: 300 of 1,500 rows of reviews are rejected (" in text
    assert "vistaflow dataset read reviews@3 --table reviews --rejects" in text
    assert "2 of 3 rows of movies refer to no row: movie_id -> reviews.movie_id" in text
    assert "-> reviews.movie_id" in text


def call(registry: ScriptedRegistry, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--address", registry.address])


def test_commands_answer_as_text_and_as_json(background: ScriptedRegistry) -> None:
    message = answer()
    listed = datasets_pb2.Dataset(
        project="photonics", name="reviews", latest=message.version, size_bytes=4_160_000
    )
    background.answers = [datasets_pb2.ListDatasetsResponse(datasets=[listed])]
    assert re.search(r"photonics\.reviews +3 .* 4\.16 MB", call(background, "datasets").stdout)

    background.answers = [message]
    said = json.loads(call(background, "dataset", "show", "reviews", "--json").stdout)
    assert said["version"]["version"] == 3
    assert [table["rows"] for table in said["tables"]] == [1200, 3]
    assert "█" in call(background, "dataset", "profile", "reviews").stdout
    without = call(background, "dataset", "profile", "reviews", "--table", "movies")
    assert (without.exit_code, "has no profile" in without.stderr) == (1, True)


def test_what_deletes_is_asked_for_and_told(background: ScriptedRegistry, tmp_path: Path) -> None:
    refused = call(background, "dataset", "delete", "reviews")
    assert (refused.exit_code, background.requests) == (2, [])
    assert "Delete reviews with all its versions? Say so by --yes" in refused.stderr

    background.answers = [datasets_pb2.DeleteDatasetResponse(version_count=2)]
    assert call(background, "dataset", "delete", "reviews@3", "-y").stdout == "2 versions deleted\n"
    (request,) = background.requests
    assert (request.dataset, request.version) == ("reviews", 3)

    (tmp_path / "keys.csv").write_text("id\n")
    empty = call(background, "dataset", "forget", "x", "--keys", str(tmp_path / "keys.csv"))
    assert (empty.exit_code, "has no keys below its header" in empty.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["update", "x", "--quota", "many"], "--quota: 'many' is no size"),
        (["update", "x", "--max-age", "90"], "--max-age: '90' is no span"),
        (["read", "x", "--csv", "--json"], "--json: give one format only"),
        (["import", "x"], "give NAME and SOURCE, or --spec FILE"),
        (["import", "x", "a.csv", "--type", "b"], "--type: 'b' has no type"),
        (["import", "--spec", "none.yaml"], "none.yaml: No such file or directory"),
    ],
)
def test_a_wrong_command_says_what_to_give(
    background: ScriptedRegistry, arguments: list[str], said: str
) -> None:
    told = call(background, "dataset", *arguments)
    assert told.exit_code == 2
    assert said in told.stderr


TABLE = pa.table({"pk": ["a", "b", None], "price": [1.5, None, 3.0]})


async def stream(table: pa.Table, block: int = 7) -> AsyncGenerator[bytes, None]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    content = sink.getvalue().to_pybytes()
    for start in range(0, len(content), block):
        yield content[start : start + block]


async def test_batches_are_read_by_a_thread_while_the_loop_runs(tmp_path: Path) -> None:
    async with batch_reader(stream(TABLE)) as reader:
        assert await asyncio.to_thread(reader.read_all) == TABLE
    for kind, read in (("parquet", pq.read_table), ("arrow", pyarrow.feather.read_table)):
        async with batch_reader(stream(TABLE)) as reader:
            await asyncio.to_thread(write_batches, reader, kind, tmp_path / kind)
        assert read(tmp_path / kind) == TABLE
    async with batch_reader(stream(TABLE.slice(0, 0))) as reader:
        assert await asyncio.to_thread(reader.read_all) == TABLE.slice(0, 0)


async def test_without_pyarrow_an_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'vistaflow\[arrow\]'"):
        async with batch_reader(stream(TABLE)):
            pass


async def test_an_error_of_the_stream_is_the_error_of_the_reader() -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        async for block in stream(TABLE, 200):
            yield block
            raise InternalError("a part is damaged")

    with pytest.raises(InternalError, match="a part is damaged"):
        async with batch_reader(broken()) as reader:
            await asyncio.to_thread(reader.read_all)


async def test_a_reader_that_is_left_ends_the_stream_and_its_thread() -> None:
    waits, ended = asyncio.Event(), asyncio.Event()

    async def stalled() -> AsyncGenerator[bytes, None]:
        try:
            async for block in stream(TABLE.slice(0, 1), 100):
                yield block
                waits.set()
                await asyncio.Event().wait()
        finally:
            ended.set()

    async def read() -> None:
        async with batch_reader(stalled()) as reader:
            await asyncio.to_thread(reader.read_all)

    before = threading.active_count()
    task = asyncio.create_task(read())
    await waits.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert ended.is_set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert threading.active_count() <= before
