from __future__ import annotations

from pathlib import Path

import pytest
from grpc._cython import cygrpc

from vistaflow_services.core.rpc.channels import (
    KNOWN_ARGUMENTS,
    checked,
    client_arguments,
    server_arguments,
)


def test_every_known_argument_is_one_that_the_installed_grpc_reads() -> None:
    library = Path(cygrpc.__file__).read_bytes()
    unknown = [each for each in sorted(KNOWN_ARGUMENTS) if each.encode() + b"\0" not in library]
    assert unknown == []


def test_a_misspelt_argument_is_refused_and_the_right_one_named() -> None:
    with pytest.raises(ValueError, match=r"did you mean grpc\.keepalive_time_ms"):
        checked({"grpc.keepalive_time": 1})
    with pytest.raises(ValueError, match="no channel argument"):
        checked({"grpc.http2.min_recv_ping_interval_without_data_ms": 1})


def test_servers_share_no_port_and_notice_a_frozen_peer() -> None:
    arguments = dict(server_arguments(max_receive_bytes=1, max_send_bytes=2))
    assert arguments["grpc.so_reuseport"] == 0
    assert arguments["grpc.http2.ping_timeout_ms"] == 10_000
    assert arguments["grpc.max_receive_message_length"] == 1


def test_clients_ping_no_more_often_than_servers_allow() -> None:
    client = dict(client_arguments())
    server = dict(server_arguments(max_receive_bytes=1, max_send_bytes=1))
    allowed = int(server["grpc.http2.min_ping_interval_without_data_ms"])
    assert int(client["grpc.keepalive_time_ms"]) >= allowed
    assert client["grpc.enable_http_proxy"] == 0
