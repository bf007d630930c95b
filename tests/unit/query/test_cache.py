"""The cache of downloads: what is stored, what goes first, what a query keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from vistaflow_services.query.tables.cache import DownloadCache


class Downloads:
    """Downloads files of 10 bytes, and counts."""

    def __init__(self, folder: Path, most: int) -> None:
        self.cache = DownloadCache(folder / "cache", most)
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.count = 0

    @contextlib.contextmanager
    def _download(self) -> Iterator[Path]:
        self.count += 1
        path = self.scratch / "download.csv"
        path.write_bytes(b"0123456789")
        yield path
        path.unlink()

    @contextlib.contextmanager
    def file(self, name: str, version: str = "1") -> Iterator[Path]:
        identity = ("s3://lake", name, version, "10")
        with self.cache.file(identity, ".csv", self.scratch, self._download) as path:
            yield path

    def read(self, name: str, version: str = "1") -> int:
        """Reads a file; how many downloads there were until then."""
        with self.file(name, version) as path:
            assert path.read_bytes() == b"0123456789"
            assert path.suffix == ".csv"
        assert not path.exists()
        return self.count


def test_a_file_is_downloaded_once_for_each_version(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, 1000)
    assert [downloads.read("a"), downloads.read("a"), downloads.read("a", "2")] == [1, 1, 2]


def test_what_was_not_used_for_the_longest_is_removed(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, 25)
    for name in ("a", "b", "a", "c"):
        downloads.read(name)
    assert downloads.count == 3
    assert [downloads.read("a"), downloads.read("b")] == [3, 4]


@pytest.mark.parametrize("most", [0, 9])
def test_a_file_above_the_limit_is_not_stored(tmp_path: Path, most: int) -> None:
    downloads = Downloads(tmp_path, most)
    assert [downloads.read("a"), downloads.read("a")] == [1, 2]


def test_a_query_keeps_a_file_that_is_removed_meanwhile(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, 15)
    downloads.read("a")
    with downloads.file("a") as path:
        downloads.read("b")
        assert path.read_bytes() == b"0123456789"
    assert downloads.read("a") == 3


def test_an_error_of_the_reader_is_the_readers(tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, 1000)
    for _ in range(2):
        with pytest.raises(OSError, match="mine"), downloads.file("a"):
            raise OSError("mine")
