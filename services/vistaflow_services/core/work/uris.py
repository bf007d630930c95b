"""URIs of artifacts: `artifact://`, and names between slashes.

Those of jobs are `artifact://jobs/<job_id>/<attempt>/<names>`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from vistaflow_services.core.errors import FieldViolation, InvalidError, cut
from vistaflow_services.core.names import is_job_id

SCHEME: Final = "artifact://"

JOBS: Final = "jobs"
"""The folder of the artifact store that holds a folder for each job."""

DOWNLOADS: Final = "downloads"
"""The folder of the artifact store that holds files of buckets for later queries."""

PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=-]{0,199}")
"""Names that an `ArtifactStore` gives."""

PUBLISHED_NAME: Final = re.compile(r"[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]{0,254}")
"""Names of published files; those that begin with a dot are of files not yet complete. Wider than
`PLAIN_NAME`: the tables of a conversion are named by the data."""


def download_name(identity: Iterable[str]) -> str:
    """What a file is called in `DOWNLOADS`.

    Args:
        identity: What it is a copy of: another content has another one.
    """
    return hashlib.sha256("\0".join(identity).encode()).hexdigest()


def plain_parts(uri: str) -> list[str]:
    """The path of an artifact in a store that gives plain names.

    Raises:
        InvalidError: It is no URI of an artifact with plain names.
    """
    if not isinstance(uri, str) or not uri.startswith(SCHEME):
        raise uri_error(
            uri, f"must begin with {SCHEME}, such as {SCHEME}jobs/<job_id>/1/model.json"
        )
    parts = uri.removeprefix(SCHEME).split("/")
    if not all(PLAIN_NAME.fullmatch(part) for part in parts):
        raise uri_error(
            uri,
            "must have names of 1 to 200 of A-Z a-z 0-9 _ . @ + = - between the slashes, "
            "none with a dot first",
        )
    return parts


def published_parts(uri: str) -> tuple[str, ...]:
    """The path of a job's artifact in the store: `jobs`, the job's id, what follows it.

    Raises:
        InvalidError: It is no URI of a job's artifact.
    """
    head, *parts = uri.removeprefix(SCHEME).split("/") if uri.startswith(SCHEME) else [""]
    if head != JOBS or not parts or not is_job_id(parts[0]):
        raise uri_error(uri, f"must begin with {SCHEME}{JOBS}/ and the id of a job")
    if not all(PUBLISHED_NAME.fullmatch(part) for part in parts):
        raise uri_error(
            uri, "must have names of 1 to 255 characters between the slashes, none with a dot first"
        )
    return head, *parts


def uri_error(uri: object, problem: str) -> InvalidError:
    """The error about the URI in a request."""
    return InvalidError(
        f"uri: `{cut(str(uri), 500)}` {problem}",
        violations=[FieldViolation(field="uri", description=problem)],
    )
