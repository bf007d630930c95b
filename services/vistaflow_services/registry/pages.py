"""Page tokens: where the next page starts, bound to the filters of the first."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence

from google.protobuf.message import Message

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import Violations

ListRequest = pb.ListKitsRequest | pb.ListJobsRequest | pb.ListStatesRequest | pb.ListTokensRequest
PagedRequest = ListRequest | pb.GetKitRequest | pb.GetJobRequest | pb.DiffKitRequest

_DIGEST_BYTES = 12
_KEY_BYTES = 8


def encode(key: int, request: ListRequest) -> str:
    """The token of the page that starts after `key`."""
    return encode_keys((key,), request)


def encode_keys(keys: Sequence[int], request: PagedRequest) -> str:
    """The token of the page that starts after what several numbers say."""
    raw = b"".join(key.to_bytes(_KEY_BYTES, "big") for key in keys) + _digest(request)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode(request: ListRequest, violations: Violations) -> int | None:
    """The key that the request's token holds; None for the first page."""
    keys = decode_keys(request, 1, violations)
    return keys[0] if keys else None


def decode_keys(request: PagedRequest, count: int, violations: Violations) -> tuple[int, ...]:
    """The numbers that the request's token holds; none for the first page."""
    token = request.page_token
    if not token:
        return ()
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    keys, digest = raw[:-_DIGEST_BYTES], raw[-_DIGEST_BYTES:]
    if len(keys) != count * _KEY_BYTES:
        violations.add("page_token", "is not one that was given out; leave it empty to start")
        return ()
    if digest != _digest(request):
        violations.add("page_token", "was given out for other filters; leave it empty to start")
        return ()
    return tuple(
        int.from_bytes(keys[at : at + _KEY_BYTES], "big") for at in range(0, len(keys), _KEY_BYTES)
    )


def size(request: PagedRequest, default: int, most: int, violations: Violations) -> int:
    """How many entries the page may hold."""
    asked = request.page_size
    if asked < 0 or asked > most:
        usual = f"{default:,}" if default else "as many as fit"
        violations.add("page_size", f"is {asked:,}; give 1 to {most:,}, or 0 for {usual}")
        return default
    return asked or default


def _digest(request: Message) -> bytes:
    """Of everything that must stay the same from page to page."""
    kept = type(request)()
    kept.CopyFrom(request)
    for field in ("page_token", "page_size", "min_revision"):
        if field in kept.DESCRIPTOR.fields_by_name:
            kept.ClearField(field)
    text = type(request).__name__.encode() + kept.SerializeToString(deterministic=True)
    return hashlib.sha256(text).digest()[:_DIGEST_BYTES]
