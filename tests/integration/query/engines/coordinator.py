"""A coordinator that speaks Trino's protocol and fails in chosen ways.

`script` has one step a request for rows: a page of numbers, or a fault. After the last the query
is FINISHED.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COLUMN = {
    "name": "n",
    "type": "bigint",
    "typeSignature": {"rawType": "bigint", "arguments": []},
}


class Coordinator:
    """A server on a port of its own."""

    def __init__(self, script: Sequence[Any], starts: Sequence[Any] = ()) -> None:
        """Starts it.

        Args:
            script: Steps of a query: a list of numbers is a page, an int a status of HTTP, a str
                the name of an error, None a page that never comes.
            starts: The same for each statement, before the query begins.
        """
        self.script, self.starts = list(script), list(starts)
        self.statements: list[str] = []
        self.cancelled = threading.Event()
        self.closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _page(self, step: int, **more: Any) -> dict[str, Any]:
        over = step > len(self.script)
        page = {
            "id": "q1",
            "infoUri": f"{self.url}/info",
            "stats": {"state": "FINISHED" if over else "RUNNING", "progressPercentage": 50.0},
            **more,
        }
        return page if over else {**page, "nextUri": f"{self.url}/v1/statement/q1/{step}"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        coordinator = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"])).decode()
                coordinator.statements.append(text)
                if coordinator.starts:
                    self._answer(coordinator.starts.pop(0), 0)
                else:
                    self._send(coordinator._page(0))

            def do_GET(self) -> None:
                step = int(self.path.rpartition("/")[2])
                if step == len(coordinator.script):
                    self._send(coordinator._page(step + 1, columns=[COLUMN]))
                    return
                action = coordinator.script[step]
                if isinstance(action, int):
                    # Once: the client asks for the same page again.
                    coordinator.script[step] = []
                self._answer(action, step + 1)

            def do_DELETE(self) -> None:
                coordinator.cancelled.set()
                self.send_response(204)
                self.end_headers()

            def _answer(self, action: Any, step: int) -> None:
                match action:
                    case int():
                        self.send_response(action)
                        self.end_headers()
                    case str():
                        kind = "USER_ERROR" if action.islower() else "INTERNAL_ERROR"
                        error = {"message": action, "errorType": kind, "errorName": action}
                        self._send({**coordinator._page(1 << 20), "error": error})
                    case None:
                        while (
                            not coordinator.cancelled.is_set() and not coordinator.closed.is_set()
                        ):
                            time.sleep(0.01)
                    case numbers:
                        rows = [[number] for number in numbers]
                        self._send(coordinator._page(step, columns=[COLUMN], data=rows))

            def _send(self, page: dict[str, Any]) -> None:
                body = json.dumps(page).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Is silent."""

        return Handler
