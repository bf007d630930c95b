"""A few pages over HTTP, such as metrics, which every caller may read."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
"""How long a client may take to send its request."""


def probe(holds: Callable[[], bool]) -> WSGIApplication:
    """A page for health checks: 200 while something holds, else 503, and no word of why."""
    return lambda _, start: _say(start, "200 OK" if holds() else "503 Service Unavailable")


class Listener(ThreadingMixIn, WSGIServer):
    """Serves pages, each request in a thread of its own.

    Args:
        host: Where to listen.
        port: The port; 0 for a free one.
        pages: What answers at which path.

    Raises:
        OSError: It cannot listen there.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, pages: Mapping[str, WSGIApplication]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)
        self.address = f"{f'[{host}]' if ':' in host else host}:{self.server_port}"
        self.set_app(
            lambda request, start: pages.get(request["PATH_INFO"], _absent)(request, start)
        )

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Serves for as long as the block lasts, and no more after it."""
        thread = threading.Thread(target=self.serve_forever, name="http", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            self.server_close()
            thread.join(5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up or never spoke is nothing to warn of."""
        logger.debug("an HTTP request broke", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: probes come every few seconds."""


def _absent(_: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    return _say(start, "404 Not Found")


def _say(start: StartResponse, status: str) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")])
    return [f"{status.partition(' ')[2]}\n".encode()]
