"""Calls to one service: deadlines, retries with one request id, errors as exceptions."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from vistaflow._rpc.credentials import secured_channel
from vistaflow._rpc.replicas import repeatable, replica_count, replicated
from vistaflow.errors import (
    CanceledError,
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
    VistaError,
    from_rpc,
)

FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 5.0

AT_THE_DOOR: Final = frozenset(
    {"RATE_LIMITED", "TOO_MANY_STREAMS", "TOO_MANY_REFUSALS", "TOO_MANY_TOKENS"}
)
"""Reasons of a RESOURCE_EXHAUSTED that is sent before anything is done."""

TRANSIENT: Final = (UnavailableError, DeadlineExceededError, InternalError, CanceledError)
"""Errors of a stream that may pass when it is opened again."""

OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without this one a frozen server is noticed only after a minute.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # How long a connection may take to be answered; 20 s without it.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)
"""Settings of every channel."""


def open_channel(address: str, token: str | Callable[[], str] = "") -> grpc.aio.Channel:
    """A channel to `address`, such as `127.0.0.1:50051`; it connects at the first call.

    Args:
        address: Where to. Several divided by commas are replicas, of which any will do.
        token: Shown with every call, or asked for at every call.
    """
    return replicated(address, lambda one: secured_channel(one, OPTIONS, token=token))


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Pauses before calls are repeated: growing, bounded, random so that callers do not agree.

    The services pause by it, too, with figures of their own.
    """

    first: float = FIRST_WAIT_SECONDS
    """Seconds before the first repetition."""
    longest: float = LONGEST_WAIT_SECONDS
    growth: float = 1.5
    spread: tuple[float, float] = (0.8, 1.2)
    """The least and the largest random factor of a pause."""

    def pause(self, tried: int) -> float:
        """Seconds before try number `tried` + 1."""
        # A power of any larger number would not be a float.
        power = self.growth ** min(tried, 100)
        return min(self.longest, self.first * power) * random.uniform(*self.spread)


def waits() -> Callable[[], float]:
    """The source of the next pauses in seconds: growing, random within 20 %, at most 5 s."""
    tried, backoff = itertools.count(), Backoff()
    return lambda: backoff.pause(next(tried))


def requested_pause(error: VistaError) -> float | None:
    """The pause in seconds that a service at its limit requests; None if it requests none."""
    if isinstance(error, ResourceExhaustedError) and error.reason in AT_THE_DOOR:
        return error.retry_after
    return None


async def call(method: Callable[..., Any], request: Any, *, timeout: float) -> Any:
    """Calls a unary method; tries again while nobody answers, for up to `timeout` seconds.

    A pause that a service requests is observed, within the timeout. A request that has the field
    `request_id` gets one, so that it can be repeated. Where there are replicas, each try takes
    half of the remaining time, so that a frozen replica leaves time for the next.

    Raises:
        VistaError: The error of the service, or that none was reached.
    """
    if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
        request.request_id = str(uuid.uuid4())
    end = time.monotonic() + timeout
    wait = waits()
    has_others = replica_count(method) > 1 and repeatable(request)
    while True:
        left = (end - time.monotonic()) * (0.5 if has_others else 1.0)
        try:
            return await method(request, timeout=max(0.05, left))
        except grpc.aio.UsageError:
            raise CanceledError("the client was closed", reason="CLOSED") from None
        except grpc.aio.AioRpcError as error:
            translated = from_rpc(error)
            pause = wait()
            requested = requested_pause(translated)
            if requested is not None and time.monotonic() + requested + pause < end:
                await asyncio.sleep(requested + pause)
                continue
            answered = translated.reason not in ("", "UNAVAILABLE", "DRAINING")
            frozen = has_others and isinstance(translated, DeadlineExceededError)
            # A server that shuts down cancels the calls that it has not begun. A cancellation by
            # this process would raise another error.
            dropped = isinstance(translated, CanceledError) and repeatable(request)
            if (
                not (frozen or dropped or isinstance(translated, UnavailableError))
                or answered
                or time.monotonic() + pause >= end
            ):
                raise translated from None
        await asyncio.sleep(pause)
