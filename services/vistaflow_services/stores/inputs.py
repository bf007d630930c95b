"""Inputs as local files: those in folders as they are, those in buckets downloaded."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import obstore
from obstore.store import S3Store

from vistaflow_services.core.errors import ExhaustedError
from vistaflow_services.stores.blobs import PIECE
from vistaflow_services.stores.bucket import connect, failures
from vistaflow_services.stores.opening import aws_variables, bucket_of
from vistaflow_services.stores.roots import Input, absent


@contextlib.contextmanager
def local_file(
    source: Input,
    folder: Path,
    *,
    max_bytes: int | None = None,
    field: str = "input",
    environment: Mapping[str, str] = os.environ,
) -> Iterator[Path]:
    """A local file with the content of an input, until the block ends.

    Memory is that of a few pieces of 1 MiB.

    Args:
        source: The input, as `Roots.resolve` found it.
        folder: Where an input in a bucket is downloaded to.
        max_bytes: Largest input that is accepted, or None.
        field: Where the input's name is in the request, for messages.
        environment: Has the credentials, under the root's name or general ones.

    Raises:
        NotFoundError: There is no such file or object.
        InvalidError: It is not a regular file, or a link leads out of the root.
        ExhaustedError: It is larger than `max_bytes`.
        UnavailableError: The bucket does not answer.
    """
    root = source.root.folder
    if root is not None:
        with source.opened(field) as file:
            _check_size(source, os.fstat(file.fileno()).st_size, max_bytes, field)
            yield (root / source.path).resolve()
        return
    # The suffix tells the format.
    path = folder / f"{secrets.token_hex(8)}{''.join(source.path.suffixes[-2:])}"
    try:
        _download(source, path, max_bytes, field, environment)
        yield path
    finally:
        path.unlink(missing_ok=True)


def client_of(source: Input, field: str, environment: Mapping[str, str] = os.environ) -> S3Store:
    """A client of the bucket that an input is in; nothing is requested yet.

    Args:
        source: An input whose root is no folder.
        field: Where the input's name is in the request, for messages.
        environment: Has the credentials, under the root's name or general ones.
    """
    name = source.root.name
    bucket, prefix = bucket_of(source.root.url, field)
    return connect(name, bucket, prefix, aws_variables(name, environment))


@contextlib.contextmanager
def remote_file(
    source: Input, field: str = "input", environment: Mapping[str, str] = os.environ
) -> Iterator[BinaryIO]:
    """An object of a bucket as a file whose ranges are read when they are needed.

    Raises:
        NotFoundError: There is no such object.
        UnavailableError: The bucket does not answer.
    """
    client = client_of(source, field, environment)
    with failures(source.root.name):
        try:
            reader = obstore.open_reader(client, str(source.path))
        except FileNotFoundError:
            raise absent(source.name) from None
        yield cast(BinaryIO, _Ranges(reader))


class _Ranges:
    """What readers of Parquet ask of a file."""

    closed = False

    def __init__(self, reader: obstore.ReadableFile) -> None:
        self.seek, self.tell, self.close = reader.seek, reader.tell, reader.close
        self._read = reader.read

    def read(self, size: int | None = None) -> bytes:
        return bytes(self._read(size))


def _download(
    source: Input, path: Path, max_bytes: int | None, field: str, environment: Mapping[str, str]
) -> None:
    client = client_of(source, field, environment)
    with path.open("xb") as file, failures(source.root.name):
        try:
            answer = obstore.get(client, str(source.path))
        except FileNotFoundError:
            raise absent(source.name) from None
        _check_size(source, answer.meta["size"], max_bytes, field)
        for piece in answer.stream(min_chunk_size=PIECE):
            file.write(piece)


def _check_size(source: Input, size: int, max_bytes: int | None, field: str) -> None:
    if max_bytes is not None and size > max_bytes:
        raise ExhaustedError(
            f"{field}: `{source.name}` has {size} bytes; at most {max_bytes} are accepted",
            reason="INPUT_TOO_LARGE",
        )
