"""Results of jobs: how they are found, and how they are read by services that did not write them.

The owner of an external job can publish any result under any type of job, and another version of a
service may use another format. So a result may lack any key and hold any value: a `Manifest` names
the keys that its readers use, and `readable` translates the errors of reading.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from vistaflow_services.core.errors import ConflictError, ServiceError
from vistaflow_services.core.names import is_job_id

logger = logging.getLogger(__name__)

MANIFEST: Final = "manifest.json"
"""The file in an attempt's prefix that holds the job's result, written last."""

UNREADABLE = (
    ArithmeticError,
    AttributeError,
    FileNotFoundError,
    IsADirectoryError,
    LookupError,
    NotADirectoryError,
    TypeError,
    ValueError,
)
"""Exceptions that reading a result of an unexpected format may raise."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What a finished job, that this one depends on, published."""

    job_id: str
    """A UUID in its 36-character form."""

    job_type: str
    """Such as `DOE`."""

    attempt: int
    """The attempt that finished."""

    result: Mapping[str, Any]
    """Its manifest."""


class Manifest:
    """Base of frozen dataclasses that say what a result holds: each field is a key of it.

    A field without a default is a key that every reader needs. Keys that no field names are
    ignored, so that another version may add some. The metadata of a field may hold `read`, which
    makes the field's value of the key's, and `null`.
    """

    @classmethod
    def read(cls, result: Mapping[str, Any]) -> Self:
        """The manifest in a result, whose values are not checked.

        Raises:
            LookupError: A key is missing. This and what follows from wrong values is `UNREADABLE`.
        """
        values = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # subclasses are dataclasses
            has_default = (
                field.default is not dataclasses.MISSING
                or field.default_factory is not dataclasses.MISSING
            )
            if field.name in result or not has_default:
                value = result[field.name]
                values[field.name] = field.metadata.get("read", _same)(value)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As a job's result has it; a field that is None is left out unless it is `NULLABLE`."""
        return {
            field.name: _plain(value)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if (value := getattr(self, field.name)) is not None or field.metadata.get("null")
        }


@dataclass(frozen=True, kw_only=True)
class PublishedFile(Manifest):
    """A file or folder of the artifact store, as `ArtifactStore.describe` describes it."""

    uri: str
    sha256: str
    bytes: int | None = None
    """Its size; None in what another version wrote."""
    name: str | None = None
    """Of a picture: its file name."""

    @classmethod
    def read_all(cls, entries: Iterable[Mapping[str, Any]]) -> tuple[Self, ...]:
        """The files of a list."""
        return tuple(map(cls.read, entries))


ONE_FILE: Final[Mapping[str, Any]] = {"read": PublishedFile.read}
"""The metadata of a manifest's field that holds a file."""

FILES: Final[Mapping[str, Any]] = {"read": PublishedFile.read_all}
"""The metadata of a manifest's field that holds a list of files."""


NULLABLE: Final[Mapping[str, Any]] = {"null": True}
"""The metadata of a manifest's field that is written as null where it is None."""


def find_result(reference: str, inputs: Mapping[str, JobResult]) -> JobResult | None:
    """The result that a reference names among those handed over to an attempt.

    Args:
        reference: A job's name in the kit, or a job's id.
        inputs: The finished jobs, by the name in the kit or by the id that the spec uses.
    """
    by_id = {result.job_id: result for result in inputs.values()}
    return inputs.get(reference) or by_id.get(reference)


def stored_result(job_id: str, root: Path, *, attempt: int = 0) -> dict[str, Any] | None:
    """The result that the newest complete attempt of a job left in the artifact store.

    Args:
        job_id: The job; None is returned for a text that is no job's id.
        root: The folder of the artifact store.
        attempt: The only attempt to look at; 0: all.
    """
    if not is_job_id(job_id):
        return None
    written = (root / "jobs" / job_id).glob(f"{attempt or '*'}/{MANIFEST}")
    newest = max(written, key=lambda path: int(path.parent.name), default=None)
    if newest is None:
        return None
    result: dict[str, Any] = json.loads(newest.read_bytes())
    return result


def _same(value: Any) -> Any:
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Manifest):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@contextmanager
def readable(job_id: str, field: str) -> Iterator[None]:
    """Translates errors of a block that reads the result of a job.

    Args:
        job_id: The job.
        field: The field of the request that named it.

    Raises:
        ConflictError: It cannot be read.
    """
    try:
        yield
    except ServiceError:
        raise
    except UNREADABLE as error:
        # With its traceback: a fault of the reading code looks the same.
        logger.warning("the result of job %s cannot be read", job_id, exc_info=True)
        raise ConflictError(
            f"{field}: the result of job {job_id} cannot be read; it was written by hand or by "
            "another version of vistaflow: run the job again",
            reason="UNREADABLE_RESULT",
        ) from error
