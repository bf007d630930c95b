"""Datasets over a folder and two S3 servers: without any one of them everything still reads."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.integration.stores.conftest import OpenStore
from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.datasets.build import TableSpec, build
from vistaflow_services.datasets.erasure import forget
from vistaflow_services.datasets.manifest import DatasetVersion, Manifest
from vistaflow_services.datasets.reader import read
from vistaflow_services.datasets.sources import Source
from vistaflow_services.stores.blobs import BlobStore
from vistaflow_services.stores.copies import CopiesStore
from vistaflow_services.stores.folder import FolderStore
from vistaflow_services.stores.sweep import purge

KINDS = ("folder", "moto", "rclone")


def imported(rows: list[dict[str, Any]], store: BlobStore, folder: Path) -> Manifest:
    source = Source(reader=pa.Table.from_pylist(rows).to_reader())
    table = TableSpec(name="t", source=source, primary_key=("id",))
    return build([table], store, folder).manifest


def rows_of(manifest: Manifest, store: BlobStore, folder: Path) -> list[Any]:
    return [row for batch in read(manifest.table("t"), store, folder) for row in batch.to_pylist()]


def without(stores: Sequence[BlobStore], lost: int, folder: Path) -> CopiesStore:
    """The stores with one whose folder is gone in the place of `lost`."""
    root = folder / "gone"
    gone = FolderStore(stores[lost].name, root)
    shutil.rmtree(root)
    return CopiesStore([*stores[:lost], gone, *stores[lost + 1 :]], copies=2)


@pytest.mark.parametrize("lost", range(3), ids=KINDS)
def test_datasets_read_and_repair_without_any_one_store(
    open_kind: OpenStore, tmp_path: Path, lost: int
) -> None:
    stores = [open_kind(kind) for kind in KINDS]
    store = CopiesStore(stores, copies=2)
    contents = [[{"id": number, "v": f"가 {number}"}] for number in range(6)]
    manifests = [imported(rows, store, tmp_path) for rows in contents]

    rest = without(stores, lost, tmp_path)
    assert [rows_of(manifest, rest, tmp_path) for manifest in manifests] == contents

    # The lost store comes back without its blobs.
    for stored in list(stores[lost].blobs()):
        stores[lost].delete(stored.sha256)
    places = [store.ranked(part.sha256)[:2] for manifest in manifests for part in manifest.parts]
    missing = sum(stores[lost] in pair for pair in places)
    assert store.repair(lambda hashes: hashes, tmp_path).restored_count == missing
    for index in range(3):
        rest = without(stores, index, tmp_path)
        assert [rows_of(manifest, rest, tmp_path) for manifest in manifests] == contents


def test_a_person_is_purged_from_every_store(open_kind: OpenStore, tmp_path: Path) -> None:
    stores = [open_kind(kind) for kind in KINDS]
    store = CopiesStore(stores, copies=3)
    manifest = imported([{"id": 1, "v": "a"}, {"id": 2, "v": "b"}], store, tmp_path)

    version = DatasetVersion(
        project="p", name="d", version=1, created_at=datetime.now(UTC), manifest=manifest
    )
    erasure = forget([version], "t", [[1]], store, tmp_path)
    remaining = {part.sha256 for part in erasure.manifest.parts}

    with pytest.raises(UnavailableError):
        purge(without(stores, 0, tmp_path), erasure.purge, remaining.intersection)
    purge(store, erasure.purge, remaining.intersection)

    assert [{stored.sha256 for stored in single.blobs()} for single in stores] == [remaining] * 3
    assert rows_of(erasure.manifest, store, tmp_path) == [{"id": 2, "v": "b"}]
