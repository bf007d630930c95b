"""Conversions of small inputs, and their output read back."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vistaflow_services.tables.conversion import Conversion, Converted, EngineName, Hooks
from vistaflow_services.tables.engines.choice import Choice
from vistaflow_services.tables.run import convert
from vistaflow_services.tables.sources import Aes, Source

Record = dict[str, Any]


def source(content: bytes, name: str = "input.json", aes: Aes | None = None) -> Source:
    return Source(name=name, open=lambda: io.BytesIO(content), size=len(content), aes=aes)


class Output:
    """An output folder and what the conversion answered."""

    def __init__(self, folder: Path, converted: Converted) -> None:
        self.folder = folder
        self.converted = converted
        self.manifest: Record = json.loads((folder / converted.manifest_name).read_bytes())

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}

    def table(self, path: str = "") -> list[dict[str, str | None]]:
        """The rows of a table, from its CSV parts; null is None."""
        rows = []
        for part in self.converted.parts:
            if part.table == path:
                header, *lines = read_csv(
                    (self.folder / part.file_name).read_bytes().decode("utf-8-sig")
                )
                rows += [dict(zip(header, line, strict=True)) for line in lines]
        return rows

    def header(self, path: str = "") -> list[str]:
        tables = {table["table"]: table for table in self.manifest["tables"]}
        return [column["name"] for column in tables[path]["columns"]]


CELL = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\n]*))([,\n])')


def read_csv(text: str) -> list[list[str | None]]:
    """Lines of cells as the manifest's conventions say: an empty cell without quotes is null."""
    rows: list[list[str | None]] = [[]]
    position = 0
    while position < len(text):
        cell = CELL.match(text, position)
        assert cell is not None, text[position : position + 80]
        quoted, plain, end = cell.groups()
        rows[-1].append(quoted.replace('""', '"') if quoted is not None else plain or None)
        if end == "\n":
            rows.append([])
        position = cell.end()
    assert rows.pop() == []
    return rows


Convert = Callable[..., Output]


@pytest.fixture(scope="session")
def choices() -> Iterator[dict[EngineName, Choice]]:
    """The engines, each started once: chDB takes seconds to start."""
    started: dict[EngineName, Choice] = {}
    yield started
    for choice in started.values():
        choice.close()


@pytest.fixture
def convert_bytes(tmp_path: Path, choices: dict[EngineName, Choice]) -> Convert:
    """Converts texts; each call has an output folder of its own."""
    count = 0

    def call(
        *contents: bytes,
        engine: EngineName = EngineName.PYTHON,
        aes: Aes | None = None,
        hooks: Hooks | None = None,
        folder: Path | None = None,
        **options: Any,
    ) -> Output:
        nonlocal count
        count += 1
        output = folder or tmp_path / f"output-{count}"
        sources = [
            source(content, f"input{number}.json", aes)
            for number, content in enumerate(contents, 1)
        ]
        settings = Conversion(**{"output_file_name": "out", "engine": engine, **options})
        if engine not in choices:
            choices[engine] = Choice(engine)
        converted = convert(sources, settings, output=output, hooks=hooks, choice=choices[engine])
        return Output(output, converted)

    return call
