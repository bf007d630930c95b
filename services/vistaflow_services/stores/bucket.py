"""A store in an S3 bucket, by obstore: objects `<prefix>/cas/<two digits>/<sha256>`.

Uploads are atomic: other readers see a whole object or none. An aborted upload in parts leaves
hidden parts in the bucket, which its lifecycle rule for incomplete uploads has to remove.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore import exceptions
from obstore.store import S3Store

from vistaflow_services.core.errors import ServiceError
from vistaflow_services.stores.blobs import (
    PIECE,
    Blob,
    BlobStore,
    Probe,
    Stored,
    checked_sha256,
    missing,
    unavailable,
)

SINGLE_BYTES = 8 << 20
"""Largest blob that is uploaded in one request, from memory; others go in parts of this size."""

CONCURRENCY = 4
"""Parts of one upload that are in memory at once: with `SINGLE_BYTES`, 32 MiB."""

RENEWAL = timedelta(hours=1)
"""Age after which storing an existing blob again uploads it again, which renews its age.

`sweep` refuses a shorter grace time, so a blob that is in use again is never swept.
"""

_OBJECT = re.compile(r"(?:.*/)?cas/[0-9a-f]{2}/([0-9a-f]{64})")


class BucketStore(BlobStore):
    """Blobs in a bucket, below a prefix."""

    def __init__(
        self, name: str, bucket: str, prefix: str = "", *, config: Mapping[str, str]
    ) -> None:
        """Opens the store; nothing is requested yet.

        Args:
            name: What messages call the store.
            bucket: The bucket, which must exist.
            prefix: What the names of its objects begin with.
            config: Region, endpoint and credentials, as obstore's `S3Config` names them.
        """
        self.name = name
        self.put_if_absent = False
        self._store = connect(name, bucket, prefix, config)

    def place(self, blob: Blob, path: Path, *, replace: bool = False) -> None:
        """Uploads an object unless a young one of its size exists."""
        stored = None if replace else self.stat(blob.sha256)
        if stored and stored.size_bytes == blob.size_bytes:
            if datetime.now(UTC) - stored.modified_at < RENEWAL:
                return
            replace = True
        small = blob.size_bytes <= SINGLE_BYTES
        create = small and self.put_if_absent and not (replace or stored)
        # Several writers may store one blob at a time. All of them write the same bytes.
        with failures(self.name), contextlib.suppress(exceptions.AlreadyExistsError):
            obstore.put(
                self._store,
                _key(blob.sha256),
                path.read_bytes() if small else path,
                mode="create" if create else "overwrite",
                use_multipart=not small,
                chunk_size=SINGLE_BYTES,
                max_concurrency=CONCURRENCY,
            )

    def _pieces(self, sha256: str, offset: int, count: int) -> Iterator[bytes]:
        with failures(self.name):
            try:
                answer, skip = self._get(_key(sha256), offset, count)
            except FileNotFoundError:
                raise missing(sha256, self.name) from None
            for chunk in answer.stream(min_chunk_size=PIECE):
                view = memoryview(chunk)[skip:]
                skip = max(0, skip - len(chunk))
                view = view[:count]
                count -= len(view)
                for start in range(0, len(view), PIECE):
                    yield bytes(view[start : start + PIECE])
                if not count:
                    return

    def _get(self, key: str, offset: int, count: int) -> tuple[obstore.GetResult, int]:
        """The answer to a request for a range, and how many bytes before it the answer has."""
        try:
            return obstore.get(self._store, key, options={"range": (offset, offset + count)}), 0
        except exceptions.GenericError as error:
            # Some servers send the whole object. It is read up to the end of the range.
            if "non-partial" not in str(error):
                raise
        return obstore.get(self._store, key), offset

    def stat(self, sha256: str) -> Stored | None:
        """Asks for the object's head."""
        with failures(self.name):
            try:
                meta = obstore.head(self._store, _key(sha256))
            except FileNotFoundError:
                return None
        return Stored(sha256=sha256, size_bytes=meta["size"], modified_at=meta["last_modified"])

    def delete(self, sha256: str) -> None:
        """Deletes the object."""
        with failures(self.name), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, _key(sha256))

    def blobs(self) -> Iterator[Stored]:
        """Lists the objects, a page at a time."""
        with failures(self.name):
            for page in obstore.list(self._store, "cas", chunk_size=1000):
                for meta in page:
                    if match := _OBJECT.fullmatch(meta["path"]):
                        yield Stored(
                            sha256=match[1],
                            size_bytes=meta["size"],
                            modified_at=meta["last_modified"],
                        )

    def probe(self) -> tuple[Probe, ...]:
        """Writes an object twice, if absent: some servers overwrite it."""
        key, content = f"probe/{secrets.token_hex(16)}", b"probe"
        with failures(self.name):
            try:
                obstore.put(self._store, key, content, mode="create")
                self.put_if_absent = self._refuses(key, content)
                if bytes(obstore.get(self._store, key).bytes()) != content:
                    raise unavailable(self.name, "does not return what was written to it")
            finally:
                with contextlib.suppress(exceptions.BaseError, FileNotFoundError):
                    obstore.delete(self._store, key)
        return (Probe(store=self.name, put_if_absent=self.put_if_absent),)

    def _refuses(self, key: str, content: bytes) -> bool:
        # Some servers ignore the condition and overwrite the object.
        try:
            obstore.put(self._store, key, content, mode="create")
        except exceptions.AlreadyExistsError:
            return True
        return False


def connect(name: str, bucket: str, prefix: str, config: Mapping[str, str]) -> S3Store:
    """A client of a bucket; nothing is requested yet.

    Raises:
        UnavailableError: The configuration is impossible.
    """
    endpoint = config.get("aws_endpoint_url", config.get("aws_endpoint", ""))
    settings: Any = dict(config)
    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            config=settings,
            # A store that is down must cost seconds: readers go on with the next copy.
            client_options={
                "connect_timeout": timedelta(seconds=5),
                "timeout": timedelta(seconds=60),
                "allow_http": endpoint.startswith("http://"),
            },
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=10)},
        )
    except (exceptions.BaseError, ValueError):
        # The library's message may quote the configuration.
        raise unavailable(name, "cannot be opened; check its URL and the AWS_* variables") from None


@contextlib.contextmanager
def failures(name: str) -> Iterator[None]:
    """Errors of obstore as those of a store; their texts contain URLs and headers."""
    try:
        yield
    except (ServiceError, exceptions.AlreadyExistsError):
        raise
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise unavailable(name, "refuses the credentials; check the AWS_* variables") from None
    except (exceptions.BaseError, OSError):
        raise unavailable(name, "does not answer, or has no such bucket") from None


def _key(sha256: str) -> str:
    return f"cas/{checked_sha256(sha256)[:2]}/{sha256}"
