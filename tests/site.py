"""A web site on this machine, whose pages tests change as they like."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, dict[str, str], bytes]
Asked = dict[str, str]


class Site:
    """Pages by their path; what a page is may be a function of the request's headers."""

    def __init__(self, port: int = 0) -> None:
        self.pages: dict[str, Answer | Callable[[Asked], Answer]] = {}
        self.requests: list[tuple[str, Asked]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.rfile.read(int(headers.get("content-length", 0)))
                site.requests.append((self.path, headers))
                page = site.pages.get(self.path, (404, {}, b"not here"))
                status, fields, body = page(headers) if callable(page) else page
                try:
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(body)), **fields}.items():
                        if value:
                            self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.place = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.place}"

    def html(self, path: str, text: str, charset: str = "utf-8", **fields: str) -> None:
        """Puts a page; its ETag is answered with 304."""
        body = text.encode(charset)
        etag = f'"{hash(body)}"'
        kind = {"Content-Type": "text/html", "ETag": etag, **fields}

        def answer(headers: Asked) -> Answer:
            return (304, {}, b"") if headers.get("if-none-match") == etag else (200, kind, body)

        self.pages[path] = answer

    def paths(self) -> list[str]:
        """What was asked for since the last call, robots.txt left out."""
        paths = [path for path, _ in self.requests if path != "/robots.txt"]
        self.requests.clear()
        return paths


@contextmanager
def serving_site(port: int = 0) -> Iterator[Site]:
    """A site that is served while the block runs, at a free port if none is given."""
    site = Site(port)
    thread = threading.Thread(target=site.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield site
    finally:
        site.server.shutdown()
        site.server.server_close()
        thread.join()
