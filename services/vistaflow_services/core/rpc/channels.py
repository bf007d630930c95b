"""Channel arguments of servers and clients, checked against the names gRPC knows.

gRPC ignores an argument whose name it does not know, silently: a misspelt keepalive is no
keepalive. So every argument passes through `checked`, which knows the names.

The values make a frozen peer noticed in about 15 s and a keen client not turned away.
`ping_timeout_ms` is what does it: keepalive alone noticed a stopped server after 62 s.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

KNOWN_ARGUMENTS = frozenset(
    {
        "grpc.absolute_max_metadata_size",
        "grpc.default_authority",
        "grpc.enable_http_proxy",
        "grpc.enable_retries",
        "grpc.http2.max_ping_strikes",
        "grpc.http2.max_pings_without_data",
        "grpc.http2.min_ping_interval_without_data_ms",
        "grpc.http2.ping_timeout_ms",
        "grpc.initial_reconnect_backoff_ms",
        "grpc.keepalive_permit_without_calls",
        "grpc.keepalive_time_ms",
        "grpc.keepalive_timeout_ms",
        "grpc.max_concurrent_streams",
        "grpc.max_connection_age_grace_ms",
        "grpc.max_connection_age_ms",
        "grpc.max_connection_idle_ms",
        "grpc.max_metadata_size",
        "grpc.max_receive_message_length",
        "grpc.max_reconnect_backoff_ms",
        "grpc.max_send_message_length",
        "grpc.min_reconnect_backoff_ms",
        "grpc.primary_user_agent",
        "grpc.service_config",
        "grpc.so_reuseport",
        "grpc.use_local_subchannel_pool",
    }
)
"""Argument names that gRPC reads; a test looks each up in the library itself."""

Arguments = list[tuple[str, int | str]]

MEGABYTE = 1 << 20


def checked(arguments: Mapping[str, int | str]) -> Arguments:
    """The arguments as gRPC takes them.

    Raises:
        ValueError: A name is not one that gRPC knows.
    """
    for name in arguments:
        if name not in KNOWN_ARGUMENTS:
            near = difflib.get_close_matches(name, KNOWN_ARGUMENTS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"gRPC knows no channel argument {name}{hint}")
    return list(arguments.items())


def server_arguments(*, max_receive_bytes: int, max_send_bytes: int) -> Arguments:
    """What every server is made with."""
    return checked(
        {
            # Without this a second server binds the same port and takes half of the calls.
            "grpc.so_reuseport": 0,
            "grpc.keepalive_time_ms": 20_000,
            "grpc.keepalive_timeout_ms": 10_000,
            "grpc.keepalive_permit_without_calls": 1,
            "grpc.http2.ping_timeout_ms": 10_000,
            "grpc.http2.max_pings_without_data": 0,
            "grpc.http2.min_ping_interval_without_data_ms": 5_000,
            "grpc.max_receive_message_length": max_receive_bytes,
            "grpc.max_send_message_length": max_send_bytes,
        }
    )


def client_arguments(*, max_receive_bytes: int = 64 * MEGABYTE) -> Arguments:
    """What every channel between services is made with."""
    return checked(
        {
            "grpc.keepalive_time_ms": 10_000,
            "grpc.keepalive_timeout_ms": 5_000,
            "grpc.keepalive_permit_without_calls": 1,
            "grpc.http2.ping_timeout_ms": 5_000,
            "grpc.http2.max_pings_without_data": 0,
            "grpc.initial_reconnect_backoff_ms": 200,
            "grpc.min_reconnect_backoff_ms": 1_000,
            "grpc.max_reconnect_backoff_ms": 2_000,
            "grpc.max_receive_message_length": max_receive_bytes,
            # A proxy for the world outside has no business between two services.
            "grpc.enable_http_proxy": 0,
        }
    )
