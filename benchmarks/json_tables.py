"""Conversions of JSON to CSV against DuckDB and pandas, on generated records of bank customers.

    python benchmarks/json_tables.py [--megabytes 230] [--rounds 3] [--only LINE …]
    python benchmarks/json_tables.py --sizes 100 1000

Each line is a process of its own, from its start to its end: CPU seconds with its children, MB of
input per CPU second, peak RSS (of the process and of its largest child, added), wall time, and the
speed as a ratio to each line of bare DuckDB (typed columns; the cells that a conversion writes; the
same with hashes of all files, but no limit of rows a file and no check for unknown fields; typed
columns with the schema inferred) and to pandas. Medians of interleaved turns count. With `--sizes`,
memory by the size of the input, which repeats a smaller one; 10000 needs 25 GB of disk.
Needs the extra `tables`; the lines of the text engine need `chdb`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

CATEGORIES = {
    "생활/건강": ("생활용품", "건강관리용품", "구강위생용품"),
    "식품": ("냉동/간편조리식품", "건강식품", "축산물"),
    "디지털/가전": ("휴대폰", "노트북", "주변기기"),
    "패션의류": ("여성의류", "남성의류", "언더웨어"),
}
MERCHANTS = ("쿠팡", "네이버쇼핑", "11번가", "G마켓", "무신사", "마켓컬리", "SSG.COM", "오늘의집")
BANKS = ("신한은행", "국민은행", "우리은행", "하나은행", "카카오뱅크", "토스뱅크")
WORDS = (
    "프리미엄",
    "무료배송",
    "정품",
    "대용량",
    "1+1",
    "[Bundle]",
    '"A급"',
    "리필,",
    "위스키",
    "2L",
)
FORMULAS = ('=HYPERLINK("http://x")', "+82-10-1234-5678", "@SUM(1+1)", "\t=1+1", "줄\n바꿈")
AES_KEY, AES_IV = "11" * 32, "22" * 16


class Customers:
    """Records with nested objects and arrays, and how many rows of each table there are."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.counts = dict.fromkeys(("", "orders", "items", "accounts", "transactions"), 0)

    def record(self, number: int) -> dict[str, Any]:
        choose, integer = self._random.choice, self._random.randrange
        orders = [self._order() for _ in range(integer(12))]
        accounts = [
            {
                "account_no": f"{integer(100, 999)}-{integer(10**6, 10**7)}",
                "bank": choose(BANKS),
                "transactions": [self._transaction() for _ in range(integer(25))],
            }
            for _ in range(integer(4))
        ]
        self.counts[""] += 1
        self.counts["orders"] += len(orders)
        self.counts["items"] += sum(len(order["items"]) for order in orders)
        self.counts["accounts"] += len(accounts)
        self.counts["transactions"] += sum(len(account["transactions"]) for account in accounts)
        return {
            "user_id": f"user_{number:09d}",
            "proposal_id": integer(10**18, 9 * 10**18),
            "profile": {"age": integer(18, 90), "scopes": ["bank", "card"][: integer(1, 3)]},
            "shopping": {"orders": orders, "points": integer(10**5)},
            "finance": {"accounts": accounts},
        }

    def _time(self) -> str:
        moment = datetime(2023, 1, 1) + timedelta(seconds=self._random.randrange(86_400 * 700))
        return moment.strftime("%Y-%m-%dT%H:%M:%S+09:00")

    def _order(self) -> dict[str, Any]:
        integer = self._random.randrange
        return {
            "order_no": f"{integer(10**15, 10**16)}",
            "ordered_at": self._time(),
            "merchant": self._random.choice(MERCHANTS),
            "ship": {"zip": f"{integer(99_999):05d}", "memo": None if integer(3) else "문 앞에 🙏"},
            "items": [self._item() for _ in range(integer(1, 5))],
        }

    def _item(self) -> dict[str, Any]:
        integer = self._random.randrange
        category = self._random.choice(tuple(CATEGORIES))
        words = " ".join(self._random.choices(WORDS, k=integer(2, 8)))
        return {
            "goods_id": integer(2**62, 2**63),
            "name": words if integer(50) else self._random.choice(FORMULAS),
            "category": category,
            "sub_category": self._random.choice(CATEGORIES[category]),
            "qty": integer(1, 6),
            "price": integer(1_000, 900_000, 10),
            "rate": round(self._random.random(), 4),
        }

    def _transaction(self) -> dict[str, Any]:
        integer = self._random.randrange
        return {
            "tx_id": integer(10**17, 10**18),
            "at": self._time(),
            "amount": integer(-(10**6), 10**6),
            "balance": integer(10**9) / 100 if integer(3) == 0 else integer(10**9),
            "memo": self._random.choice(MERCHANTS),
        }


