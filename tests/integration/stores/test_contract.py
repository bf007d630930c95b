"""What every store of blobs does: folders, copies and real S3 servers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.stores.conftest import KEY, SECRET, OpenStore, environment
from vistaflow_services.core.errors import InvalidError, NotFoundError, UnavailableError
from vistaflow_services.stores.blobs import PIECE, Blob, BlobStore, Probe
from vistaflow_services.stores.bucket import SINGLE_BYTES
from vistaflow_services.stores.opening import open_store
from vistaflow_services.stores.sweep import sweep

NONE = "0" * 64
LARGE = random.Random(7).randbytes(2 * SINGLE_BYTES + 12_345)


def identity(content: bytes) -> Blob:
    return Blob(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


@pytest.mark.parametrize("content", [b"", b"whisky", LARGE], ids=["empty", "small", "in parts"])
def test_what_is_put_is_read_in_pieces(store: BlobStore, content: bytes) -> None:
    blob = store.put(content[start : start + 999_999] for start in range(0, len(content), 999_999))

    pieces = list(store.read(blob.sha256))

    assert (blob, b"".join(pieces)) == (identity(content), content)
    assert all(len(piece) <= PIECE for piece in pieces)


def test_a_file_is_put_and_fetched(store: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(LARGE)
    blob = store.put(path, sha256=identity(LARGE).sha256)

    with store.fetch(blob.sha256, tmp_path) as fetched:
        assert fetched.read_bytes() == LARGE
        assert fetched in store.location(blob.sha256, tmp_path)

    assert path.read_bytes() == LARGE


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 0), (0, 3), (2, 3), (4, None), (4, 99), (6, None), (6, 1)]
)
def test_a_range_is_read(open_kind: OpenStore, offset: int, length: int | None) -> None:
    expected = b"whisky"[offset:][:length]
    for kind in ("folder", "copies", "moto", "rclone"):
        store = open_kind(kind)
        sha256 = store.put([b"whi", b"sky"]).sha256
        assert b"".join(store.read(sha256, offset=offset, length=length)) == expected


@pytest.mark.parametrize(("offset", "length"), [(7, None), (-1, None), (0, -1)])
def test_a_range_beyond_the_blob_is_refused(
    store: BlobStore, offset: int, length: int | None
) -> None:
    sha256 = store.put([b"whisky"]).sha256
    with pytest.raises(InvalidError, match=r"offset|length"):
        store.read(sha256, offset=offset, length=length)


def test_content_with_another_hash_is_not_stored(store: BlobStore) -> None:
    with pytest.raises(InvalidError, match="sha256: is not that of the content"):
        store.put([b"whisky"], sha256=NONE)

    assert list(store.blobs()) == []


def test_a_blob_that_does_not_exist_is_not_found(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        store.read(NONE)
    with pytest.raises(NotFoundError), store.fetch(NONE, tmp_path):
        pass
    store.delete(NONE)

    assert store.stat(NONE) is None


def test_blobs_are_listed_in_order_and_once(store: BlobStore) -> None:
    contents = [str(number).encode() for number in range(30)]
    for content in [*contents, *contents]:
        store.put([content])

    listed = [(stored.sha256, stored.size_bytes) for stored in store.blobs()]

    blobs = map(identity, contents)
    assert listed == sorted((blob.sha256, blob.size_bytes) for blob in blobs)


def test_a_deleted_blob_is_gone(store: BlobStore) -> None:
    sha256 = store.put([b"whisky"]).sha256
    store.delete(sha256)

    assert (store.stat(sha256), list(store.blobs())) == (None, [])


def test_a_sweep_removes_what_is_old_and_unreferenced(store: BlobStore) -> None:
    used, unused = store.put([b"used"]), store.put([b"unused"])
    grace = timedelta(hours=3)
    references = {used.sha256}.intersection

    def removal(hashes: Collection[str]) -> Collection[str]:
        for sha256 in hashes:
            store.delete(sha256)
        return hashes

    assert sweep(store, references, removal, grace=grace).blob_count == 0

    later = datetime.now(UTC) + timedelta(hours=4)
    swept = sweep(store, references, removal, grace=grace, now=later)
    assert (swept.blob_count, swept.size_bytes) == (1, 6)
    assert [stored.sha256 for stored in store.blobs()] == [used.sha256]
    assert store.stat(unused.sha256) is None


@pytest.mark.parametrize(
    ("kind", "supported"), [("folder", True), ("moto", True), ("rclone", False)]
)
def test_the_probe_tells_whether_put_if_absent_works(
    open_kind: OpenStore, kind: str, supported: bool
) -> None:
    store = open_kind(kind)
    (probe,) = store.probe()

    assert probe == Probe(store=store.name, put_if_absent=supported)
    assert ("is supported" in probe.description) == supported
    assert list(store.blobs()) == []


@pytest.mark.parametrize("kind", ["moto", "rclone"])
def test_storing_twice_is_harmless_after_the_probe(open_kind: OpenStore, kind: str) -> None:
    store = open_kind(kind)
    store.probe()
    blobs = {store.put([b"whisky"]).sha256 for _ in range(2)}

    assert [stored.sha256 for stored in store.blobs()] == list(blobs)


def test_wrong_credentials_are_a_clear_error_without_the_secret(rclone: str) -> None:
    wrong = {**environment(rclone), "AWS_SECRET_ACCESS_KEY": "another-canary"}
    store = open_store("lake", "s3://bucket-of-nobody/data", wrong)

    with pytest.raises(UnavailableError) as caught:
        store.put([b"whisky"])

    assert str(caught.value).startswith("store lake ")
    for secret in ("another-canary", SECRET, KEY, rclone):
        assert secret not in str(caught.value)


def test_a_server_that_is_gone_is_unavailable() -> None:
    store = open_store("lake", "s3://bucket/data", environment("http://127.0.0.1:9"))
    with pytest.raises(UnavailableError, match="store lake does not answer"):
        store.stat(NONE)
