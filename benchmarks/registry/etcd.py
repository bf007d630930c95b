"""etcd to compare with the registry: Debian's `etcd-server`, called over its gRPC interface.

The few messages are defined here, with the names and numbers of etcd's `rpc.proto`.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from servers import Running, wait_until_serving

from vistaflow_services.suite.ports import free_port

_INT, _BYTES, _BOOL, _MESSAGE = 3, 12, 8, 11
_MESSAGES: dict[str, list[tuple[str, int, int, str]]] = {
    "ResponseHeader": [("revision", 3, _INT, "")],
    "PutRequest": [("key", 1, _BYTES, ""), ("value", 2, _BYTES, "")],
    "PutResponse": [("header", 1, _MESSAGE, "ResponseHeader")],
    "WatchCreateRequest": [("key", 1, _BYTES, ""), ("range_end", 2, _BYTES, "")],
    "WatchRequest": [("create_request", 1, _MESSAGE, "WatchCreateRequest")],
    "KeyValue": [("key", 1, _BYTES, ""), ("mod_revision", 3, _INT, ""), ("value", 5, _BYTES, "")],
    "Event": [("kv", 2, _MESSAGE, "KeyValue")],
    "WatchResponse": [
        ("header", 1, _MESSAGE, "ResponseHeader"),
        ("created", 3, _BOOL, ""),
        ("events", 11, _MESSAGE, "Event"),
    ],
}


def _message_classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="etcd.proto", package="etcdserverpb")
    file.syntax = "proto3"
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            message.field.add(
                name=field,
                number=number,
                type=kind,
                label=3 if field == "events" else 1,
                type_name=f".etcdserverpb.{of}" if of else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    named = pool.FindMessageTypeByName
    return {
        name: message_factory.GetMessageClass(named(f"etcdserverpb.{name}")) for name in _MESSAGES
    }


_classes = _message_classes()
PutRequest = _classes["PutRequest"]
WatchRequest = _classes["WatchRequest"]
WatchCreateRequest = _classes["WatchCreateRequest"]


def channel_to(address: str) -> grpc.aio.Channel:
    """A connection of its own."""
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def put(channel: grpc.aio.Channel) -> Any:
    """The method that puts a value."""
    return channel.unary_unary(
        "/etcdserverpb.KV/Put",
        request_serializer=PutRequest.SerializeToString,
        response_deserializer=_classes["PutResponse"].FromString,
    )


def watch(channel: grpc.aio.Channel) -> Any:
    """The method that watches."""
    return channel.stream_stream(
        "/etcdserverpb.Watch/Watch",
        request_serializer=WatchRequest.SerializeToString,
        response_deserializer=_classes["WatchResponse"].FromString,
    )


@contextlib.asynccontextmanager
async def etcd(home: Path) -> AsyncIterator[Running | None]:
    """An etcd of one member; None where it is not installed."""
    command = shutil.which("etcd")
    if command is None:
        yield None
        return
    client, peer = (f"127.0.0.1:{free_port()}" for _ in range(2))
    started = await asyncio.create_subprocess_exec(
        command,
        *("--data-dir", str(home / "etcd")),
        *(
            "--listen-client-urls",
            f"http://{client}",
            "--advertise-client-urls",
            f"http://{client}",
        ),
        *(
            "--listen-peer-urls",
            f"http://{peer}",
            "--initial-advertise-peer-urls",
            f"http://{peer}",
        ),
        *("--initial-cluster", f"default=http://{peer}"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await wait_until_serving(client)
        yield Running(process=started, address=client)
    finally:
        started.terminate()
        await started.wait()
