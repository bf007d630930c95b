"""Errors the client raises: one a status. A `grpc.RpcError` never reaches the caller.

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
KitFailedError                not a status: the kit waited for did not finish
RowsRefusedError              not a status: rows that were sent over a stream are not recorded
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2, status_pb2


@dataclass(frozen=True, kw_only=True)
class FieldViolation:
    """One mistake in a request."""

    field: str
    """Path of the field, such as `design.size`."""

    description: str
    """What is wrong with its value, and how to mend it."""


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


class InvalidArgumentError(VistaError):
    """The request is malformed; repeating it cannot succeed."""


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

_DETAILS = "grpc-status-details-bin"


def from_rpc(error: grpc.aio.AioRpcError) -> VistaError:
    """The exception that tells what `error` says."""
    reason, error_id, retry_after = "", "", None
    violations: tuple[FieldViolation, ...] = ()
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS or not isinstance(value, bytes):
            continue
        for each in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            request = error_details_pb2.RequestInfo()
            bad = error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if each.Unpack(info):
                reason = info.reason
            elif each.Unpack(request):
                error_id = request.request_id
            elif each.Unpack(retry):
                retry_after = retry.retry_delay.ToNanoseconds() / 1e9
            elif each.Unpack(bad):
                violations = tuple(
                    FieldViolation(field=one.field, description=one.description)
                    for one in bad.field_violations
                )
    kind = BY_CODE.get(error.code(), VistaError)
    message = error.details() or error.code().name
    return kind(
        message,
        reason=reason,
        error_id=error_id,
        violations=violations,
        retry_after=retry_after,
    )
