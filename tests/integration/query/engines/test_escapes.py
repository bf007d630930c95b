"""What a query must not do: read others' files, write, wait, or take more than it may."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.integration.query.engines.conftest import Tables
from vistaflow_services.core.errors import ExhaustedError, NotFoundError, ServiceError, TooSlowError
from vistaflow_services.datasets.manifest import Column
from vistaflow_services.query.engines import confinement
from vistaflow_services.query.engines.contract import (
    DataFile,
    FileFormat,
    Limits,
    Progress,
    Query,
    QueryCanceled,
    SourceTable,
)
from vistaflow_services.query.engines.duckdb_engine import DuckDbEngine
from vistaflow_services.query.engines.forking import ForkingServer
from vistaflow_services.query.mistakes import QueryError
from vistaflow_services.query.statement import Dialect, parse

SMALL = Limits(seconds=200, memory_bytes=128 << 20, disk_bytes=16 << 20)

STATEMENTS = (
    "copy (select 1) to 'evil.csv'",
    "copy (select 1) to '{folder}/evil.csv'",
    "attach '{folder}/evil.db'",
    "create table evil as select 1",
    "insert into users values (1)",
    "install httpfs",
    "load httpfs",
    "set memory_limit = '10GB'",
    "reset memory_limit",
    "pragma enable_profiling",
    "export database '{folder}'",
    "select 1; select 2",
    "call pragma_version()",
    "vacuum",
    "checkpoint",
    "begin",
    "create secret s (type s3, key_id 'a', secret 'b')",
)
READS = (
    "from read_text('{secret}')",
    "from read_csv('{secret}')",
    "from read_blob('{secret}')",
    "from read_json('{secret}')",
    "from read_parquet('{secret}')",
    "from '{secret}'",
    'from "{secret}"',
    "from read_text('/proc/self/environ')",
    "from read_text('/etc/passwd')",
    "from read_text('../../../../../../etc/passwd')",
    "from read_text('t0/../../../../../../../etc/passwd')",
    "from glob('/etc/*')",
    "from glob('*')",
    "from read_csv('http://127.0.0.1:1/x.csv')",
    "from parquet_metadata('{secret}')",
    "from sniff_csv('{secret}')",
    "from query('from read_text(''{secret}'')')",
    "from query_table('{secret}')",
    "select getenv('HOME')",
    "select current_setting('temp_directory') where current_setting('temp_directory') <> 'spill'",
    "select getvariable('x') where getvariable('x') is not null",
)
CATALOG = ("from duckdb_settings()", "from duckdb_views()", "select current_setting('x')")
"""What shows where files are: only the check of the text refuses it."""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("the secret of another project")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "result"
    path.mkdir()
    return path


@pytest.mark.parametrize("sql", [*STATEMENTS, *READS, *CATALOG])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_the_text_is_refused_before_anything_runs(sql: str, dialect: Dialect) -> None:
    sql = sql.format(folder="/tmp", secret="/etc/passwd")
    if sql in ("from '/etc/passwd'", 'from "/etc/passwd"'):
        # The name of a table that nobody has.
        assert [name.text for name in parse(sql, dialect=dialect).tables] == ["/etc/passwd"]
        return
    with pytest.raises(QueryError) as caught:
        parse(sql, dialect=dialect)

    assert caught.value.position is not None


@pytest.mark.parametrize("sql", [*STATEMENTS, *READS])
def test_the_engine_refuses_what_the_text_would_hide(
    sql: str, secret: Path, folder: Path, duckdb_engine: DuckDbEngine, tables: Tables
) -> None:
    sql = sql.format(folder=folder, secret=secret)
    source = tables.sources["users"]
    rows, message = 0, ""
    try:
        rows = duckdb_engine.run(Query(sql=sql, tables=(source,)), folder).rows
    except QueryError as error:
        message = error.message

    assert rows == 0
    assert not any(
        text in message for text in ("secret of", str(folder), str(source.files[0].path))
    )
    assert (message == "") == bool(list(folder.iterdir()))


BOMBS = {
    "select list(range) from range(200000000)": "QUERY_MEMORY",
    "select sum(i) from (select unnest(range(1000000000)) as i)": "QUERY_MEMORY",
    "select repeat('a', 1000000000)": "QUERY_MEMORY",
    "select string_agg(repeat('a', 100000), '') from range(100000)": "QUERY_MEMORY",
    "select count(distinct hash(i) || 'x') from range(30000000) t(i)": "QUERY_DISK",
    "select i || 'x' as k from range(30000000) t(i) order by hash(i)": "QUERY_DISK",
}


@pytest.mark.parametrize("sql", BOMBS)
def test_a_bomb_ends_at_its_limit_and_other_queries_continue(
    sql: str, folder: Path, duckdb_engine: DuckDbEngine
) -> None:
    with pytest.raises(ExhaustedError) as caught:
        duckdb_engine.run(Query(sql=sql, dialect=Dialect.DUCKDB), folder, limits=SMALL)

    assert (caught.value.reason, list(folder.iterdir())) == (BOMBS[sql], [])
    assert duckdb_engine.run(Query(sql="select 1"), folder).rows == 1


@pytest.mark.parametrize(
    "sql",
    [
        "with recursive t(i) as (select 1 union all select i + 1 from t) select count(*) from t",
        "with recursive t(i) as (select 1 union select i + 1 from t) select max(i) from t",
        "select lpad('x', 2000000000, 'y')",
        "select sum(a.range * b.range) from range(10000000) a, range(10000000) b",
    ],
)
def test_a_query_without_end_is_stopped_at_its_time(
    sql: str, folder: Path, duckdb_engine: DuckDbEngine
) -> None:
    query = Query(sql=sql, dialect=Dialect.DUCKDB)

    with pytest.raises((TooSlowError, ExhaustedError)):
        duckdb_engine.run(query, folder, limits=replace(SMALL, seconds=1))

    assert list(folder.iterdir()) == []


def test_a_query_that_ignores_interrupts_is_killed(
    folder: Path, duckdb_engine: DuckDbEngine
) -> None:
    reports: list[Progress] = []
    query = Query(
        sql="select sum(i) from (select unnest(range(1000000000)) as i)", dialect=Dialect.DUCKDB
    )

    with pytest.raises(QueryCanceled):
        duckdb_engine.run(
            query,
            folder,
            limits=Limits(memory_bytes=16 << 30),
            should_stop=lambda: len(reports) > 0,
            progress=reports.append,
        )

    assert list(folder.iterdir()) == []


def test_a_nested_text_is_refused_and_not_a_crash() -> None:
    texts = (
        "select " + "(" * 5_000 + "1" + ")" * 5_000,
        "select " + "array[" * 40 + "1" + "]" * 40,
        "select " + "row(" * 40 + "1" + ")" * 40,
        "select " + "not " * 20_000 + "true",
        "select " + "1 + " * 20_000 + "1",
        "select " + "case when true then " * 3_000 + "1" + " end" * 3_000,
        "with " + ",".join(f"a{i} as (select 1)" for i in range(9_000)) + " select 1",
        "select '" + "''" * 40_000,
        "select \"" + '""' * 40_000,
        "select /* " + "/* " * 20_000,
    )  # fmt: skip
    for text in texts:
        with pytest.raises(QueryError):
            parse(text)


def test_quotes_in_names_and_values_stay_what_they_are(
    folder: Path, duckdb_engine: DuckDbEngine, tmp_path: Path
) -> None:
    name = """it's "a" name; drop table x; --"""
    data = tmp_path / "data.csv"
    data.write_text("x\n1\n")
    source = SourceTable(
        relation=(name,),
        columns=(Column(name=name, type="BIGINT"),),
        partitions=(Column(name="k'\"/=", type="VARCHAR"),),
        files=(DataFile(path=data, partition=("a'b/c=d",)), DataFile(path=data, partition=(None,))),
        format=FileFormat.CSV,
    )
    quoted = '"' + name.replace('"', '""') + '"'

    result = duckdb_engine.run(
        Query(sql=f"select * from {quoted} order by 2 nulls last", tables=(source,)), folder
    )

    rows = pq.read_table(result.parts[0].path).to_pylist()
    assert rows == [{name: 1, "k'\"/=": "a'b/c=d"}, {name: 1, "k'\"/=": None}]


