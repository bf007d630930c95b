"""A store in a folder, and imports into it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from vistaflow_services.datasets.build import Built, TableSpec, build
from vistaflow_services.datasets.manifest import Manifest
from vistaflow_services.datasets.reader import read
from vistaflow_services.datasets.sources import Source
from vistaflow_services.stores.blobs import BlobStore
from vistaflow_services.stores.folder import FolderStore

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A store and a folder for temporary files."""

    store: BlobStore
    folder: Path

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def build(self, *tables: TableSpec, **options: Any) -> Built:
        scratch = self.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        built = build(tables, self.store, scratch, **options)
        assert list(scratch.iterdir()) == []
        return built

    def table(self, path: Path | list[Row], **options: Any) -> Built:
        """One table, called `t`, of a file or of rows."""
        source_options = {
            key: options.pop(key)
            for key in ("format", "names", "delimiter", "null_texts", "types")
            if key in options
        }
        source = (
            Source(paths=(path,), **source_options)
            if isinstance(path, Path)
            else Source(reader=pa.Table.from_pylist(path).to_reader())
        )
        limits = {key: options.pop(key) for key in ("memory_bytes", "max_bytes") if key in options}
        return self.build(TableSpec(name="t", source=source, **options), **limits)

    def rows(self, manifest: Manifest, table: str = "t", **options: Any) -> list[Row]:
        batches = read(manifest.table(table), self.store, self.folder, **options)
        return [row for batch in batches for row in batch.to_pylist()]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(store=FolderStore("local", tmp_path / "store"), folder=tmp_path)
