"""Another user of this machine: a process that connects and calls, for tests that run as root.

with stranger() as calls:
    calls.call(address, "/vistaflow.api.registry.v1.RegistryService/ListKits")
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401  # which the other user may not be able to read
import importlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

UID = 65533
"""A user that is neither root nor anybody else here."""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

API = [
    f"vistaflow.api.{name}.v1.{name}_pb2"
    for name in ("registry", "pipeline", "ingestion", "doe", "ml", "optimize", "query")
]


class Stranger:
    """What the process does."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(
        self, address: str, method: str, request: bytes = b"", *, token: str = "", stream: str = ""
    ) -> tuple[str, str]:
        """The status that a call ends with, and its message; OK once a first answer came.

        Args:
            address: Of the service.
            method: Its path.
            request: The request's bytes.
            token: Shown with the call.
            stream: `server` or `both` for a call that streams.
        """
        code, message = self._do(
            "call",
            address=address, method=method, request=request.hex(), token=token, stream=stream,
        )  # fmt: skip
        return code, message

    def fetch(self, url: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """The HTTP status of a GET, and the answer's text."""
        status, text = self._do("fetch", url=url, headers=headers or {})
        return status, text

    def connect(self, host: str, port: int, *, mapped: bool = False, own_port: int = 0) -> int:
        """Opens a connection and leaves it open; its own port."""
        port = self._do("connect", host=host, port=port, mapped=mapped, own_port=own_port)
        return port

    def close(self, own_port: int) -> None:
        """Ends a connection at once, and frees its port."""
        self._do("close", own_port=own_port)

    def _do(self, what: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def stranger(uid: int = UID) -> Iterator[Stranger]:
    """A process of another user, for as long as the block runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.strangers", str(uid)],
        cwd=Path(__file__).parents[1],
        env={name: text for name, text in os.environ.items() if not name.startswith("VISTAFLOW_")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Stranger(process)


def methods() -> Iterator[tuple[str, str, str]]:
    """Every call of every service: the service's name, the call's path, and what it streams."""
    for module in API:
        for service in importlib.import_module(module).DESCRIPTOR.services_by_name.values():
            for each in service.methods:
                stream = "both" if each.client_streaming else "server" * each.server_streaming
                yield module.split(".")[2], f"/{service.full_name}/{each.name}", stream


def _call(address: str, method: str, request: str, token: str, stream: str) -> tuple[str, str]:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    body = bytes.fromhex(request)
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            if stream == "both":
                answers = channel.stream_stream(method)(iter([body]), timeout=60, metadata=metadata)
                next(answers, None)
            elif stream:
                next(channel.unary_stream(method)(body, timeout=60, metadata=metadata), None)
            else:
                channel.unary_unary(method)(body, timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name, error.details() or ""
    return "OK", ""


def _fetch(url: str, headers: dict[str, str]) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _connect(host: str, port: int, mapped: bool, own_port: int) -> socket.socket:
    family = socket.AF_INET6 if mapped or ":" in host else socket.AF_INET
    opened = socket.socket(family)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if own_port:
        opened.bind((host, own_port))
    opened.connect((f"::ffff:{host}" if mapped else host, port))
    return opened


def main(uid: int) -> None:
    """Becomes the user and does what comes on standard input."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    connections: dict[int, socket.socket] = {}
    for line in sys.stdin:
        arguments = json.loads(line)
        what = arguments.pop("do")
        answer: Any = None
        if what == "call":
            answer = _call(**arguments)
        elif what == "fetch":
            answer = _fetch(**arguments)
        elif what == "connect":
            opened = _connect(**arguments)
            answer = opened.getsockname()[1]
            connections[answer] = opened
        elif what == "close":
            opened = connections.pop(arguments["own_port"])
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            opened.close()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
