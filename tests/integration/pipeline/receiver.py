"""A receiver of webhooks and lineage: a real HTTP server whose answers a test sets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Message:
    """A request that arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """The server, and what arrived at it."""

    port: int
    answer: Callable[[Message], int] = lambda message: 201
    """The status for a message; 0: hangs until the receiver ends; -1: closes without an answer."""

    retry_after: str = ""
    messages: list[Message] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def taken(self) -> list[Message]:
        """The messages that were answered 2xx, in order."""
        return [message for message in self.messages if message.status == 201]

    async def until(self, count: int, seconds: float = 120) -> list[Message]:
        """Waits until so many messages were taken."""
        async with asyncio.timeout(seconds):
            while len(self.taken) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return self.taken


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver for as long as the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            headers = {name.lower(): value for name, value in self.headers.items()}
            message = Message(self.path, headers, self.rfile.read(size), 0)
            message.status = receiver.answer(message)
            receiver.messages.append(message)
            if message.status == 0:
                receiver.over.wait()
            if message.status <= 0:
                self.close_connection = True
                return
            text = b"" if message.status < 400 else b"not today\r\nsecond line"
            self.send_response(message.status)
            if message.status in (301, 302, 307):
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            if receiver.retry_after:
                self.send_header("Retry-After", receiver.retry_after)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.over.set()
            server.shutdown()
            thread.join()
