"""Files in a bucket as tables of a query: listed, pruned, downloaded, read."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.stores.conftest import environment, make_bucket
from vistaflow_services.core.errors import ExhaustedError, NotFoundError
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.query.conversion import converted
from vistaflow_services.query.engines.contract import Query
from vistaflow_services.query.engines.duckdb_engine import DuckDbEngine
from vistaflow_services.query.engines.forking import ForkingServer
from vistaflow_services.query.mistakes import QueryError
from vistaflow_services.query.statement import Dialect, parse
from vistaflow_services.query.tables import catalog
from vistaflow_services.query.tables.cache import DownloadCache
from vistaflow_services.query.tables.catalog import Tables
from vistaflow_services.query.tables.inputs import Places, local_tables
from vistaflow_services.stores.bucket import connect
from vistaflow_services.stores.opening import aws_variables, declared_stores
from vistaflow_services.stores.roots import Roots


async def test_a_query_downloads_the_partitions_that_it_needs(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    bucket = make_bucket(moto)
    client: Any = connect("lake", bucket, "", aws_variables("lake", environment(moto)))
    for month in (1, 2, 10):
        content = io.BytesIO()
        pq.write_table(pa.table({"amount": [month * 100]}), content)
        obstore.put(client, f"sales/year=2024/month={month}/part.parquet", content.getvalue())
    artifacts = ArtifactStore(tmp_path / "artifacts")
    roots = Roots.parse(f"lake=s3://{bucket}")
    # Not asked for files.
    tables = Tables(None, artifacts, roots)  # type: ignore[arg-type]
    text = 'select month, amount from files."lake/sales" where month > 1 and year = 2024'
    statement = parse(text)
    table = await tables.find(statement.tables[0], "p", statement.tree)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "result").mkdir()
    relation = (table.name,)

    def places(max_bytes: int) -> Places:
        blobs = declared_stores("", 1, tmp_path / "blobs")
        return Places(
            artifacts=artifacts,
            roots=roots,
            blobs=blobs,
            project="p",
            max_bytes=max_bytes,
            cache=DownloadCache(tmp_path / "cache", 1 << 20),
        )

    def localized(max_bytes: int = 1 << 20) -> Any:
        return local_tables([table], [relation], places(max_bytes), tmp_path / "scratch")

    sql = converted(statement, Dialect.DUCKDB, {statement.tables[0]: relation})
    server = ForkingServer()
    try:
        engine = DuckDbEngine(server)
        with localized() as sources:
            result = engine.run(Query(sql=sql, tables=sources), tmp_path / "result")
            first = [file.path.stat().st_ino for file in sources[0].files]
    finally:
        server.close()

    assert [file.partition for file in table.files] == [("2024", "2"), ("2024", "10")]
    assert pq.read_table(result.parts[0].path).to_pylist() == [
        {"month": 2, "amount": 200},
        {"month": 10, "amount": 1000},
    ]
    assert list((tmp_path / "scratch").iterdir()) == []
    with localized() as sources:  # nothing is downloaded a second time
        assert [file.path.stat().st_ino for file in sources[0].files] == first
    with pytest.raises(ExhaustedError, match="read fewer partitions"), localized(max_bytes=10):
        pass
    obstore.put(client, "sales/year=2024/month=2/part.parquet", b"another")
    with pytest.raises(NotFoundError) as raised, localized():
        pass
    assert raised.value.reason == "SOURCE_GONE"


def _lines(month: int, price: str) -> bytes:
    """An object a line, of which the second has a field that the first has not."""
    more = ', "등급": {"a": [1]}' if month == 2 else ""
    return f'{{"품목": "사과", "price": {price}{more}}}\n'.encode()


FORMATS = {
    "csv": lambda _, price: f"\ufeff품목,price\r\n사과,{price}\r\n".encode(),
    "csv.gz": lambda _, price: gzip.compress(f"품목,price\r\n사과,{price}\r\n".encode()),
    "ndjson": _lines,
    "json": lambda month, price: b"[" + _lines(month, price) + b"]",
}


@pytest.mark.parametrize("suffix", FORMATS)
async def test_texts_in_a_bucket_are_a_table(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    bucket = make_bucket(moto)
    client: Any = connect("lake", bucket, "", aws_variables("lake", environment(moto)))
    for month, price in ((1, "1.10"), (2, "2")):
        data = FORMATS[suffix](month, price)
        obstore.put(client, f"prices/month={month}/part.{suffix}", data)
    artifacts = ArtifactStore(tmp_path / "artifacts")
    roots = Roots.parse(f"lake=s3://{bucket}")
    tables = Tables(None, artifacts, roots)  # type: ignore[arg-type]
    statement = parse('select month, 품목, price from files."lake/prices" order by month')
    table = await tables.find(statement.tables[0], "p", statement.tree)
    for folder in ("scratch", "result"):
        (tmp_path / folder).mkdir(exist_ok=True)
    places = Places(
        artifacts=artifacts,
        roots=roots,
        blobs=declared_stores("", 1, tmp_path / "blobs"),
        project="p",
        max_bytes=1 << 20,
        cache=DownloadCache(tmp_path / "cache", 1 << 20),
    )
    sql = converted(statement, Dialect.DUCKDB, {statement.tables[0]: (table.name,)})
    server = ForkingServer()
    try:
        with local_tables([table], [(table.name,)], places, tmp_path / "scratch") as sources:
            query = Query(sql=sql, tables=sources)
            (part,) = DuckDbEngine(server).run(query, tmp_path / "result").parts
    finally:
        server.close()

    # CSV says no types.
    prices = ["1.10", "2"] if suffix.startswith("csv") else [1.1, 2.0]
    assert pq.read_table(part.path).to_pylist() == [
        {"month": 1, "품목": "사과", "price": prices[0]},
        {"month": 2, "품목": "사과", "price": prices[1]},
    ]


async def test_json_in_a_bucket_is_refused_where_it_is_too_large_or_is_none(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(moto).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(catalog, "MAX_JSON_BYTES", 1 << 20)
    bucket = make_bucket(moto)
    client: Any = connect("lake", bucket, "", aws_variables("lake", environment(moto)))
    obstore.put(client, "large/part.json", b"[" + b" " * (1 << 20) + b"]")
    obstore.put(client, "none/part.ndjson", b"no JSON")
    obstore.put(client, "arrays/part.ndjson", b'[{"a": 1}]\n[{"a": 2}]\n')
    tables = Tables(None, ArtifactStore(tmp_path / "a"), Roots.parse(f"lake=s3://{bucket}"))  # type: ignore[arg-type]

    for folder, problem in (
        ("large", "has 1 MiB of JSON.*convert it"),
        ("none", "is no JSON"),
        ("arrays", "is no JSON with an object a line.*`vistaflow convert`"),
    ):
        statement = parse(f'select * from files."lake/{folder}"')
        with pytest.raises(QueryError, match=problem):
            await tables.find(statement.tables[0], "p", statement.tree)
    assert list((tmp_path / "scratch" / "results").iterdir()) == []
