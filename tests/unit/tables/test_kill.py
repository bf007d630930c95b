"""A conversion that is killed goes on, ends with the same bytes, and leaves no secret behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.tables.test_conversion import KEY, encrypted
from vistaflow_services.tables.engines.choice import has_text_engine

PROGRAM = """
import sys
from pathlib import Path
from vistaflow_services.tables.conversion import Conversion, EngineName, Format, Hooks
from vistaflow_services.tables.run import convert
from vistaflow_services.tables.sources import Aes, Source

source, output, engine, key, iv, workers = sys.argv[1:]
convert(
    [Source(name="x", open=lambda: open(source, "rb"), size=Path(source).stat().st_size,
            aes=Aes(key=key, iv=iv))],
    Conversion(output_file_name="out", max_csv_rows=400, file_sep_size=200,
               engine=EngineName(engine), format=Format.BOTH),
    output=Path(output),
    workers=int(workers),
    hooks=Hooks(progress=lambda progress: print(progress.records, flush=True)),
)
"""
CANARY = "plaintext-canary-4711"
RECORDS = 3_000


def records() -> bytes:
    """Records with a column that comes late, a field that no table shows in this form, children."""
    lines = []
    for number in range(RECORDS):
        late = ',"late":"x"' if number > RECORDS // 2 else ""
        lines.append(
            f'{{"id":{number},"o":{{"{"a" * 3}":"v{number % 7}"}},'
            f'"l":[{{"n":{number}}},{{"n":1}}],"canary":["{CANARY}", 1]{late}}}'
        )
    return ("[" + ",".join(lines) + "]").encode()


def start(source: Path, output: Path, engine: str, workers: int = 1) -> subprocess.Popen[str]:
    arguments = [str(source), str(output), engine, KEY.key, KEY.iv, str(workers)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True
    )


def finish(source: Path, output: Path, engine: str) -> dict[str, bytes]:
    process = start(source, output, engine)
    process.communicate(timeout=200)
    assert process.returncode == 0
    return {path.name: path.read_bytes() for path in output.iterdir()}


def visible(output: Path) -> list[str]:
    return [path.name for path in output.iterdir() if not path.name.startswith(".")]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "encrypted.json"
    path.write_bytes(encrypted(records()))
    return path


ENGINES = [
    pytest.param("python", 2, id="python"),
    pytest.param("duckdb", 1, id="duckdb"),
    pytest.param(
        "text",
        1,
        id="text",
        marks=pytest.mark.skipif(
            not has_text_engine(), reason="chDB is not installed: pip install vistaflow[chdb]"
        ),
    ),
    pytest.param("python", 25, id="python-often", marks=pytest.mark.slow),
    pytest.param("duckdb", 25, id="duckdb-often", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("engine", "kills"), ENGINES)
def test_a_killed_conversion_goes_on_with_the_same_bytes(
    tmp_path: Path, source: Path, engine: str, kills: int
) -> None:
    expected = finish(source, tmp_path / "whole", engine)
    output = tmp_path / "killed"
    moments = random.Random(7)

    for _ in range(kills):
        process = start(source, output, engine, workers=moments.randrange(1, 4))
        assert process.stdout is not None
        for _ in range(moments.randrange(1, 16)):
            if not process.stdout.readline():
                break
        time.sleep(moments.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if "out.manifest.json" not in visible(output):
            assert set(visible(output)) <= set(expected)
        assert_no_secret(tmp_path)

    assert finish(source, output, engine) == expected
    assert [path for path in output.iterdir() if path.is_dir()] == []


def test_a_kill_does_not_cost_what_was_finished(tmp_path: Path, source: Path) -> None:
    process = start(source, tmp_path / "out", "python")
    assert process.stdout is not None
    while int(process.stdout.readline()) < 2_000:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    again = start(source, tmp_path / "out", "python")
    steps = again.communicate(timeout=200)[0].split()

    assert int(steps[0]) > 1_000
    assert int(steps[-1]) == RECORDS


def assert_no_secret(folder: Path) -> None:
    """No file has the key, or the input's text as only the plain input spells it."""
    secrets = (KEY.key.encode(), bytes.fromhex(KEY.key), f'"{CANARY}", 1'.encode())
    for root, _, names in os.walk(folder):
        for name in names:
            content = Path(root, name).read_bytes()
            assert not any(secret in content for secret in secrets), name
