"""Downloads of results that break off anywhere, and rows as values of Python."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vistaflow.aio._data import query_result
from vistaflow.aio._data.query_result import AsyncQueryResult
from vistaflow.api.query.v1 import query_pb2
from vistaflow.errors import InvalidArgumentError, UnavailableError
from vistaflow_services.query.results import pages
from vistaflow_services.query.servicer import ENCODERS

ROWS = 2_000
TABLE = pa.table(
    {
        "n": pa.array(range(ROWS), pa.int64()),
        "text": [f"한글 {n} \"'," + "x" * 400 for n in range(ROWS)],
        "big": pa.array([2**64 + n for n in range(ROWS)], pa.decimal128(38, 0)),
        "list": [[n, None] for n in range(ROWS)],
    }
)


class Breaking:
    """A service whose streams break off after some messages, as often as is said."""

    def __init__(self, path: Path, breaks: list[int]) -> None:
        self.breaks = breaks
        self._path = path

    async def fetch(
        self, request: query_pb2.FetchResultRequest
    ) -> AsyncIterator[query_pb2.FetchResultResponse]:
        left = self.breaks.pop() if self.breaks else 10**9
        encode: Any = ENCODERS[request.format]
        part = pages.PagePart(rows=ROWS, open=lambda: pa.OSFile(str(self._path)))
        rows = pages.Rows(parts=[part], offset=request.offset, limit=request.limit)
        if request.format == query_pb2.RESULT_FORMAT_CSV:
            chunks = pages.csv(rows, header=request.header)
        else:
            chunks = encode(rows)
        offset = request.offset
        for data, count in chunks:
            if not left:
                raise UnavailableError("gone")
            left -= 1
            offset += count
            yield query_pb2.FetchResultResponse(data=data, next_offset=offset if count else 0)
        if not left:
            raise UnavailableError("gone")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pages, "BATCH_ROWS", 300)
    monkeypatch.setattr(pages, "CHUNK_BYTES", 64 << 10)

    async def no_time(seconds: float) -> None:
        """Waits for nothing."""

    monkeypatch.setattr(query_result.asyncio, "sleep", no_time)
    pq.write_table(TABLE, tmp_path / "r.parquet", row_group_size=900)
    return tmp_path / "r.parquet"


def result(path: Path, breaks: list[int]) -> AsyncQueryResult:
    columns = [query_pb2.QueryColumn(name=name) for name in TABLE.column_names]
    query = query_pb2.Query(query_id="q", row_count=ROWS, columns=columns)
    return AsyncQueryResult(query, Breaking(path, breaks).fetch)


@pytest.mark.parametrize("format", ["csv", "json", "json-arrays"])
async def test_a_text_that_broke_off_goes_on_where_its_rows_ended(path: Path, format: str) -> None:
    whole = await result(path, []).read(format)
    assert whole.count(b"\n") == ROWS + (format == "csv")
    choose = random.Random(7)
    for _ in range(10):
        breaks = [choose.randrange(12) for _ in range(choose.randrange(1, 6))]
        assert await result(path, list(breaks)).read(format) == whole, breaks
    part = await result(path, [3]).read(format, offset=100, limit=50)
    assert part.splitlines() == whole.splitlines()[100 + (format == "csv") :][:50]


async def test_a_table_that_broke_off_is_whole(path: Path) -> None:
    assert (await result(path, [0, 2, 1, 5]).to_arrow()).equals(TABLE)
    batches = [batch async for batch in result(path, [1, 0]).chunks(999)]
    assert pa.Table.from_batches(batches).equals(TABLE)
    rows = await result(path, []).fetchall()
    assert rows[7] == (7, TABLE["text"][7].as_py(), Decimal(2**64 + 7), [7, None])


async def test_a_service_that_stays_away_is_an_error(path: Path) -> None:
    with pytest.raises(UnavailableError):
        await result(path, [0] * 20).read("csv")
    with pytest.raises(InvalidArgumentError, match="none of arrow, csv"):
        await result(path, []).read("xml")


async def test_rows_become_a_table_of_sqlite(path: Path, tmp_path: Path) -> None:
    database = tmp_path / "rows.db"

    assert await result(path, []).to_sqlite(database, 'my "table"') == ROWS
    assert await result(path, []).to_sqlite(database, 'my "table"') == ROWS

    with sqlite3.connect(database) as db:
        rows = db.execute('SELECT * FROM "my ""table""" ORDER BY n LIMIT 1 OFFSET 3').fetchall()
    db.close()
    assert rows == [(3, TABLE["text"][3].as_py(), str(2**64 + 3), "[3, null]")]


BEGIN = -719_528
"""Days from 1970 back to the first of January of the year 0."""

FAR = {
    "date": (pa.date32(), [35804357, 0, None, BEGIN], "+000000-01-01"),
    "time": (
        pa.timestamp("us"),
        [35804357 * 86_400 * 10**6 + 1, 0, None, BEGIN * 86_400 * 10**6 - 1],
        "-000001-12-31T23:59:59.999999",
    ),
    "zone": (
        pa.timestamp("ms", "UTC"),
        [35804357 * 86_400 * 10**3 + 7, 0, None, BEGIN * 86_400 * 10**3 - 1],
        "-000001-12-31T23:59:59.999Z",
    ),
}
FIRST = {
    "date": "+099999-01-01",
    "time": "+099999-01-01T00:00:00.000001",
    "zone": "+099999-01-01T00:00:00.007Z",
}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("nested", [False, True])
async def test_times_beyond_the_years_of_python_are_text(
    path: Path, name: str, nested: bool
) -> None:
    kind, counts, last = FAR[name]
    column = pa.array(counts, kind)
    array = pa.array([[{"v": count}] for count in counts], pa.list_(pa.struct({"v": kind})))
    pq.write_table(pa.table({"v": array if nested else column}), path)

    lines = (await result(path, []).read("json")).splitlines()
    csv_lines = (await result(path, []).read("csv")).decode().splitlines()
    rows = await result(path, []).fetchall()

    values = [json.loads(line)["v"] for line in lines]
    plain = [row[0] for row in rows]
    if nested:
        values = [value[0]["v"] for value in values]
        plain = [value[0]["v"] for value in plain]
    assert (values[0], values[2], values[3]) == (FIRST[name], None, last)
    assert values[1].startswith("1970-01-01")
    assert (plain[0], plain[2], plain[3]) == (FIRST[name], None, last)
    assert FIRST[name] in csv_lines[1]
    assert last in csv_lines[4]
