"""Stores from their URLs: `/path`, `file:///path` or `s3://bucket/prefix`.

Credentials come from the environment and from nowhere else: `AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL` and the others that
obstore reads. A store with credentials of its own has the same variables with its name in front:
`BACKUP_AWS_ACCESS_KEY_ID` is for the store `backup` and wins over `AWS_ACCESS_KEY_ID`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from vistaflow_services.core.errors import field_error
from vistaflow_services.stores.blobs import BlobStore
from vistaflow_services.stores.bucket import BucketStore
from vistaflow_services.stores.copies import CopiesStore
from vistaflow_services.stores.folder import FolderStore

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
"""What a store or a root may be called."""

VARIABLE = "VISTAFLOW_STORES"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def declared_stores(
    text: str, copies: int, default: Path, environment: Mapping[str, str] = os.environ
) -> BlobStore:
    """The stores that the operator declares, as one; a store that is down does not matter yet.

    Args:
        text: `VISTAFLOW_STORES`: `name=URL` by commas.
        copies: How many of them have each blob.
        default: The folder of the only store if none is declared, which is called `local`.
        environment: Has the credentials.

    Raises:
        InvalidError: An entry or the number of copies is impossible. Values are not repeated, as
            they may contain credentials.
    """
    urls = dict[str, str]()
    for number, entry in enumerate(filter(None, map(str.strip, text.split(",")))):
        name, equals, url = entry.partition("=")
        if not equals or not NAME.fullmatch(name) or name in urls:
            raise field_error(
                f"{VARIABLE}[{number}]",
                "is not name=/path or name=s3://bucket/prefix, each name once",
            )
        urls[name] = url
    return open_stores(urls or {"local": str(default)}, copies, environment, strict=False)


def open_store(
    name: str, url: str, environment: Mapping[str, str] = os.environ, *, strict: bool = True
) -> BlobStore:
    """Opens one store.

    Args:
        name: What messages call it.
        url: Where it is.
        environment: Has the credentials.
        strict: Whether a folder must be usable now.

    Raises:
        InvalidError: The name or the URL is malformed.
        UnavailableError: The folder or the bucket cannot be used.
    """
    if not NAME.fullmatch(name):
        raise field_error("stores", "a name is 1 to 63 of a-z 0-9 _ - and begins with a letter")
    field = f"stores.{name}"
    if path := folder_of(url):
        return FolderStore(name, path, strict=strict)
    bucket, prefix = bucket_of(url, field)
    return BucketStore(name, bucket, prefix, config=aws_variables(name, environment))


def open_stores(
    urls: Mapping[str, str],
    copies: int = 1,
    environment: Mapping[str, str] = os.environ,
    *,
    strict: bool = True,
) -> BlobStore:
    """Opens the stores of a service: one, or several as one with `copies` of every blob.

    Raises:
        InvalidError: A name, a URL or the number of copies is impossible.
        UnavailableError: A folder or a bucket cannot be used.
    """
    stores = [open_store(name, url, environment, strict=strict) for name, url in urls.items()]
    return stores[0] if len(stores) == 1 and copies == 1 else CopiesStore(stores, copies)


def folder_of(url: str) -> Path | None:
    """The absolute path that a URL means, or None if it means no local folder."""
    path = url.removeprefix("file://")
    return Path(path) if path.startswith("/") and "\0" not in path else None


def bucket_of(url: str, field: str) -> tuple[str, str]:
    """Bucket and prefix of an `s3://` URL.

    Raises:
        InvalidError: It is none, or it contains credentials. The message does not repeat it.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3":
        raise field_error(field, "is neither an absolute path nor s3://bucket/prefix")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise field_error(
            field, "contains more than bucket and prefix; credentials belong to the environment"
        )
    if not _BUCKET.fullmatch(parts.netloc):
        raise field_error(field, "names no bucket; a bucket is 3 to 63 of a-z 0-9 . -")
    prefix = parts.path.strip("/")
    if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
        raise field_error(field, "has a prefix with an empty part, `.` or `..`")
    return parts.netloc, prefix


def aws_variables(name: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The AWS_* variables for a store, with those of its own name before the general ones."""
    own = f"{name.upper().replace('-', '_')}_"
    general = {key: value for key, value in environment.items() if key.startswith("AWS_")}
    special = {
        key.removeprefix(own): value
        for key, value in environment.items()
        if key.startswith(f"{own}AWS_")
    }
    known = {**general, **special}
    chosen = {key.lower(): value for key, value in known.items() if key in _VARIABLES and value}
    # The server then refuses an upload that was damaged on the way.
    return {"aws_checksum_algorithm": "sha256", **chosen}


_VARIABLES = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT",
        "AWS_ENDPOINT_URL",
        "AWS_SKIP_SIGNATURE",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST",
        "AWS_CHECKSUM_ALGORITHM",
        "AWS_SERVER_SIDE_ENCRYPTION",
        "AWS_SSE_KMS_KEY_ID",
    }
)
