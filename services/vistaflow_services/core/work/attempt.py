"""What a job sees of the world while it runs.

A stage's `jobs.py` has `JOBS`, from job type to the function that does it:

    def generate(attempt: Attempt) -> dict[str, Any]:
        spec = attempt.unpack(doe_pb2.GenerateJob)
        attempt.progress("generate", 0, spec.size, unit="points")
        ...
        return {"design": attempt.artifacts.describe(path), ...}

    JOBS = {"DOE": generate}

What it returns is the job's result: published once, when the attempt is FINISHED. It runs in a
process of its own; what it prints is the job's log. It may be run again from the start at any
time, so it keeps finished parts where the next attempt finds them.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.message_limits import KIBIBYTE, METADATA_BYTES, NESTING, is_deep
from vistaflow_services.core.names import MAX_TASK_NAME
from vistaflow_services.core.results import MANIFEST, JobResult
from vistaflow_services.core.work.artifacts import ArtifactStore

MAX_RESULT_BYTES = 48 * 1024
"""Largest result, as JSON; what is larger belongs into an artifact."""

MAX_METADATA_BYTES = METADATA_BYTES - 4 * KIBIBYTE
"""Largest metadata of a task row, as JSON."""

PROGRESS_SECONDS = 0.1
"""Least time between two words of progress of one phase."""

TASK_STATUSES = ("INIT", "QUEUED", "RUNNING", "FINISHED", "FAILED", "CANCELED")

Spec = TypeVar("Spec", bound=Message)


class JobError(Exception):
    """A failure that its user can understand; trying again would not help.

    Args:
        message: What failed, for people.
        reason: What kind of failure, for programs: UPPER_SNAKE.
        hint: What to do about it.
        details: More, JSON-able, kept with the job's FAILED row.
    """

    def __init__(
        self,
        message: str,
        reason: str = "FAILED",
        hint: str = "",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.hint = hint
        self.details = dict(details or {})


Report = Callable[[dict[str, Any]], None]


def _silent(message: dict[str, Any]) -> None:
    """Drops the message."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One execution of a job. Its methods may be called from any thread."""

    kit_id: int
    """The kit the job belongs to."""

    job_id: str
    """A UUID in its 36-character form."""

    number: int = 1
    """The attempt, from 1."""

    job_type: str = ""
    """Such as `DOE`."""

    name: str = ""
    """The job's name in its kit."""

    spec: Any = None
    """What to do: the stage's own spec message."""

    inputs: Mapping[str, JobResult] = field(default_factory=dict)
    """The finished jobs it depends on, by their name in the kit."""

    folder: Path
    """This attempt's prefix of the artifact store, writable."""

    artifacts: ArtifactStore
    """The artifact store."""

    workers: int = 1
    """Cores it may keep busy."""

    completed: bool = False
    """Whether the spec was completed from a template, as jobs of data kits have them: the registry
    has the template alone."""

    registry: str = ""
    """Where the registry listens, for jobs that record more there than their result."""

    report: Report = _silent
    """Where its messages go; set by the runtime."""

    _last_progress: dict[str, tuple[float, int]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def unpack(self, kind: type[Spec]) -> Spec:
        """The spec as a message of the type it is meant to be.

        Raises:
            JobError: The spec is another message.
        """
        if not isinstance(self.spec, kind):
            named = getattr(getattr(self.spec, "DESCRIPTOR", None), "full_name", "nothing")
            raise JobError(
                f"the job's spec is {named}, not {kind.DESCRIPTOR.full_name}",
                reason="WRONG_SPEC",
                hint="create the job through the stage's own service",
            )
        return self.spec

    def publish(self, result: Any) -> dict[str, Any]:
        """Leaves the job's result in the attempt's prefix, where jobs of other kits find it.

        The artifacts that it describes are on disk before: a power cut leaves no list of damaged
        files.

        Returns:
            The result as JSON has it.
        """
        manifest: dict[str, Any] = plain(result)
        data = json.dumps(manifest, allow_nan=False).encode()
        self.artifacts.settle_described(manifest)
        self.artifacts.write(self.folder / MANIFEST, data)
        return manifest

    def input(self, job_type: str) -> JobResult:
        """The one finished job of this type that this one depends on.

        Raises:
            JobError: There is none, or more than one.
        """
        matches = [result for result in self.inputs.values() if result.job_type == job_type]
        if len(matches) != 1:
            raise JobError(
                f"needs exactly one {job_type} job to depend on, has {len(matches)}",
                reason="MISSING_INPUT",
                hint="name it in the job's depends_on",
            )
        return matches[0]

    def progress(
        self, phase: str, completed: int, total: int = 0, unit: str = "", message: str = ""
    ) -> None:
        """Says how far it is. Cheap: a word too many is dropped, the last of a phase never.

        Args:
            phase: What it is doing, such as `simulate`.
            completed: Units done.
            total: Units in all; 0 when unknown.
            unit: What is counted, such as `runs`.
            message: A line for people, such as the best value so far.
        """
        completed, total = int(completed), int(total)
        now = time.monotonic()
        with self._lock:
            last, count = self._last_progress.get(phase, (-math.inf, -1))
            is_end = completed >= total > 0 and completed != count
            if now - last < PROGRESS_SECONDS and not is_end:
                return
            self._last_progress[phase] = (now, completed)
            self.report(
                {
                    "kind": "progress",
                    "phase": phase[:100],
                    "completed": max(0, completed),
                    "total": max(0, total),
                    "unit": unit[:50],
                    "message": message[:500],
                }
            )

    def task(
        self, name: str, status: str, metadata: Mapping[str, Any] | None = None, reason: str = ""
    ) -> None:
        """Records that a part of the job entered a status, with its details.

        Args:
            name: The part, such as `simulate`; at most 100 characters.
            status: RUNNING, FINISHED, FAILED or CANCELED. RUNNING again updates the metadata.
            metadata: JSON-able, at most 60 KiB.
            reason: Why, for people.

        Raises:
            JobError: The metadata is too large, or nested too deep.
            ValueError: The name or the status is none.
        """
        if status not in TASK_STATUSES:
            raise ValueError(f"`{status}` is no status; known are {', '.join(TASK_STATUSES)}")
        if not 1 <= len(name) <= MAX_TASK_NAME or not name.isprintable():
            raise ValueError(
                f"a task's name has 1 to {MAX_TASK_NAME} printable characters, not `{name[:120]}`"
            )
        plain_metadata = plain(metadata or {})
        size = len(json.dumps(plain_metadata))
        if size > MAX_METADATA_BYTES:
            raise JobError(
                f"the metadata of task {name} has {size:,} bytes of JSON",
                reason="TOO_LARGE",
                hint=f"at most {MAX_METADATA_BYTES:,} fit a row; write an artifact, name its URI",
            )
        if is_deep(plain_metadata):
            raise JobError(
                f"the metadata of task {name} is nested more than {NESTING} levels deep",
                reason="TOO_DEEP",
                hint="make it flatter, or write an artifact and name its URI",
            )
        with self._lock:
            self.report(
                {
                    "kind": "task",
                    "name": name,
                    "status": status,
                    "metadata": plain_metadata,
                    "reason": reason[:4000],
                }
            )

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[dict[str, Any]]:
        """Records a task around a block: RUNNING, then FINISHED with its metadata, or FAILED.

        with attempt.part("generate") as told:
            told["points"] = len(points)
        """
        metadata: dict[str, Any] = {}
        self.task(name, "RUNNING")
        try:
            yield metadata
        except (JobError, ServiceError) as error:
            self.task(name, "FAILED", metadata, reason=error.message)
            raise
        except Exception:
            self.task(name, "FAILED", metadata, reason="internal error; see the job's log")
            raise
        self.task(name, "FINISHED", metadata)


def plain(value: Any) -> Any:
    """The value as JSON has it: numpy scalars and arrays as numbers, NaN and infinity as None."""
    if value is None or isinstance(value, bool | int | str):
        return value if not isinstance(value, str) else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"{type(value).__name__} is not JSON-able")
