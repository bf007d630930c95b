"""A store in a folder: crashes, losses, leftovers; sweeps and purges."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vistaflow_services.core.errors import InvalidError, UnavailableError
from vistaflow_services.stores.folder import FolderStore
from vistaflow_services.stores.sweep import MIN_GRACE, Swept, purge, sweep


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore("local", tmp_path / "local")


def age(root: Path, hours: float) -> None:
    """Makes every file of a store so old."""
    then = datetime.now(UTC).timestamp() - hours * 3600
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


def test_a_stream_that_fails_leaves_nothing(store: FolderStore, tmp_path: Path) -> None:
    def pieces() -> object:
        yield b"half"
        raise RuntimeError("the sender is gone")

    with pytest.raises(RuntimeError):
        store.put(pieces())  # type: ignore[arg-type]

    assert [path for path in (tmp_path / "local").rglob("*") if path.is_file()] == []


def test_a_root_that_disappears_is_unavailable_and_not_made_again(
    store: FolderStore, tmp_path: Path
) -> None:
    sha256 = store.put([b"whisky"]).sha256
    shutil.rmtree(tmp_path / "local")

    for call in (
        lambda: store.put([b"whisky"]),
        lambda: store.stat(sha256),
        lambda: store.delete(sha256),
        lambda: list(store.blobs()),
        lambda: store.probe(),
    ):
        with pytest.raises(UnavailableError, match="store local cannot be used") as caught:
            call()
        assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "local").exists()


def test_a_root_in_a_folder_that_is_missing_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        FolderStore("disk", tmp_path / "not mounted" / "store")


def test_leftovers_of_killed_writers_are_removed_after_the_grace_time(
    store: FolderStore, tmp_path: Path
) -> None:
    (tmp_path / "local" / "tmp" / "leftover").write_bytes(b"half")

    assert store.remove_leftovers(timedelta(hours=3)) == 0
    age(tmp_path / "local", hours=4)
    assert store.remove_leftovers(timedelta(hours=3)) == 1


def test_storing_a_blob_again_keeps_it_from_the_sweep(store: FolderStore, tmp_path: Path) -> None:
    again, old = store.put([b"again"]), store.put([b"old!"])
    age(tmp_path / "local", hours=4)
    store.put([b"again"])

    removed = list[str]()

    def removal(hashes: Collection[str]) -> Collection[str]:
        removed.extend(hashes)
        return hashes

    swept = sweep(store, lambda hashes: [], removal, grace=timedelta(hours=3))

    assert swept == Swept(blob_count=1, size_bytes=4)
    assert removed == [old.sha256]
    assert again.sha256 not in removed


def test_a_blob_stored_while_references_are_asked_for_is_not_swept(
    store: FolderStore, tmp_path: Path
) -> None:
    blob = store.put([b"whisky"])
    age(tmp_path / "local", hours=4)

    def references(hashes: object) -> list[str]:
        store.put([b"whisky"])
        return []

    def removal(hashes: Collection[str]) -> Collection[str]:
        raise AssertionError("nothing is to be removed")

    assert sweep(store, references, removal, grace=timedelta(hours=3)).blob_count == 0
    assert store.stat(blob.sha256) is not None


def test_a_short_grace_time_is_refused(store: FolderStore) -> None:
    with pytest.raises(InvalidError, match="grace: is 1:00:00; it is at least 2:00:00"):
        sweep(store, lambda hashes: [], lambda hashes: [], grace=MIN_GRACE / 2)


def test_a_purge_removes_young_blobs_but_no_referenced_one(store: FolderStore) -> None:
    used, personal = store.put([b"used"]), store.put([b"personal"])
    with pytest.raises(InvalidError, match="blobs: 1 of them are still referred to"):
        purge(store, [used.sha256], lambda hashes: {used.sha256})

    assert purge(store, [personal.sha256], lambda hashes: []) == Swept(blob_count=1, size_bytes=8)
    assert [stored.sha256 for stored in store.blobs()] == [used.sha256]


@pytest.mark.parametrize("name", ["", "../x", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"])
def test_what_is_no_hash_is_no_path(store: FolderStore, name: str) -> None:
    with pytest.raises(InvalidError, match="64 lower-case hexadecimal digits"):
        store.stat(name)
