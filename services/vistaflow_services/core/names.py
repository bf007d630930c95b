"""The rules of names, labels and ids, in one place for the registry and for those who call it.

Nothing here raises for bad input: a check returns its problems as texts, and the caller adds the
field that each belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

MAX_KIT_NAME = 200
MAX_JOB_NAME = 100
MAX_TASK_NAME = 100
MAX_PROJECT = 63
MAX_SCHEDULE_NAME = 63
DEFAULT_PROJECT = "default"
"""The project of what a caller of no project makes without naming one."""

FINAL = "final"
"""The alias of the version that a scope without an alias names."""

SYSTEM_PROJECT = "system"
"""The project of jobs that look after the whole installation, and of their schedules."""

MAX_KEEP = 1_000
"""Most backups of a log that a target keeps."""

MAX_DAYS = 3_650
"""Largest age that a clean-up can ask for."""

MAX_ACTOR = 200
MAX_LABELS = 64
MAX_LABEL_KEY = 63
MAX_LABEL_VALUE = 255
MAX_ATTEMPTS = 100
"""Most attempts of a job that may be lost or fail by a fault."""

SLICE_BYTES = 256 * 1024
"""How much of a spec is searched before other calls get a turn."""

has_control = re.compile("[\x00-\x1f\x7f-\x9f]").search
"""The first control character of a text, if it has one."""

UPLOAD_ACCEPTED = "vistaflow-upload-accepted"
"""Metadata that `UploadFile` sends first where it accepts a file's header."""

DATASET_FORM = (
    "give NAME or PROJECT.NAME; NAME is 1 to 63 of a-z, 0-9 and `_`, beginning with a letter"
)
"""How a dataset is named, for the error about one that is not."""

VERSION_FORM = f"{DATASET_FORM}; a version follows as @NUMBER or @ALIAS"
"""How a version of a dataset is named."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_DATASET_NAME = "[a-z][a-z0-9_]{0,62}"
_ALIAS = "[a-z][a-z0-9_-]{0,62}"
# The first group takes as much as it can: the name begins after the last dot.
_DATASET = re.compile(
    rf"(?:({_NAME.pattern})\.)?({_DATASET_NAME})(?:@(?:([1-9][0-9]{{0,17}})|({_ALIAS})))?"
)
_LATEST = "latest"

_ID_LENGTH = 36
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Within a lookahead, so that no match hides another one that begins inside it.
_SHA256 = re.compile(r"[0-9a-f]{64}")

_IDS = re.compile(rb"(?=([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}))")


def text_problems(text: str, limit: int) -> Iterator[str]:
    """What is wrong with a line of text: more than `limit` characters, control characters."""
    if len(text) > limit:
        yield f"is {len(text):,} characters long; at most {limit:,} are allowed"
    if has_control(text, 0, limit):
        yield "must not hold control characters"


def kit_name_problems(name: str) -> Iterator[str]:
    """What is wrong with the name of a kit: a line of text for people."""
    if not name.strip():
        yield f"is required: 1 to {MAX_KIT_NAME} characters"
    yield from text_problems(name, MAX_KIT_NAME)


def name_problems(name: str, limit: int) -> Iterator[str]:
    """What is wrong with a name that is part of paths and commands: of a job, of a project."""
    if not _NAME.fullmatch(name) or len(name) > limit:
        yield f"give 1 to {limit} of a-z, 0-9, `_`, `.` and `-`, beginning with a letter or digit"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReference:
    """A dataset as a caller names it, and maybe one of its versions."""

    name: str
    project: str | None = None
    """None: the caller's."""

    version: int = 0
    """0: not named by its number."""

    alias: str = ""
    """Empty: not named by an alias. Neither one is the latest version."""

    def project_for(self, caller: str) -> str:
        """Its project, for a caller of this one; empty: of none."""
        return self.project if self.project is not None else caller or DEFAULT_PROJECT


def dataset_reference(text: str) -> DatasetReference | None:
    """What `NAME`, `PROJECT.NAME`, and these with `@3` or `@ALIAS` name; None if it is neither.

    `@latest` is the latest version.
    """
    match = _DATASET.fullmatch(text)
    if match is None or len(match[1] or "") > MAX_PROJECT:
        return None
    alias = match[4] or ""
    return DatasetReference(
        project=match[1],
        name=match[2],
        version=int(match[3] or 0),
        alias="" if alias == _LATEST else alias,
    )


def dataset_scope(text: str) -> DatasetReference | None:
    """What `dataset:PROJECT.NAME:read` names, with its alias, `final` if there is none; or None."""
    kind, _, rest = text.partition(":")
    name, _, right = rest.rpartition(":")
    named = dataset_reference(name)
    if (kind, right) != ("dataset", "read") or named is None or named.project is None:
        return None
    if named.version or name.endswith(f"@{_LATEST}"):
        return None
    return replace(named, alias=named.alias or FINAL)


def is_dataset_name(text: str) -> bool:
    """Whether a text is the name of a dataset in its project."""
    return re.fullmatch(_DATASET_NAME, text) is not None


def is_dataset_alias(text: str) -> bool:
    """Whether a version of a dataset may have this name."""
    return text != _LATEST and re.fullmatch(_ALIAS, text) is not None


def label_problems(labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is wrong with labels, each with the key it belongs to, or "" for all of them.

    A key is cut to `MAX_LABEL_KEY` characters. Of more than `MAX_LABELS` labels none is checked.
    """
    if len(labels) > MAX_LABELS:
        yield "", f"has {len(labels)} pairs; at most {MAX_LABELS} are allowed"
        return
    for key, value in labels.items():
        if not key:
            yield "", "has an empty key"
        for limit, text in ((MAX_LABEL_KEY, key), (MAX_LABEL_VALUE, value)):
            for problem in text_problems(text, limit):
                yield key[:MAX_LABEL_KEY], problem


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256 as vistaflow writes it: 64 lower-case hexadecimal digits."""
    return _SHA256.fullmatch(text) is not None


def is_job_id(text: str) -> bool:
    """Whether a text is a job's id as the registry writes it."""
    return _ID.fullmatch(text) is not None


def slices(spec: bytes) -> Iterator[bytes]:
    """A packed spec in slices to be searched one by one; no id is cut apart."""
    for start in range(0, len(spec), SLICE_BYTES):
        yield spec[start : start + SLICE_BYTES + _ID_LENGTH - 1]


def job_ids_in(spec: bytes) -> set[str]:
    """All texts in a packed spec that may be a job's id, in upper or lower case.

    The bytes of a message contain its strings unchanged, so its type need not be known. The
    registry checks by this which jobs a caller of one project refers to, and workers find by it
    the results for an attempt: both must find the same ids in the same bytes.
    """
    return {match[1].decode().lower() for match in _IDS.finditer(spec)}
