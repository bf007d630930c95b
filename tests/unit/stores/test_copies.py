"""Copies of blobs over several stores: losses, repairs, places."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from vistaflow_services.core.errors import (
    DataLossError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from vistaflow_services.stores.blobs import PIECE, BlobStore
from vistaflow_services.stores.copies import CopiesStore, Repair
from vistaflow_services.stores.folder import FolderStore

CONTENTS = [f"whisky {number}".encode() for number in range(40)]


def stored(store: BlobStore) -> dict[str, bytes]:
    return {store.put([content]).sha256: content for content in CONTENTS}


def everything(hashes: object) -> list[str]:
    return list(hashes)  # type: ignore[call-overload,no-any-return]


def places(folders: list[FolderStore]) -> Counter[str]:
    return Counter(stored.sha256 for folder in folders for stored in folder.blobs())


def blob_file(root: Path, sha256: str) -> Path:
    return root / "cas" / sha256[:2] / sha256


@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_everything_reads_without_any_one_store_and_is_repaired(
    folders: list[FolderStore], tmp_path: Path, lost: str
) -> None:
    store = CopiesStore(folders, copies=2)
    contents = stored(store)
    shutil.rmtree(tmp_path / lost)

    for sha256, content in contents.items():
        assert b"".join(store.read(sha256)) == content
        with store.fetch(sha256, tmp_path) as path:
            assert path.read_bytes() == content

    # The store comes back empty, as a new disk does.
    folders = [FolderStore(name, tmp_path / name) for name in "abc"]
    missing = sum(2 - count for count in places(folders).values())
    repair = CopiesStore(folders, copies=2).repair(everything, tmp_path)

    assert repair == Repair(blob_count=len(CONTENTS), restored_count=missing)
    assert missing > 0
    assert places(folders) == Counter(dict.fromkeys(contents, 2))


def test_without_two_of_three_stores_some_blobs_are_gone(
    folders: list[FolderStore], tmp_path: Path
) -> None:
    store = CopiesStore(folders, copies=2)
    contents = stored(store)
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")

    readable = [sha256 for sha256 in contents if store.stat(sha256)]

    assert 0 < len(readable) < len(contents)


def test_blobs_are_spread_evenly_and_a_new_store_moves_only_its_share(
    folders: list[FolderStore], tmp_path: Path
) -> None:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(3000)]
    three = CopiesStore(folders, copies=2)
    four = CopiesStore([*folders, FolderStore("d", tmp_path / "d")], copies=2)

    before = {sha256: {store.name for store in three.ranked(sha256)[:2]} for sha256 in hashes}
    after = {sha256: {store.name for store in four.ranked(sha256)[:2]} for sha256 in hashes}

    counts = Counter(name for names in before.values() for name in names)
    assert all(1850 < counts[name] < 2150 for name in "abc")
    assert all(after[sha256] - before[sha256] <= {"d"} for sha256 in hashes)


def test_a_write_goes_to_the_next_store_when_one_is_down(
    folders: list[FolderStore], tmp_path: Path
) -> None:
    store = CopiesStore(folders, copies=2)
    shutil.rmtree(tmp_path / "b")
    contents = stored(store)

    assert places([folders[0], folders[2]]) == Counter(dict.fromkeys(contents, 2))


def test_a_write_without_enough_stores_is_an_error_that_names_them(
    folders: list[FolderStore], tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")

    with pytest.raises(
        UnavailableError, match=r"has 1 of 2 copies.*store [ab] cannot be used"
    ) as e:
        CopiesStore(folders, copies=2).put([b"whisky"])
    assert str(tmp_path) not in str(e.value)


def test_a_damaged_copy_is_not_used_and_is_repaired(
    folders: list[FolderStore], tmp_path: Path
) -> None:
    store = CopiesStore(folders, copies=2)
    sha256 = store.put([b"whisky"]).sha256
    first = store.ranked(sha256)[0].name
    blob_file(tmp_path / first, sha256).write_bytes(b"whiskY")

    with store.fetch(sha256, tmp_path) as path:
        assert path.read_bytes() == b"whisky"
    with pytest.raises(DataLossError, match="is damaged"):
        list(folders["abc".index(first)].read(sha256))

    assert store.repair(everything, tmp_path).restored_count == 0  # sizes are equal
    assert store.repair(everything, tmp_path, verify=True).restored_count == 1
    assert blob_file(tmp_path / first, sha256).read_bytes() == b"whisky"


@pytest.mark.parametrize(("offset", "length"), [(0, None), (1000, 3 * PIECE)])
def test_a_read_goes_on_with_the_next_copy_in_the_middle_of_a_blob(
    folders: list[FolderStore], tmp_path: Path, offset: int, length: int | None
) -> None:
    content = random.Random(1).randbytes(4 * PIECE)
    store = CopiesStore(folders, copies=2)
    sha256 = store.put([content]).sha256
    pieces = store.read(sha256, offset=offset, length=length)

    first = next(pieces)
    os.truncate(blob_file(tmp_path / store.ranked(sha256)[0].name, sha256), offset + PIECE + 5)

    assert first + b"".join(pieces) == content[offset:][:length]


def test_a_truncated_copy_is_found_by_its_size(folders: list[FolderStore], tmp_path: Path) -> None:
    store = CopiesStore(folders, copies=2)
    sha256 = store.put([b"whisky"]).sha256
    second = store.ranked(sha256)[1].name
    blob_file(tmp_path / second, sha256).write_bytes(b"whi")

    assert store.repair(everything, tmp_path).restored_count == 1
    assert b"".join(store.read(sha256)) == b"whisky"


def test_a_blob_whose_copies_are_all_damaged_is_reported_lost(
    folders: list[FolderStore], tmp_path: Path
) -> None:
    store = CopiesStore(folders, copies=2)
    sha256 = store.put([b"whisky"]).sha256
    for ranked in store.ranked(sha256)[:2]:
        blob_file(tmp_path / ranked.name, sha256).write_bytes(b"whiskY")

    assert store.repair(everything, tmp_path, verify=True).lost == (sha256,)


def test_a_repair_does_not_bring_back_what_was_forgotten(
    folders: list[FolderStore], tmp_path: Path
) -> None:
    store = CopiesStore(folders, copies=2)
    sha256 = store.put([b"a person"]).sha256
    first = store.ranked(sha256)[0].name
    (tmp_path / first).rename(tmp_path / "unmounted")
    with pytest.raises(UnavailableError):
        store.delete(sha256)
    (tmp_path / "unmounted").rename(tmp_path / first)

    repair = store.repair(lambda hashes: [], tmp_path)

    assert (repair.restored_count, places(folders)[sha256]) == (0, 1)
    store.delete(sha256)
    assert places(folders)[sha256] == 0


def test_a_listing_without_a_store_is_an_error(folders: list[FolderStore], tmp_path: Path) -> None:
    store = CopiesStore(folders, copies=2)
    shutil.rmtree(tmp_path / "c")

    with pytest.raises(UnavailableError, match="store c"):
        list(store.blobs())


def test_a_blob_that_no_store_has_is_not_found(folders: list[FolderStore], tmp_path: Path) -> None:
    with pytest.raises(NotFoundError), CopiesStore(folders, copies=2).fetch("0" * 64, tmp_path):
        pass


@pytest.mark.parametrize("copies", [0, 4])
def test_impossible_numbers_of_copies_are_refused(folders: list[FolderStore], copies: int) -> None:
    with pytest.raises(InvalidError, match=r"copies: is .; with 3 stores it is 1 to 3"):
        CopiesStore(folders, copies=copies)


def test_stores_of_one_name_are_refused(folders: list[FolderStore]) -> None:
    with pytest.raises(InvalidError, match="stores: must be one or more different names"):
        CopiesStore([folders[0], folders[0]], copies=1)