def generate(path: Path, megabytes: int, seed: int) -> dict[str, int]:
    """Writes one line with one array, and answers the true numbers of rows."""
    customers = Customers(seed)
    size = number = 0
    with path.open("wb") as file:
        file.write(b"[")
        while size < megabytes * 1_000_000:
            record = customers.record(number)
            text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
            size += file.write((b"," if number else b"") + text)
            number += 1
        file.write(b"]")
    return customers.counts


def encrypt(source: Path, target: Path) -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.padding import PKCS7

    cipher = Cipher(algorithms.AES(bytes.fromhex(AES_KEY)), modes.CBC(bytes.fromhex(AES_IV)))
    encryptor, padder = cipher.encryptor(), PKCS7(128).padder()
    with source.open("rb") as plain, target.open("wb") as file:
        while chunk := plain.read(1 << 20):
            file.write(encryptor.update(padder.update(chunk)))
        file.write(encryptor.update(padder.finalize()) + encryptor.finalize())


def connect(output: Path) -> Any:
    import duckdb

    connection = duckdb.connect()
    connection.execute(
        "SET threads = 1; SET memory_limit = '512MB'; SET enable_progress_bar = false;"
        f"SET temp_directory = '{output}/spill'"
    )
    return connection


def schema_of(path: Path) -> str:
    """The schema that DuckDB infers from all records, with times as the texts that they are."""
    described = connect(path.parent).sql(
        f"DESCRIBE SELECT * FROM read_json('{path}', format = 'array', sample_size = -1)"
    )
    columns = ", ".join(f"'{row[0]}': '{row[1]}'" for row in described.fetchall())
    return f"{{{columns.replace('TIMESTAMP WITH TIME ZONE', 'VARCHAR')}}}"


def bare_duckdb(source: Path, output: Path, columns: str) -> None:
    """The five tables by SQL alone: one parse into a table, one COPY a table."""
    connection = connect(output)
    connection.execute(
        f"CREATE TEMP TABLE t AS SELECT * FROM read_json('{source}', format = 'array', "
        f"columns = {columns}, maximum_object_size = 16777216)"
    )
    orders = "SELECT user_id, unnest(shopping.orders) o FROM t"
    accounts = "SELECT user_id, unnest(finance.accounts) a FROM t"
    items = f"SELECT user_id, o.order_no, unnest(o.items) i FROM ({orders})"
    transactions = f"SELECT user_id, a.account_no, unnest(a.transactions) x FROM ({accounts})"
    queries = {
        "users": "SELECT user_id, proposal_id, profile.age, to_json(profile.scopes) scopes, "
        "shopping.points FROM t",
        "orders": f"SELECT user_id, o.order_no, o.ordered_at, o.merchant, o.ship.zip, o.ship.memo "
        f"FROM ({orders})",
        "items": f"SELECT user_id, order_no, unnest(i) FROM ({items})",
        "accounts": f"SELECT user_id, a.account_no, a.bank FROM ({accounts})",
        "transactions": f"SELECT user_id, account_no, unnest(x) FROM ({transactions})",
    }
    for name, query in queries.items():
        connection.execute(f"COPY ({query}) TO '{output}/{name}.csv' (HEADER)")


CELLS = {
    "users": "user_id proposal_id profile.age profile.scopes shopping.points",
    "orders": "e.order_no e.ordered_at e.merchant e.ship.zip e.ship.memo",
    "items": "e.goods_id e.name e.category e.sub_category e.qty e.price e.rate",
    "accounts": "e.account_no e.bank",
    "transactions": "e.tx_id e.at e.amount e.balance e.memo",
}
NUMBER = r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?"