def test_a_file_that_is_gone_is_named_by_its_table(
    folder: Path, duckdb_engine: DuckDbEngine, tmp_path: Path
) -> None:
    gone = SourceTable(relation=("mine",), files=(DataFile(path=tmp_path / "gone.parquet"),))

    with pytest.raises(NotFoundError, match="a file of mine is gone") as caught:
        duckdb_engine.run(Query(sql="select * from mine", tables=(gone,)), folder)

    assert caught.value.reason == "SOURCE_GONE"


def test_a_damaged_file_is_named_by_its_table(
    folder: Path, duckdb_engine: DuckDbEngine, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.parquet"
    path.write_bytes(b"PAR1 nothing")
    damaged = SourceTable(relation=("mine",), files=(DataFile(path=path),))

    with pytest.raises(ServiceError, match="mine") as caught:
        duckdb_engine.run(Query(sql="select * from mine", tables=(damaged,)), folder)

    assert str(tmp_path) not in caught.value.message


def confined(action: str, folder: Path, readable: tuple[Path, ...] = ()) -> str:
    """What becomes of an action in a confined process: "done" or the error's class."""
    script = f"""
import os, pathlib, socket, sys
from vistaflow_services.query.engines.confinement import confine
readable = [pathlib.Path(path) for path in {[str(path) for path in readable]!r}]
confine(readable, pathlib.Path({str(folder)!r}), parent=os.getppid(), seconds=60,
        memory=1 << 30, file=1 << 20)
try:
    {action}
    print("done")
except BaseException as error:
    print(type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or f"ended with {done.returncode}: {done.stderr[-300:]}"


@pytest.mark.skipif(
    "Landlock" not in confinement.description(), reason="the kernel has no Landlock"
)
@pytest.mark.parametrize(
    ("action", "outcome"),
    [
        ("open('/etc/passwd').read()", "PermissionError"),
        ("open('/proc/self/environ').read()", "PermissionError"),
        ("os.listdir('/')", "PermissionError"),
        ("open('{folder}/file', 'w').write('x')", "done"),
        ("open('{outside}').read()", "PermissionError"),
        ("open('{readable}').read()", "done"),
        ("open('{readable}', 'a')", "PermissionError"),
        ("os.symlink('{outside}', '{folder}/x'), open('{folder}/x').read()", "PermissionError"),
        ("socket.socket()", "PermissionError"),
        ("socket.socketpair()", "PermissionError"),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
        ("os.kill(os.getppid(), 0)", "PermissionError"),
        ("os.setuid(1000), os.setuid(0)", "PermissionError"),
        ("os.environ['PATH']", "KeyError"),
        ("open('{folder}/large', 'wb').write(bytes(2 << 20))", "OSError"),
        ("bytearray(2 << 30)", "MemoryError"),
    ],
)  # fmt: skip
def test_a_confined_process_can_use_its_files_alone(
    action: str, outcome: str, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    readable, outside = tmp_path / "readable", tmp_path / "outside"
    readable.write_text("x")
    outside.write_text("x")

    action = action.format(folder=folder, readable=readable, outside=outside)

    assert confined(action, folder, (readable,)) == outcome


def test_a_process_without_threads_forks_itself(tables: Tables, tmp_path: Path) -> None:
    script = f"""
import pathlib
from vistaflow_services.query.engines.contract import Query
from vistaflow_services.query.engines.duckdb_engine import DuckDbEngine
from vistaflow_services.query.engines.forking import ForkingServer
result = DuckDbEngine().run(Query(sql="select 7/2 as x"), pathlib.Path({str(tmp_path)!r}))
print(result.rows, result.columns[0].type)
"""

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout == "1 INTEGER\n"


@pytest.mark.parametrize(
    ("number", "outcome"),
    [("SIGTERM", "QueryCanceled"), ("SIGSEGV", "QueryError"), ("SIGKILL", "ExhaustedError")],
)
def test_a_process_that_a_signal_ends_says_why(number: str, outcome: str, tmp_path: Path) -> None:
    script = f"""
import os, pathlib, signal
from vistaflow_services.query.engines import duckdb_engine, forking
from vistaflow_services.query.engines.contract import Query
processes, fork = [], forking.fork
forking.fork = lambda: processes.append(fork()) or processes[0]
sql = "select count(*) from range(1000000000) a, range(1000000000) b"
try:
    duckdb_engine.DuckDbEngine().run(
        Query(sql=sql), pathlib.Path({str(tmp_path)!r}),
        progress=lambda _: os.kill(processes[0].process_id, signal.{number}))
except BaseException as error:
    print(type(error).__name__)
"""

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout == f"{outcome}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_process_ends_with_the_one_that_asked(tmp_path: Path) -> None:
    script = f"""
import os, pathlib
from vistaflow_services.query.engines import child, forking
from vistaflow_services.query.engines.contract import Limits, Query
sql = "select count(*) from range(1000000000) a, range(1000000000) b"
process = forking.fork()
folder = pathlib.Path({str(tmp_path)!r})
request = child.Request(query=Query(sql=sql), limits=Limits(), folder=folder, scratch=folder)
child.send(process.control, __import__("pickle").dumps(request))
process.control.recv(1)
print(process.process_id, flush=True)
os._exit(0)
"""

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    while Path(f"/proc/{int(done.stdout)}").exists():
        time.sleep(0.01)


def test_the_server_has_no_credentials_and_starts_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    server = ForkingServer()
    try:
        process = server.fork()
        environment = Path(f"/proc/{process.process_id}/environ").read_bytes()
        process.close()
        assert b"secret" not in environment
        server._process.kill()  # type: ignore[union-attr]
        server._process.wait()  # type: ignore[union-attr]

        assert DuckDbEngine(server).run(Query(sql="select 1"), folder).rows == 1
    finally:
        server.close()


def test_files_of_the_one_that_forks_are_closed() -> None:
    script = """
import os, time
from vistaflow_services.query.engines import forking
held = [open(os.devnull) for _ in range(20)]
process = forking.fork()
while len(os.listdir(f"/proc/{process.process_id}/fd")) > 5:
    time.sleep(0.01)
process.close()
"""

    subprocess.run([sys.executable, "-c", script], timeout=120, check=True)


@pytest.mark.filterwarnings("error")
def test_a_server_that_nobody_closes_is_closed_before_it_is_collected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The collector began with its process and its socket, which warned that they are open."""
    problems: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", problems.append)
    gc.collect()  # what others left
    problems.clear()
    server = ForkingServer()
    server.fork().close()
    server.cycle = server  # type: ignore[attr-defined]
    del server
    gc.collect()
    assert problems == []


def test_the_process_that_forks_queries_ends_without_any_and_starts_again() -> None:
    server = ForkingServer(idle_seconds=0.05)
    try:
        processes = set()
        for _ in range(2):
            query = server.fork()
            process = server._process
            assert process is not None
            query.close()
            assert process.wait(120) == 0
            processes.add(process.pid)
        assert len(processes) == 2
    finally:
        server.close()


def test_queries_of_one_server_have_random_numbers_of_their_own(tmp_path: Path) -> None:
    # The database that they are forked with is one.
    server = ForkingServer()
    values = set()
    try:
        for number in range(4):
            folder = tmp_path / str(number)
            folder.mkdir()
            query = Query(sql="SELECT random() AS r, uuid() AS u", tables=())
            (part,) = DuckDbEngine(server).run(query, folder).parts
            values |= set(pq.read_table(part.path).to_pylist()[0].values())
    finally:
        server.close()

    assert len(values) == 8


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return [int(number) for number in text.split()]


def test_the_next_process_is_forked_ahead_and_one_that_is_gone_is_replaced(folder: Path) -> None:
    server = ForkingServer()
    try:
        query = server.fork()
        query.close()
        process = server._process
        assert process is not None
        for is_killed in (False, True):
            while (ahead := _children(process.pid)) in ([], [query.process_id]):
                time.sleep(0.01)
            ahead = [number for number in ahead if number != query.process_id]
            if is_killed:
                os.kill(ahead[0], signal.SIGKILL)
                while _children(process.pid):
                    time.sleep(0.01)

            query = server.fork()

            assert (query.process_id in ahead) != is_killed
            query.close()
        assert DuckDbEngine(server).run(Query(sql="select 1"), folder).rows == 1
    finally:
        server.close()


def test_a_process_forked_ahead_serves_the_next_query_alone(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, signal
from vistaflow_services.query.engines import duckdb_engine, forking
from vistaflow_services.query.engines.contract import Query
folder, processes = pathlib.Path({str(tmp_path)!r}), []
close = forking.QueryProcess.close
forking.QueryProcess.close = lambda self: (processes.append(self.process_id), close(self))[1]
for is_killed in (False, True):
    forking.fork_ahead()
    ahead = forking._ahead[0].process_id
    if is_killed:
        os.kill(ahead, signal.SIGKILL)
        while forking._ahead[0].is_alive:
            pass
    for number in range(2):
        duckdb_engine.DuckDbEngine().run(Query(sql="select 1"), folder)
    print(processes.count(ahead), len(processes))
    processes.clear()
"""

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    # The second time the process that was killed is closed as well.
    assert done.stdout == "1 2\n1 3\n"
