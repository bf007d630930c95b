"""Errors a service may raise.

    ServiceError
    ├── InvalidError       INVALID_ARGUMENT     the request is malformed
    ├── NotFoundError      NOT_FOUND            no such thing
    ├── ExistsError        ALREADY_EXISTS       the name or request_id is taken
    ├── ConflictError      FAILED_PRECONDITION  not allowed in the current state
    ├── ExpiredError       OUT_OF_RANGE         no longer kept
    ├── ExhaustedError     RESOURCE_EXHAUSTED   over a limit
    ├── StaleAttemptError  ABORTED              a lost worker's late word
    ├── BusyError          ABORTED              another call does the same now
    ├── UnauthenticatedError   UNAUTHENTICATED    no valid token
    ├── PermissionDeniedError  PERMISSION_DENIED  the token's role is too small
    ├── TooSlowError       DEADLINE_EXCEEDED    it took longer than it may
    ├── DataLossError      DATA_LOSS            what is stored is damaged
    └── UnavailableError   UNAVAILABLE          a dependency is down, try again

Raise these anywhere below the servicer. `vistaflow_services.core.server.shell` turns
them into gRPC statuses with details; nothing else knows about status codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FieldViolation:
    """One mistake in a request."""

    field: str
    """Path of the field, such as `jobs[2].depends_on[0]`."""

    description: str
    """What is wrong with its value, and how to correct it."""


MAX_TEXT = 4_000
"""Most characters of a message: it may quote what a caller sent, and goes to callers and logs."""


def cut(text: str, limit: int) -> str:
    """The text, with an ellipsis in place of what is beyond the limit."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


class ServiceError(Exception):
    """Base of every error whose message is meant for the caller."""

    code = "INTERNAL"
    reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        violations: Iterable[FieldViolation] = (),
        metadata: dict[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        message = cut(message, MAX_TEXT)
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        """Seconds after which the same may succeed, if that is known."""
        if reason is not None:
            self.reason = reason


class InvalidError(ServiceError):
    """The request is malformed; repeating it cannot succeed."""

    code = "INVALID_ARGUMENT"
    reason = "INVALID"


class NotFoundError(ServiceError):
    """The thing asked for does not exist."""

    code = "NOT_FOUND"
    reason = "NOT_FOUND"


class ExistsError(ServiceError):
    """The name or request id is taken by something else."""

    code = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class ConflictError(ServiceError):
    """The current state does not allow the request."""

    code = "FAILED_PRECONDITION"
    reason = "FAILED_PRECONDITION"


class ExpiredError(ServiceError):
    """The thing asked for existed and is no longer kept."""

    code = "OUT_OF_RANGE"
    reason = "EXPIRED"


class ExhaustedError(ServiceError):
    """A limit is reached; less, or later, may succeed."""

    code = "RESOURCE_EXHAUSTED"
    reason = "RESOURCE_EXHAUSTED"


class StaleAttemptError(ServiceError):
    """The attempt that speaks is no longer the current one."""

    code = "ABORTED"
    reason = "STALE_ATTEMPT"


class BusyError(ServiceError):
    """Another call does the same now, or has gone on meanwhile; look again, then try again."""

    code = "ABORTED"
    reason = "BUSY"


class UnauthenticatedError(ServiceError):
    """The caller showed no token, or one that is not valid."""

    code = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class PermissionDeniedError(ServiceError):
    """The caller is known and may not do this."""

    code = "PERMISSION_DENIED"
    reason = "PERMISSION_DENIED"


class TooSlowError(ServiceError):
    """It took longer than it may; less may succeed."""

    code = "DEADLINE_EXCEEDED"
    reason = "TOO_SLOW"


class DataLossError(ServiceError):
    """What is stored is damaged and cannot be read."""

    code = "DATA_LOSS"
    reason = "DATA_LOSS"


class UnavailableError(ServiceError):
    """Something the service depends on is not there now; trying again may succeed."""

    code = "UNAVAILABLE"
    reason = "UNAVAILABLE"


def field_error(field: str, problem: str) -> InvalidError:
    """The error of a request with one mistake, under the path of its field."""
    return InvalidError(
        f"{field}: {problem}", violations=[FieldViolation(field=field, description=problem)]
    )


MAX_VIOLATIONS = 1_000
"""Most mistakes of one request that are reported."""


class Violations:
    """Collects the mistakes of a request, so that one error reports all of them."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        """Notes one mistake; none beyond `MAX_VIOLATIONS`."""
        if len(self._violations) < MAX_VIOLATIONS:
            self._violations.append(
                FieldViolation(field=cut(field, MAX_TEXT), description=cut(description, MAX_TEXT))
            )

    def extend(self, prefix: str, error: ServiceError) -> None:
        """Notes the mistakes of `error` with `prefix` before each field path."""
        for violation in error.violations:
            field = (
                f"{prefix}.{violation.field}"
                if prefix and violation.field
                else prefix or violation.field
            )
            self.add(field, violation.description)
        if not error.violations:
            self.add(prefix, error.message)

    def __bool__(self) -> bool:
        return bool(self._violations)

    def __len__(self) -> int:
        return len(self._violations)

    def __iter__(self) -> Iterator[FieldViolation]:
        return iter(self._violations)

    def check(self) -> None:
        """Raises `InvalidError` with all mistakes, if there are any."""
        if self._violations:
            texts = "; ".join(
                f"{violation.field}: {violation.description}" for violation in self._violations[:5]
            )
            more = f" (and {len(self._violations) - 5} more)" if len(self._violations) > 5 else ""
            raise InvalidError(texts + more, violations=self._violations)
