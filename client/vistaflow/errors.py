"""The exceptions of the client, one for each status. Methods of a client raise no others.

VistaError
├── InvalidArgumentError      INVALID_ARGUMENT      with `violations`, one a mistake
├── NotFoundError             NOT_FOUND
├── AlreadyExistsError        ALREADY_EXISTS
├── FailedPreconditionError   FAILED_PRECONDITION
├── OutOfRangeError           OUT_OF_RANGE          the revision is no longer kept
├── AbortedError              ABORTED               the attempt is stale
├── ResourceExhaustedError    RESOURCE_EXHAUSTED
├── UnavailableError          UNAVAILABLE           nobody answers
├── DeadlineExceededError     DEADLINE_EXCEEDED     the outcome is unknown
├── CanceledError             CANCELLED
├── PermissionDeniedError     PERMISSION_DENIED
├── UnauthenticatedError      UNAUTHENTICATED
├── UnimplementedError        UNIMPLEMENTED         the server is older or newer
└── InternalError             INTERNAL, UNKNOWN, DATA_LOSS   a fault of the service

ForkedError                   not a status: the process was forked from one that used the client
MissingPackageError           not a status: a method needs a package that is not installed
KitFailedError                not a status: the kit waited for did not finish
RowsRefusedError              not a status: rows that were sent over a stream are not recorded
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "CanceledError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "FieldViolation",
    "ForkedError",
    "InternalError",
    "InvalidArgumentError",
    "KitFailedError",
    "MissingPackageError",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "RefusedRow",
    "ResourceExhaustedError",
    "RowsRefusedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "VistaError",
]


@dataclass(frozen=True, kw_only=True)
class FieldViolation:
    """One mistake in a request."""

    field: str
    """Path of the field, such as `design.size`."""

    description: str
    """What is wrong with its value, and how to correct it."""


@dataclass(frozen=True, kw_only=True)
class RefusedRow:
    """A row that the registry did not record."""

    place: int
    """Its place among the rows of its stream, from 1."""
    job_id: str
    task_name: str
    status: str
    seq: int
    verdict: str
    """REJECTED or STALE_ATTEMPT."""
    detail: str
    """Why."""
    reason: str
    """The code for `detail`, such as `SEQ_REUSED`, if there is one."""

    def __str__(self) -> str:
        name = f"task {self.task_name!r}" if self.task_name else "the job's own row"
        return f"row {self.place}, {name} of job {self.job_id}: {self.verdict}: {self.detail}"


class VistaError(Exception):
    """A call to a vistaflow service failed."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        error_id: str = "",
        violations: tuple[FieldViolation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        """A word for programs, such as `REQUEST_ID_REUSED`."""
        self.error_id = error_id
        """Names the entry in the service's log, for faults of the service."""
        self.violations = violations
        """Every mistake of the request."""
        self.retry_after = retry_after
        """Seconds after which the same may succeed, if the service said so."""


class InvalidArgumentError(VistaError, ValueError):
    """The request is malformed; repeating it cannot succeed. Also a `ValueError`."""


class NotFoundError(VistaError):
    """The thing asked for does not exist."""


class AlreadyExistsError(VistaError):
    """The name or request id is taken by something else."""


class FailedPreconditionError(VistaError):
    """The current state does not allow the request."""


class OutOfRangeError(VistaError):
    """The revision is beyond the log, or no longer kept."""


class AbortedError(VistaError):
    """The attempt that speaks is no longer the current one."""


class ResourceExhaustedError(VistaError):
    """A limit is reached; less, or later, may succeed."""


class UnavailableError(VistaError):
    """Nobody answers there, or a dependency is down; trying again may succeed."""


class DeadlineExceededError(VistaError):
    """No answer in time. What was asked for may have happened."""


class CanceledError(VistaError):
    """The call was canceled."""


class PermissionDeniedError(VistaError):
    """The caller may not do this."""


class UnauthenticatedError(VistaError):
    """The caller did not say who it is."""


class UnimplementedError(VistaError):
    """The service does not know the call: its version differs from the client's."""


class ForkedError(VistaError):
    """The process was forked from one that used the client; use spawn or a fork server instead."""


class InternalError(VistaError):
    """A fault of the service; `error_id` names it in the service's log."""


class MissingPackageError(VistaError, ImportError):
    """A method needs a package that is not installed. Also an `ImportError`."""


class KitFailedError(VistaError):
    """The kit waited for ended FAILED or CANCELED."""


class RowsRefusedError(VistaError):
    """The registry refused some rows of a stream; all others are recorded."""

    def __init__(self, count: int, rows: tuple[RefusedRow, ...]) -> None:
        shown = "; ".join(map(str, rows[:3]))
        more = f"; and {count - 3:,} more" if count > 3 else ""
        noun = "row is" if count == 1 else "rows are"
        super().__init__(f"{count:,} {noun} not recorded: {shown}{more}", reason="ROWS_REFUSED")
        self.count = count
        """The number of refused rows."""
        self.rows = rows
        """The first of them, at most 1,000."""


def invalid(field: str, problem: str) -> InvalidArgumentError:
    """The error for one mistake in the arguments of a call.

    Args:
        field: The argument, such as `statuses`.
        problem: What is wrong with it, and how to correct it.
    """
    violation = FieldViolation(field=field, description=problem)
    return InvalidArgumentError(f"{field}: {problem}", violations=(violation,))


BY_CODE: dict[grpc.StatusCode, type[VistaError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRangeError,
    grpc.StatusCode.ABORTED: AbortedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CanceledError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.UNIMPLEMENTED: UnimplementedError,
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}
"""The exception of each status."""

DETAILS_KEY = "grpc-status-details-bin"
"""The trailing metadata of a failed call that holds its `google.rpc.Status`."""


@dataclass(frozen=True, kw_only=True)
class StatusDetails:
    """The details of the status of a failed call, without its code and message."""

    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    error_id: str = ""
    retry_after: float | None = None
    """Seconds."""
    violations: tuple[FieldViolation, ...] = ()


def details_of(error: grpc.aio.AioRpcError) -> StatusDetails:
    """The details that a service sent with an error; empty where they cannot be parsed.

    The services read the errors of other services with it, too.
    """
    details = StatusDetails()
    for detail in _details(error):
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
        bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            details = replace(details, reason=info.reason, metadata=dict(info.metadata))
        elif detail.Unpack(request):
            details = replace(details, error_id=request.request_id)
        elif detail.Unpack(retry):
            details = replace(details, retry_after=retry.retry_delay.ToNanoseconds() / 1e9)
        elif detail.Unpack(bad):
            violations = tuple(
                FieldViolation(field=violation.field, description=violation.description)
                for violation in bad.field_violations
            )
            details = replace(details, violations=violations)
    return details


def _details(error: grpc.aio.AioRpcError) -> Iterator[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            try:
                raw = value if isinstance(value, bytes) else str(value).encode()
                yield from status_pb2.Status.FromString(raw).details
            except DecodeError:
                continue


def from_rpc(error: grpc.aio.AioRpcError) -> VistaError:
    """The exception for an error of gRPC, with the details that the service sent."""
    details = details_of(error)
    kind = BY_CODE.get(error.code(), VistaError)
    message = error.details() or error.code().name
    return kind(
        message,
        reason=details.reason,
        error_id=details.error_id,
        violations=details.violations,
        retry_after=details.retry_after,
    )
