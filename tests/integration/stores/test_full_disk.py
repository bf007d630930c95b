"""A disk that runs full: a clear error, no half blob, and everything works once there is space."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.disks import small_disk
from vistaflow_services.core.errors import ExhaustedError
from vistaflow_services.datasets.build import TableSpec, build
from vistaflow_services.datasets.sources import Source
from vistaflow_services.stores.copies import CopiesStore
from vistaflow_services.stores.folder import FolderStore

MEBIBYTE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 8) as folder:
        yield folder


def pieces(mebibytes: int) -> Iterator[bytes]:
    return (random.Random(number).randbytes(MEBIBYTE) for number in range(mebibytes))


def test_a_store_that_is_full_keeps_whole_blobs_only(disk: Path, tmp_path: Path) -> None:
    store = FolderStore("small", disk / "store")
    small = store.put(pieces(3))

    with pytest.raises(ExhaustedError, match="store small is full; free space, or delete versions"):
        store.put(pieces(9))
    path = tmp_path / "large"
    path.write_bytes(b"".join(pieces(9)))
    with pytest.raises(ExhaustedError, match="store small is full"):
        store.put(path)

    assert [stored.sha256 for stored in store.blobs()] == [small.sha256]
    assert list((disk / "store" / "tmp").iterdir()) == []
    store.delete(small.sha256)
    assert store.put(pieces(6)).size_bytes == 6 * MEBIBYTE


def test_copies_go_to_the_next_store_when_one_is_full(disk: Path, tmp_path: Path) -> None:
    stores = [FolderStore(name, tmp_path / name) for name in "ab"]
    store = CopiesStore([FolderStore("small", disk / "store"), *stores], copies=2)

    blob = store.put(pieces(9))

    assert [single.stat(blob.sha256) is not None for single in stores] == [True, True]


def test_an_import_without_space_for_its_files_is_a_clear_error(disk: Path, tmp_path: Path) -> None:
    store = FolderStore("local", tmp_path / "store")
    texts = [random.Random(number).randbytes(1000).hex() for number in range(20_000)]
    source = Source(reader=pa.table({"v": texts}).to_reader(), name="input")

    with pytest.raises(ExhaustedError, match="input: the disk of the service is full"):
        build([TableSpec(name="t", source=source)], store, disk)

    assert list(store.blobs()) == []
    assert list(disk.iterdir()) == []
