"""Errors as gRPC statuses with google.rpc details, there and back.

Details travel in the trailing metadata `grpc-status-details-bin`, as a google.rpc.Status: an
ErrorInfo always, a BadRequest when fields are wrong, a RetryInfo when it is known how long to wait,
a RequestInfo for unforeseen errors. HTTP/2 peers refuse headers over 8 KiB, so what is said is
clipped to fit, and says so.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from vistaflow.errors import DETAILS_KEY, details_of
from vistaflow_services.core.errors import (
    ConflictError,
    DataLossError,
    ExhaustedError,
    ExistsError,
    ExpiredError,
    FieldViolation,
    InvalidError,
    NotFoundError,
    PermissionDeniedError,
    ServiceError,
    StaleAttemptError,
    UnauthenticatedError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

DOMAIN = "vistaflow"

MAX_MESSAGE = 1_000
"""Longest message, in bytes; it travels twice, once percent-encoded."""

MAX_DETAILS = 3_800
"""Largest google.rpc.Status, in bytes, before base64."""

_ERRORS: dict[str, type[ServiceError]] = {
    error.code: error
    for error in (
        InvalidError,
        NotFoundError,
        ExistsError,
        ConflictError,
        ExpiredError,
        ExhaustedError,
        StaleAttemptError,
        UnauthenticatedError,
        PermissionDeniedError,
        DataLossError,
        UnavailableError,
    )
}

Metadata = tuple[tuple[str, str | bytes], ...]


def clip(text: str, limit: int = MAX_MESSAGE) -> str:
    """The text, cut to `limit` bytes of UTF-8 with an ellipsis, and free of control characters."""
    text = "".join(character if character.isprintable() else " " for character in text[: limit + 1])
    raw = text.encode(errors="replace")
    if len(raw) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode(errors="ignore") + "…"


def status_of(error: ServiceError) -> tuple[grpc.StatusCode, str, Metadata]:
    """What a call that raised `error` ends with: code, message, trailing metadata."""
    code = grpc.StatusCode[error.code]
    # Percent-encoding triples what is not ASCII, so that such a message is cut earlier.
    message = clip(error.message, MAX_MESSAGE if error.message.isascii() else MAX_MESSAGE // 2)
    status = status_pb2.Status(code=code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in list(error.metadata.items())[:20]:
        info.metadata[clip(key, 64)] = clip(value, 200)
    _add(status, info)
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after * 1e9))
        _add(status, retry)
    if error.violations:
        _add_violations(status, error.violations)
    return code, message, ((DETAILS_KEY, status.SerializeToString()),)


def unforeseen(method: str) -> tuple[grpc.StatusCode, str, Metadata]:
    """What a call that met a bug ends with: nothing but the id of what is logged here.

    Call it where the exception is handled.
    """
    error_id = uuid.uuid4().hex[:12]
    logger.exception("%s failed", method, extra={"error_id": error_id})
    message = f"internal error; the service's log tells more under id {error_id}"
    code = grpc.StatusCode.INTERNAL
    status = status_pb2.Status(code=code.value[0], message=message)
    _add(status, error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN))
    _add(status, error_details_pb2.RequestInfo(request_id=error_id))
    return code, message, ((DETAILS_KEY, status.SerializeToString()),)


def error_of(failure: grpc.aio.AioRpcError) -> ServiceError:
    """The error of a failed call, with its reason and violations."""
    name = failure.code().name
    if name in ("DEADLINE_EXCEEDED", "CANCELLED"):
        name = "UNAVAILABLE"
    kind = _ERRORS.get(name, ServiceError)
    details = details_of(failure)
    return kind(
        failure.details() or failure.code().name.lower().replace("_", " "),
        reason=details.reason or kind.reason,
        violations=[FieldViolation(**vars(violation)) for violation in details.violations],
        metadata=dict(details.metadata),
        retry_after=details.retry_after,
    )


def _add(status: Any, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _add_violations(status: Any, violations: tuple[FieldViolation, ...]) -> None:
    room = MAX_DETAILS - status.ByteSize() - 200
    request = error_details_pb2.BadRequest()
    for number, mistake in enumerate(violations):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=clip(mistake.field, 200), description=clip(mistake.description, 600)
        )
        room -= violation.ByteSize() + 4
        if room < 0:
            more = f"and {len(violations) - number} more mistakes; correct these first"
            request.field_violations.add(field="", description=more)
            break
        request.field_violations.append(violation)
    _add(status, request)
