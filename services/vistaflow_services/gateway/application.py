"""The routes."""

from __future__ import annotations

import html
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from vistaflow_services.core.errors import NotFoundError, UnauthenticatedError
from vistaflow_services.gateway.answers import error_answer, json_answer
from vistaflow_services.gateway.artifacts import Artifacts
from vistaflow_services.gateway.door import COOKIE, SESSION_SECONDS, HttpDoor, peer_of
from vistaflow_services.gateway.events import Events
from vistaflow_services.gateway.former import Former
from vistaflow_services.gateway.gate import body_of
from vistaflow_services.gateway.logs import Logs
from vistaflow_services.gateway.openapi import pages
from vistaflow_services.gateway.page.reports import Reports
from vistaflow_services.gateway.page.serving import VIEWS, Page
from vistaflow_services.gateway.rows import DATASETS, DESIGNS, MEDIA_TYPES, RESULTS, Rows
from vistaflow_services.gateway.rpc import Rpcs
from vistaflow_services.gateway.uploads import Uploads
from vistaflow_services.gateway.upstream import METHODS, Upstream

COOKIE_CHARACTERS: Final = 3_900
"""Browsers drop cookies of more than 4,096 with their name and attributes."""

_LOGIN: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>vistaflow</title>
<form method="post" action="/login"><p role="alert">{problem}</p>
<label>Token <input type="password" name="token" autocomplete="current-password" required></label>
<button>Sign in</button></form></html>"""

_OWN_ORIGIN: Final = {"referrer-policy": "same-origin"}
"""Without a referrer browsers send forms with the origin `null`, which the door refuses."""


def application(
    upstream: Upstream,
    events: Events,
    door: HttpDoor,
    *,
    scratch: Path,
    most_upload_bytes: int,
    serving: Callable[[], bool],
) -> Router:
    """What is behind the gate.

    Args:
        upstream: The services.
        events: Serves watches.
        door: Makes sessions.
        scratch: A folder for uploads of unknown SHA-256.
        most_upload_bytes: Largest of those.
        serving: Whether the gateway is ready.
    """
    rows = Rows(upstream)
    former = Former(upstream, rows)
    logs = Logs(upstream)
    sessions = _Sessions(door)
    page = Page()

    async def health(request: Request) -> Response:
        is_serving = serving()
        status = "SERVING" if is_serving else "NOT_SERVING"
        return json_answer({"status": status}, 200 if is_serving else 503)

    async def index(request: Request) -> Response:
        paths = sorted({route.path for route in routes if route.path.startswith("/v1")})
        return json_answer({"paths": paths, "rpcs": [f"/v1/rpc/{name}" for name in METHODS]})

    routes = [
        *pages.routes(),
        Route("/", page.index),
        *(Route(f"/{view}", page.index) for view in VIEWS),
        *(Route(f"/{view}/{{rest:path}}", page.index) for view in VIEWS),
        Route("/assets/{name}", page.asset),
        Route("/v1", index),
        Route("/healthz", health),
        Route("/login", sessions.form, methods=["GET"]),
        Route("/login", sessions.login, methods=["POST"]),
        Route("/logout", sessions.logout, methods=["POST"]),
        Route("/v1/events", events.of_all),
        Route("/v1/kits/{kit_id}/events", events.of_kit),
        Route("/v1/kits/{kit_id}/report", Reports(upstream).of_kit),
        Route("/v1/jobs/{job_id}/logs", logs.read),
        Route("/v1/services/{service}/logs", logs.read),
        Route("/v1/artifacts/{path:path}", Artifacts(upstream).read),
        Route(
            "/v1/files/{file}",
            Uploads(upstream, scratch, most_upload_bytes).put,
            methods=["PUT"],
        ),
        Route("/v1/query", former.query),
        Route("/convert_to_csv", former.convert, methods=["POST"]),
        Route("/convert_to_excel", former.convert, methods=["POST"]),
        Route("/convert_to_csv/status", former.status),
        Route("/preprocess/shopping", former.shopping),
    ]
    for path, source in (("queries", RESULTS), ("datasets", DATASETS), ("designs", DESIGNS)):
        read = rows.endpoint(source)
        routes += [
            Route(f"/v1/{path}/{{key}}/rows.{{suffix}}", read),
            Route(f"/v1/{path}/{{key}}/rows", read),
        ]
    routes += Rpcs(upstream, events).routes()
    assert set(MEDIA_TYPES) >= set(RESULTS.formats)
    return _Routes(routes)


class _Routes(Router):
    """Routes, grouped by the first two parts of their paths, so that few are tried."""

    def __init__(self, routes: list[Route]) -> None:
        super().__init__(routes, redirect_slashes=False, default=_missing)
        self._groups: dict[tuple[str, ...], Router] = {}
        for route in routes:
            parts = takewhile(lambda part: "{" not in part, route.path.split("/")[1:3])
            group = Router(redirect_slashes=False, default=_missing)
            self._groups.setdefault(tuple(parts), group).routes.append(route)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers by the group of the path."""
        parts = tuple(scope["path"].split("/")[1:3])
        group = self._groups.get(parts) or self._groups.get(parts[:1])
        await (group.app if group else _missing)(scope, receive, send)


class _Sessions:
    """Sessions of browsers, which cannot send a token with every request."""

    def __init__(self, door: HttpDoor) -> None:
        self._door = door

    async def form(self, request: Request) -> Response:
        return HTMLResponse(_LOGIN.format(problem=""), headers=_OWN_ORIGIN)

    async def login(self, request: Request) -> Response:
        fields = parse_qs((await body_of(request, 8192)).decode("utf-8", "replace"))
        text = fields.get("token", [""])[0].strip()
        if self._door.settings.required:
            try:
                await self._door.bearer(text, peer_of(request))
            except UnauthenticatedError as error:
                page = _LOGIN.format(problem=html.escape(error.message))
                return HTMLResponse(page, 401, headers=_OWN_ORIGIN)
        sealed = self._door.sealed(text)
        if len(sealed) > COOKIE_CHARACTERS:
            problem = "This token is too long for a cookie; send it as a Bearer token."
            return HTMLResponse(_LOGIN.format(problem=problem), 413, headers=_OWN_ORIGIN)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE,
            sealed,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def logout(self, request: Request) -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer


async def _missing(scope: Scope, receive: Receive, send: Send) -> None:
    await error_answer(NotFoundError(f"there is nothing at {scope['path'][:200]}"))(
        scope, receive, send
    )
