"""Datasets against bare DuckDB that does the same, in the same run.

    python benchmarks/datasets.py [--rows 10000000] [--rounds 3]

Every variant is a process of its own, on one thread; the figures are its processor seconds (user
and system, without those of its imports) and its peak memory, in the median of interleaved turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("registry")))

import duckdb
from bench import Table

from vistaflow_services.datasets.build import TableSpec, build
from vistaflow_services.datasets.manifest import Column, Manifest, from_json, to_json
from vistaflow_services.datasets.manifest import Table as DatasetTable
from vistaflow_services.datasets.parts import limited, store_parts
from vistaflow_services.datasets.quality import Dedupe, Rule
from vistaflow_services.datasets.reader import read
from vistaflow_services.datasets.sources import Source
from vistaflow_services.stores.folder import FolderStore

WRITE = "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3, PARQUET_VERSION v2)"
REVIEWS = """
    SELECT hash(range) % {keys} AS id, range AS revision, to_timestamp(1700000000 + range) AS seen,
           (hash(range + 1) % 10000) / 100.0 AS price, 'n' || (range % 1000) AS name,
           md5(range::VARCHAR) AS text
    FROM range({rows})
"""
RULES = (
    Rule(name="price", column="price", minimum=0.05),
    Rule(name="name", column="name", max_length=4),
    Rule(name="text", column="text", pattern="[0-9a-f]{32}"),
    Rule(name="seen", expression="seen is not null and revision >= 0"),
)
JUDGED = """(
    SELECT *, row_number() OVER () AS number, CASE
        WHEN NOT price >= 0.05 THEN 'price' WHEN NOT length(name) <= 4 THEN 'name'
        WHEN NOT regexp_full_match(text, '[0-9a-f]{{32}}') THEN 'text'
        WHEN NOT (seen IS NOT NULL AND revision >= 0) THEN 'seen' END AS rule
    FROM '{source}')"""
LATEST = "row_number() OVER (PARTITION BY id ORDER BY revision DESC)"


def connect() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1, "memory_limit": "512MB"})


def bare_accepted(folder: Path) -> None:
    """Accepted rows, and those of low quality apart."""
    judged, connection = JUDGED.format(source=folder / "reviews.parquet"), connect()
    connection.execute(f"SET temp_directory = '{folder}/spill'")
    columns = "id, revision, seen, price, name, text"
    connection.execute(
        f"COPY (SELECT {columns} FROM {judged} WHERE rule IS NULL QUALIFY {LATEST} = 1) "
        f"TO '{folder}/bare-accepted.parquet' {WRITE}"
    )
    connection.execute(
        f"COPY (SELECT * FROM {judged} WHERE rule IS NOT NULL) "
        f"TO '{folder}/bare-rejects.parquet' {WRITE}"
    )


def bare_all(folder: Path) -> None:
    """Accepted rows, and all others with the reason."""
    judged, connection = JUDGED.format(source=folder / "reviews.parquet"), connect()
    connection.execute(f"SET temp_directory = '{folder}/spill'")
    connection.execute(
        f"CREATE TEMP TABLE ranked AS SELECT *, rule IS NULL AND "
        f"row_number() OVER (PARTITION BY id, rule IS NULL ORDER BY revision DESC) = 1 AS stays "
        f"FROM {judged}"
    )
    for name, condition in (("accepted", "stays"), ("rejects", "NOT stays")):
        connection.execute(
            f"COPY (SELECT * EXCLUDE (stays) FROM ranked WHERE {condition}) "
            f"TO '{folder}/bare-{name}.parquet' {WRITE}"
        )


def own(folder: Path, *, record: bool) -> None:
    build(
        [
            TableSpec(
                name="reviews",
                source=Source(paths=(folder / "reviews.parquet",)),
                dedupe=Dedupe(keep="newest", by="revision", key=("id",), record=record),
                rules=RULES,
            )
        ],
        FolderStore("local", folder / "store"),
        folder,
        with_profile=False,
    )


def bare_read(folder: Path) -> None:
    reader = connect().sql(f"FROM '{folder}/large.parquet'").to_arrow_reader(65_536)
    assert sum(batch.num_rows for batch in reader) > 0


def own_read(folder: Path, name: str = "large") -> None:
    document = json.loads((folder / f"{name}.json").read_text())
    table = from_json(Manifest, document).table(name)
    store = FolderStore("local", folder / "store")
    assert sum(batch.num_rows for batch in read(table, store, folder)) > 0


VARIANTS: dict[str, Callable[[Path], None]] = {
    "imports": lambda folder: None,
    "bare accepted": bare_accepted,
    "own accepted": lambda folder: own(folder, record=False),
    "bare all": bare_all,
    "own all": lambda folder: own(folder, record=True),
    "bare read": bare_read,
    "own read": own_read,
    "own read of a tenth": lambda folder: own_read(folder, "small"),
}


def prepare(folder: Path, rows: int) -> None:
    connection = connect()
    for name, count, columns in (
        ("reviews", rows // 6, "*"),
        ("large", rows, "id, revision, price, name, text"),
        ("small", rows // 10, "id, revision, price, name, text"),
    ):
        reviews = REVIEWS.format(rows=count, keys=count // 2)
        path = folder / f"{name}.parquet"
        connection.execute(f"COPY (SELECT {columns} FROM ({reviews})) TO '{path}' {WRITE}")
        described = connection.execute(f"DESCRIBE FROM '{path}'").fetchall()
        manifest = Manifest(
            tables=(
                DatasetTable(
                    name=name,
                    columns=tuple(Column(name=row[0], type=row[1]) for row in described),
                    parts=store_parts(
                        FolderStore("local", folder / "store"), [path], limited(None)
                    ),
                ),
            )
        )
        (folder / f"{name}.json").write_text(json.dumps(to_json(manifest)))


def measure(variant: str, folder: Path) -> tuple[float, float]:
    """Processor seconds and peak MiB of a variant in a process of its own."""
    command = [sys.executable, __file__, "--variant", variant, "--folder", str(folder)]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, variant
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows that are read")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each variant")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        VARIANTS[options.variant](options.folder)
        return
    with tempfile.TemporaryDirectory(prefix="vistaflow-bench-") as name:
        prepare(Path(name), options.rows)
        turns: dict[str, list[tuple[float, float]]] = {variant: [] for variant in VARIANTS}
        for _ in range(options.rounds):
            for variant in VARIANTS:
                turns[variant].append(measure(variant, Path(name)))
    report({variant: tuple(map(statistics.median, zip(*runs, strict=True)))
            for variant, runs in turns.items()}, options.rows)  # fmt: skip


def report(figures: dict[str, tuple[float, ...]], rows: int) -> None:
    imports = figures.pop("imports")[0]
    figures = {name: (run[0] - imports, run[1]) for name, run in figures.items()}
    table = Table(f"{rows:,} rows read, {rows // 6:,} rows judged; processor seconds and MiB")
    for what in ("accepted", "all"):
        seconds, memory = figures[f"own {what}"]
        bare, bare_memory = figures[f"bare {what}"]
        # 0.8 x the speed is 1.25 x the processor time.
        table.add(f"dedupe and rules, {what}", seconds, "s", against=bare, of="bare", most=1.25)
        table.add("  memory", memory, "MiB", against=bare_memory, of="bare")
    seconds, memory = figures["own read"]
    table.add("read", seconds, "s", against=figures["bare read"][0], of="bare", most=2.5)
    small = figures["own read of a tenth"][1]
    table.add("  memory", memory, "MiB", against=small, of="of a tenth", most=1.5)
    sys.exit(min(table.missed, 1))


if __name__ == "__main__":
    main()