def same_by_duckdb(source: Path, output: Path, columns: str) -> None:
    """The cells that a conversion writes: texts, quoted and guarded, with the keys of each row."""
    connection = connect(output)
    texts = columns.replace("VARCHAR[]", "VARCHAR")
    for kind in ("BIGINT", "DOUBLE", "HUGEINT"):
        texts = texts.replace(kind, "VARCHAR")
    connection.execute(
        "CREATE TEMP TABLE t AS SELECT row_number() OVER () AS _row, * FROM "
        f"read_json('{source}', format = 'array', columns = {texts}, "
        "maximum_object_size = 16777216)"
    )

    def children(rows: str, path: str) -> str:
        index = f"unnest(range(len({path}))) + 1"
        return (
            f"SELECT _row::VARCHAR || '#' || ({index})::VARCHAR AS _row, _row AS _parent, "
            f"{index} AS _index, unnest({path}) AS e FROM {rows}"
        )

    def guarded(cell: str) -> str:
        return (
            f"CASE WHEN ascii({cell}) IN (9, 13, 39, 43, 45, 61, 64) AND "
            f"regexp_matches({cell}, '^''*[=+@\\t\\r-]') AND NOT regexp_full_match({cell}, "
            f"'{NUMBER}') THEN '''' || {cell} ELSE {cell} END AS \"{cell}\""
        )

    orders, accounts = children("t", "shopping.orders"), children("t", "finance.accounts")
    rows = {
        "users": "t",
        "orders": f"({orders})",
        "items": f"({children(f'({orders})', 'e.items')})",
        "accounts": f"({accounts})",
        "transactions": f"({children(f'({accounts})', 'e.transactions')})",
    }
    for name, source_rows in rows.items():
        keys = "_row" if name == "users" else "_row, _parent, _index"
        cells = ", ".join(map(guarded, CELLS[name].split()))
        connection.execute(
            f"COPY (SELECT {keys}, {cells} FROM {source_rows}) TO '{output}/{name}.csv' "
            "(HEADER, FORCE_QUOTE *)"
        )


