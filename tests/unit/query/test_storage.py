"""Where the parts of results are: on disk before their list, or in the stores."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vistaflow_services.core.errors import DataLossError, NotFoundError, UnavailableError
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.query_results import (
    PARTS,
    remove_results,
    stored_parts,
)
from vistaflow_services.core.work.uris import DOWNLOADS
from vistaflow_services.query.engines.contract import ResultPart
from vistaflow_services.query.results import pages, storage
from vistaflow_services.query.results.storage import Storage
from vistaflow_services.stores.blobs import describe

QUERY = str(uuid.uuid4())
CONTENT = [[0, 1], [2, 3, 4], [5]]
"""Rows of each part."""


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def folder(artifacts: ArtifactStore) -> Path:
    """That of a result whose parts are written."""
    folder = artifacts.open_prefix(QUERY, 1) / "result"
    folder.mkdir()
    return folder


def written(folder: Path) -> list[ResultPart]:
    parts = []
    for number, values in enumerate(CONTENT):
        path = folder / f"part-{number:04}.parquet"
        pq.write_table(pa.table({"n": values}), path)
        parts.append(ResultPart(path=path, rows=len(values), bytes=path.stat().st_size))
    return parts


def storage_of(artifacts: ArtifactStore, cache_bytes: int = 0) -> Storage:
    scratch = artifacts.root.parent / "scratch"
    return Storage(artifacts=artifacts, scratch=scratch, cache_bytes=cache_bytes)


def kept(artifacts: ArtifactStore, folder: Path, cache_bytes: int = 0) -> dict[str, Any]:
    """What a job publishes of the parts, once they are stored."""
    about = {"query_id": QUERY, "columns": []}
    published = storage_of(artifacts, cache_bytes).keep(folder, written(folder), about, "p")
    return {"result_path": artifacts.uri(folder), **published}


def values_of(parts: list[pages.PagePart], **fields: int) -> list[int]:
    content = b"".join(chunk for chunk, _ in pages.arrow(pages.Rows(parts=parts, **fields)))
    numbers: list[int] = pa.ipc.open_stream(content).read_all()["n"].to_pylist()
    return numbers


def test_parts_are_on_disk_before_their_list(
    artifacts: ArtifactStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, synced, fsync = written(folder), list[str](), os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    published = storage_of(artifacts).keep(folder, parts, {"query_id": QUERY}, "p")
    before = synced[: [path.startswith(f"{folder}/.") for path in synced].index(True)]
    assert {str(part.path) for part in parts} == {*before}
    # What the folders list is there before the job is over.
    assert synced[-2:] == [str(folder), str(folder.parent)]
    # What the job publishes of them is not put there a second time.
    synced.clear()
    artifacts.settle_described(published)
    assert synced == []


def test_parts_in_the_stores_are_read_from_the_one_that_is_needed(
    artifacts: ArtifactStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_STORES", f"a={tmp_path}/a")
    result = kept(artifacts, folder)
    assert [path.name for path in folder.iterdir()] == [PARTS]
    assert result["stores"] == "a"
    assert [entry["rows"] for entry in result["files"]] == [2, 3, 1]

    opened: list[str] = []
    stored = storage_of(artifacts)
    fetch = stored.blobs.fetch

    def noted(sha256: str, scratch: Path) -> Any:
        opened.append(sha256)
        return fetch(sha256, scratch)

    monkeypatch.setattr(stored.blobs, "fetch", noted)
    parts = stored.parts(QUERY, result)
    assert values_of(parts) == list(range(6))
    opened.clear()
    assert values_of(parts, offset=3, limit=2) == [3, 4]
    assert {*opened} == {result["files"][1]["blob"]}
    assert values_of(parts, offset=6) == []
    assert list((tmp_path / "scratch").iterdir()) == []


def test_copies_in_the_cache_go_with_the_result(
    artifacts: ArtifactStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_STORES", f"a={tmp_path}/a")
    result = kept(artifacts, folder, cache_bytes=1 << 20)
    size = sum(entry["bytes"] for entry in result["files"])
    assert len(list((artifacts.root / DOWNLOADS).iterdir())) == 3
    # Nothing is asked of the stores.
    for path in (tmp_path / "a" / "cas").rglob("*"):
        if path.is_file():
            path.unlink()
    stored = storage_of(artifacts, cache_bytes=1 << 20)
    assert values_of(stored.parts(QUERY, result)) == list(range(6))

    assert remove_results(artifacts, -1).size_bytes > size
    assert list((artifacts.root / DOWNLOADS).iterdir()) == []
    assert list(stored_parts(artifacts.root)) == []
    with pytest.raises(NotFoundError, match="deleted from the artifact store"):
        stored.parts(QUERY, result)


def test_nothing_is_left_where_the_stores_fail_or_are_too_slow(
    artifacts: ArtifactStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_STORES", f"a={tmp_path}/a")
    monkeypatch.setattr(storage, "STORING_SECONDS", -1.0)
    with pytest.raises(UnavailableError, match="more than an hour"):
        kept(artifacts, folder)
    assert not folder.exists()


def test_a_damaged_list_lets_no_blob_be_swept(
    artifacts: ArtifactStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_STORES", f"a={tmp_path}/a")
    (first, *_) = written(folder)
    blob = describe(first.path)
    kept(artifacts, folder)
    assert next(stored_parts(artifacts.root)).blob == blob.sha256
    listed = json.loads((folder / PARTS).read_bytes())
    del listed["parts"][0]["rows"]
    (folder / PARTS).write_text(json.dumps(listed))
    with pytest.raises(DataLossError, match=f"of query {QUERY} is damaged"):
        list(stored_parts(artifacts.root))
