"""Files of buckets that stay on this machine for the next query."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from vistaflow_services.core.work.uris import download_name
from vistaflow_services.stores.inputs import local_file
from vistaflow_services.stores.listing import ListedFile


class DownloadCache:
    """Files by what they are copies of; those that were not used for the longest are removed.

    A query has links of its own to the files that it reads: what is removed meanwhile stays until
    the query ends. The caller decides who may read a file, before it asks for it.

    Args:
        folder: Where the files are; it is made with the first. Links work on one file system
            only: on another one nothing is stored.
        max_bytes: Most that they hold together; 0: nothing is stored.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    @contextlib.contextmanager
    def file(
        self,
        identity: tuple[str, ...],
        suffix: str,
        scratch: Path,
        download: Callable[[], AbstractContextManager[Path]],
    ) -> Iterator[Path]:
        """A file in `scratch` until the block ends, downloaded if it is not stored.

        Args:
            identity: The address, the version and the size: another content has another one.
            suffix: Ends the name of the file and tells its format.
            scratch: An existing folder.
            download: Downloads it into `scratch`.
        """
        entry = self._folder / download_name(identity)
        path = scratch / f"{secrets.token_hex(8)}{suffix}"
        if _linked(entry, path):
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)
            return
        with download() as downloaded:
            if downloaded.stat().st_size <= self._max_bytes:
                with contextlib.suppress(OSError):
                    self._folder.mkdir(parents=True, exist_ok=True)
                if _linked(downloaded, entry):
                    self._remove()
            yield downloaded

    def listed(self, file: ListedFile, scratch: Path) -> AbstractContextManager[Path]:
        """A file of a table in a bucket, in `scratch` until the block ends.

        Args:
            file: As it was listed.
            scratch: An existing folder.

        Raises:
            ServiceError: As of `local_file`.
        """
        source = file.input
        return self.file(
            (source.root.url, str(source.path), file.version, str(file.size)),
            "".join(source.path.suffixes[-2:]),
            scratch,
            lambda: local_file(source, scratch, max_bytes=file.size, field="table"),
        )

    def _remove(self) -> None:
        """Removes files until the others are within the limit."""
        entries = []
        for entry in os.scandir(self._folder):
            with contextlib.suppress(FileNotFoundError):  # removed by another query
                entries.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._max_bytes:
                return
            Path(path).unlink(missing_ok=True)
            total -= size


def _linked(source: Path, target: Path) -> bool:
    """Links a file, as the one that was used last; whether that was possible."""
    try:
        os.link(source, target)
        os.utime(target)
    except OSError:
        return False
    return True
