"""Errors as JSON, with the HTTP status of each gRPC status."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Final

import grpc
from starlette.requests import Request
from starlette.responses import Response

from vistaflow.errors import details_of
from vistaflow_services.core.errors import InvalidError, ServiceError

STATUSES: Final = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""HTTP statuses by gRPC status; of others 500."""


class HttpError(InvalidError):
    """A request that HTTP has a status of its own for.

    Args:
        status: The HTTP status.
        message: The problem, and how to correct it.
        reason: The same for programs.
        headers: Sent with the answer.
    """

    def __init__(
        self, status: int, message: str, *, reason: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message, reason=reason)
        self.status = status
        self.headers = headers or {}


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer of JSON values."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "replace"), status, headers, "application/json")


def unchanged(request: Request, answer: Response, tag: str = "") -> Response:
    """An answer with an ETag, or 304 without a body if the caller has it already.

    Args:
        request: The request.
        answer: The whole answer.
        tag: What names its content; a hash of it if empty.
    """
    tag = f'"{tag or hashlib.sha256(bytes(answer.body)).hexdigest()[:32]}"'
    headers = {
        "etag": tag,
        "cache-control": answer.headers.get("cache-control", "private, no-cache"),
    }
    known = [
        text.strip().removeprefix("W/")
        for text in request.headers.get("if-none-match", "").split(",")
    ]
    if tag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    answer.headers.update(headers)
    return answer


def described(error: ServiceError | grpc.aio.AioRpcError) -> dict[str, Any]:
    """An error as JSON: code, message, reason, and what more is known."""
    if isinstance(error, grpc.aio.AioRpcError):
        details = details_of(error)
        code, message = error.code().name, error.details() or ""
        # Of connections gRPC itself writes the message, which names addresses.
        if not details.reason and code in ("UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED"):
            code = "UNAVAILABLE"
            message = "the service that does this does not answer; try again"
        reason, metadata = details.reason or code, dict(details.metadata)
        violations, retry_after = details.violations, details.retry_after
    else:
        code, message, reason = error.code, error.message, error.reason
        metadata, retry_after = error.metadata, error.retry_after
        violations = error.violations  # type: ignore[assignment]
    described: dict[str, Any] = {"code": code, "message": message, "reason": reason}
    if violations:
        described["violations"] = [
            {"field": violation.field, "description": violation.description}
            for violation in violations
        ]
    if metadata:
        described["metadata"] = metadata
    if retry_after is not None:
        described["retry_after"] = retry_after
    return described


def error_answer(error: ServiceError | grpc.aio.AioRpcError) -> Response:
    """The answer to a request that failed."""
    description = described(error)
    status = STATUSES.get(description["code"], 500)
    headers = {"cache-control": "no-store"}
    if isinstance(error, HttpError):
        status, headers = error.status, headers | error.headers
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status == 503 or "retry_after" in description:
        headers["retry-after"] = str(math.ceil(description.get("retry_after", 1.0)))
    return json_answer(description, status, headers)