def manifest_by_duckdb(source: Path, output: Path, columns: str) -> None:
    """The same cells, and what a conversion does besides: files on disk, hashed as the input is."""
    same_by_duckdb(source, output, columns)
    for path in (source, *output.glob("*.csv")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            hashlib.file_digest(file, "sha256")


def pandas_normalize(source: Path, output: Path, chunk: int = 1_000) -> None:
    """`json_normalize` for each table, 1,000 records at a time."""
    import pandas as pd

    paths = {
        "orders": ["shopping", "orders"],
        "items": ["shopping", "orders", "items"],
        "accounts": ["finance", "accounts"],
        "transactions": ["finance", "accounts", "transactions"],
    }
    records = json.loads(source.read_bytes())
    for first in range(0, len(records), chunk):
        batch = records[first : first + chunk]
        pd.json_normalize(batch).to_csv(output / "users.csv", mode="a", index=False)
        for name, path in paths.items():
            frame = pd.json_normalize(batch, path, ["user_id"])
            frame.to_csv(output / f"{name}.csv", mode="a", index=False)


def ours(
    engine: str, source: Path, output: Path, encrypted: bool = False, workers: int = 1
) -> None:
    from vistaflow_services.tables.conversion import Conversion, EngineName
    from vistaflow_services.tables.run import convert
    from vistaflow_services.tables.sources import Aes, Source

    aes = Aes(key=AES_KEY, iv=AES_IV) if encrypted else None
    size = source.stat().st_size
    convert(
        [Source(name="x", open=lambda: source.open("rb"), size=size, aes=aes)],
        Conversion(output_file_name="out", engine=EngineName(engine)),
        output=output,
        workers=workers,
    )


def summarize(source: Path) -> None:
    from vistaflow_services.tables.shopping import summarize_shopping
    from vistaflow_services.tables.sources import Source

    with source.open("rb") as file:
        record = json.JSONDecoder().raw_decode(file.read(1 << 20)[1:].decode("utf-8", "ignore"))[0]
    summarize_shopping(
        Source(name="x", open=lambda: source.open("rb")),
        user_id=record["user_id"],
        proposal_id=str(record["proposal_id"]),
    )


def run_one(name: str, folder: Path) -> None:
    """What one line measures, in this process, and its figures on standard output."""
    source, small = folder / "array.json", folder / "sample.json"
    output = Path(tempfile.mkdtemp(dir=folder))
    known = (folder / "schema").read_text()
    tasks: dict[str, Callable[[], None]] = {
        "duckdb-known": lambda: bare_duckdb(source, output, known),
        "duckdb-same": lambda: same_by_duckdb(source, output, known),
        "duckdb-manifest": lambda: manifest_by_duckdb(source, output, known),
        "duckdb-inferred": lambda: bare_duckdb(source, output, schema_of(source)),
        "pandas": lambda: pandas_normalize(small, output),
        "convert-duckdb": lambda: ours("duckdb", source, output),
        "convert-duckdb-aes": lambda: ours("duckdb", folder / "encrypted.json", output, True),
        "convert-duckdb-two": lambda: ours("duckdb", source, output, workers=2),
        "convert-text": lambda: ours("text", source, output),
        "convert-text-two": lambda: ours("text", source, output, workers=2),
        "convert-python": lambda: ours("python", small, output),
        "summarize": lambda: summarize(source),
    }
    begin = time.perf_counter()
    tasks[name]()
    wall = time.perf_counter() - begin
    shutil.rmtree(output)
    own = resource.getrusage(resource.RUSAGE_SELF)
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + child.ru_utime + child.ru_stime
    # `ru_maxrss` of this process would count the memory of the one that started it.
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    print(json.dumps([cpu, wall, (peak + child.ru_maxrss) >> 10]))


BASES = {
    "known": "duckdb-known",
    "same": "duckdb-same",
    "manif.": "duckdb-manifest",
    "infer.": "duckdb-inferred",
    "pandas": "pandas",
}
"""Lines that the speed of the others is a ratio to."""

SMALL = ("convert-python", "pandas")
"""Lines that are slow, and get a tenth of the input."""


def measure(name: str, folder: Path) -> tuple[float, float, int]:
    """CPU seconds, wall seconds and peak RSS in MiB of a line in a process of its own."""
    # Without compiled modules, the start would cost more than the conversion.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["OPENBLAS_NUM_THREADS"] = "1"  # as jobs have it
    answer = subprocess.run(
        [sys.executable, __file__, "--one", name, "--folder", folder],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    cpu, wall, rss = json.loads(answer)
    return cpu, wall, rss


def compare(folder: Path, names: list[str], rounds: int) -> None:
    turns: dict[str, list[tuple[float, float, int]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            turns[name].append(measure(name, folder))
    head = ("CPU s", "MB/s", "RSS MiB", "wall s", *BASES)
    print(f"{'':20}", *(f"{title:>7}" for title in head), f" load {os.getloadavg()[0]:.1f}")
    files = {name: folder / ("sample.json" if name in SMALL else "array.json") for name in names}
    speeds = {
        name: files[name].stat().st_size / 1e6 / median(run[0] for run in runs)
        for name, runs in turns.items()
    }
    for name, runs in turns.items():
        cpu, wall, rss = (median(figures) for figures in zip(*runs, strict=True))
        ratios = [
            f"{speeds[name] / speeds[base]:7.2f}" if base in speeds else f"{'':7}"
            for base in BASES.values()
        ]
        print(f"{name:20} {cpu:7.2f} {speeds[name]:7.0f} {rss:7.0f} {wall:7.2f}", *ratios)


def repeat(source: Path, target: Path, megabytes: int) -> None:
    """Writes the array of a file again and again, as one array of a size."""
    records = source.read_bytes()[1:-1]
    with target.open("wb") as file:
        file.write(b"[" + records)
        for _ in range(round(megabytes * 1_000_000 / len(records)) - 1):
            file.write(b"," + records)
        file.write(b"]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=int, default=230)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--sizes", nargs="*", type=int)
    parser.add_argument("--folder", type=Path, help="where the data are put for the time")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run_one(arguments.one, arguments.folder)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        megabytes = min(arguments.sizes or [arguments.megabytes])
        counts = generate(folder / "array.json", megabytes, arguments.seed)
        generate(folder / "sample.json", max(1, megabytes // 10), arguments.seed)
        (folder / "schema").write_text(schema_of(folder / "sample.json"))
        engines = ["convert-duckdb", *(["convert-text"] if find_spec("chdb") else [])]
        if arguments.sizes:
            (folder / "array.json").rename(folder / "first.json")
            for size in arguments.sizes:
                print(f"{size:,} MB")
                repeat(folder / "first.json", folder / "array.json", size)
                compare(folder, arguments.only or engines, 1)
            return
        encrypt(folder / "array.json", folder / "encrypted.json")
        print(f"{megabytes} MB, rows: {counts}")
        bases = ["duckdb-known", "duckdb-same", "duckdb-manifest", "duckdb-inferred"]
        names = [*bases, *engines, "convert-duckdb-aes"]
        names += [f"{engine}-two" for engine in engines]
        names += ["convert-python", "pandas", "summarize"]
        compare(folder, arguments.only or names, arguments.rounds)


if __name__ == "__main__":
    main()
