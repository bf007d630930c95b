"""Calls to one service: deadlines, retries with one request id, errors as exceptions."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from typing import Any, Final

import grpc

from vistaflow.credentials import secured_channel
from vistaflow.errors import (
    CanceledError,
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
    VistaError,
    from_rpc,
)
from vistaflow.replicas import repeatable, replica_count, replicated

FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 5.0

AT_THE_DOOR: Final = frozenset(
    {"RATE_LIMITED", "TOO_MANY_STREAMS", "TOO_MANY_REFUSALS", "TOO_MANY_TOKENS"}
)
"""Reasons of a RESOURCE_EXHAUSTED that came before anything was done."""

TRANSIENT: Final = (UnavailableError, DeadlineExceededError, InternalError, CanceledError)
"""What a stream that is opened again may have left behind."""

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


def waits() -> Callable[[], float]:
    """The next time to wait, in seconds, before trying again: growing, jittered, bounded."""
    last = FIRST_WAIT_SECONDS / 1.5

    def following() -> float:
        nonlocal last
        last = min(last * 1.5, LONGEST_WAIT_SECONDS)
        return last * random.uniform(0.8, 1.2)

    return following


def pause_asked(error: VistaError) -> float | None:
    """How long a service at its limit asks its caller to wait; None if trying again is no use."""
    if isinstance(error, ResourceExhaustedError) and error.reason in AT_THE_DOOR:
        return error.retry_after
    return None


async def call(method: Callable[..., Any], request: Any, *, timeout: float) -> Any:
    """Calls a unary method; tries again while nobody answers, for up to `timeout` seconds.

    A service that asks its caller to come back later is asked again then, within the timeout.

    A request that has a `request_id` is given one, so that trying again is safe. Where there are
    replicas, half of the time left is given to each try: one that is frozen is left behind too.

    Raises:
        VistaError: What the service said.
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
        except grpc.aio.AioRpcError as error:
            translated = from_rpc(error)
            pause = wait()
            asked = pause_asked(translated)
            if asked is not None and time.monotonic() + asked + pause < end:
                await asyncio.sleep(asked + pause)
                continue
            answered = translated.reason not in ("", "UNAVAILABLE", "DRAINING")
            frozen = has_others and isinstance(translated, DeadlineExceededError)
            # Not by us, or it would not be this error: a server that shuts down cancels the calls
            # that it had not begun with.
            dropped = isinstance(translated, CanceledError) and repeatable(request)
            if (
                not (frozen or dropped or isinstance(translated, UnavailableError))
                or answered
                or time.monotonic() + pause >= end
            ):
                raise translated from None
        await asyncio.sleep(pause)
