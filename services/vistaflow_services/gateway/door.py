"""Who may call: hosts, origins, tokens, sessions, the owner's connections.

A browser carries requests of any page that it shows, so a request is looked at in this order:

* its `Host` must be a name of this gateway or an IP address. A foreign name that resolves to this
  machine (DNS rebinding) is refused.
* its `Origin`, if there is one, must be the gateway's own or one of `VISTAFLOW_GATEWAY_ORIGINS`;
  without one, a request that the browser says another site caused is refused.
* a change has to be `application/json`, which a page of another origin cannot send without asking.
* its token is checked as every service checks it (`core/door/`). A session is a token that this
  gateway has sealed into a cookie.
* where the owner needs no token, the kernel names the user of the connection. The look-up names the
  user of the connection that has these two addresses and ports at that time. The socket of the
  request is looked at afterwards: if it is still established, the connection was no other, as the
  kernel has one connection between two addresses and ports at a time.

What is done for a request is done with its token (`upstream.py`).
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken
from starlette.requests import Request

from vistaflow_services.core import files
from vistaflow_services.core.door.callers import EVERYBODY, Caller
from vistaflow_services.core.door.interceptor import DoorSettings
from vistaflow_services.core.door.limits import Strangers
from vistaflow_services.core.door.owner import Owner
from vistaflow_services.core.door.tokens import Tokens
from vistaflow_services.core.errors import (
    PermissionDeniedError,
    ServiceError,
    UnauthenticatedError,
)
from vistaflow_services.gateway.answers import HttpError

logger = logging.getLogger(__name__)

COOKIE: Final = "vistaflow_session"
SESSION_SECONDS: Final = 12 * 3600
"""How long a session lasts at most; it ends with its token."""

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

_TCP_ESTABLISHED: Final = 1


class HttpDoor:
    """Lets requests in, or not.

    Args:
        settings: Who may call, as for every service.
        tokens: Finds the bearers of tokens.
        hosts: Names of this gateway.
        origins: Origins whose pages may call.
        key_file: The key of sessions, made when it is missing.
    """

    def __init__(
        self,
        settings: DoorSettings,
        tokens: Tokens,
        *,
        hosts: frozenset[str],
        origins: frozenset[str],
        key_file: Path,
    ) -> None:
        self.settings = settings
        self.owner = Owner(settings.owner_token) if settings.owner else None
        """The user whose connections need no token."""
        self._tokens = tokens
        self._hosts = hosts | {"localhost"}
        self._origins = origins
        self._strangers = Strangers(settings.refusals_per_second)
        # Other services check tokens, too: the owner's shows that a call is made for the owner.
        self._owner_caller = Caller(secret=settings.owner_token)
        self._key_file = key_file
        self._sealing: Fernet | None = None

    def check_origin(self, request: Request, *, starts: bool) -> str:
        """Checks where a request comes from; the foreign origin that is allowed to send it.

        Args:
            request: The request.
            starts: Whether it changes something although it is a GET.

        Raises:
            HttpError: It is refused.
        """
        host = request.headers.get("host", "")
        if not self._is_own(host):
            raise HttpError(
                421,
                "this gateway is not known by that name; set VISTAFLOW_GATEWAY_HOSTS",
                reason="HOST_FOREIGN",
            )
        origin = request.headers.get("origin", "")
        if origin and origin != f"{request.url.scheme}://{host}":
            if origin not in self._origins:
                raise _foreign("origins")
            return origin
        site = request.headers.get("sec-fetch-site", "")
        opens_page = (
            request.method == "GET"
            and not starts
            and request.headers.get("sec-fetch-mode") == "navigate"
            and request.headers.get("sec-fetch-dest") == "document"
        )
        if not origin and site not in ("", "same-origin", "none") and not opens_page:
            raise _foreign("origins")
        if starts and not site and request.headers.get("user-agent", "").startswith("Mozilla/"):
            # An old browser, or one that trusts the address too little to say who caused this.
            raise _foreign("browsers that do not say which site caused a request")
        return ""

    def check_change(self, request: Request) -> None:
        """Checks that no page of another origin could have sent a change.

        Raises:
            HttpError: Its body is not declared as JSON.
        """
        # Browsers ask before they send PUT or DELETE to another origin, and are refused.
        if request.method in SAFE or request.method in ("PUT", "DELETE"):
            return
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HttpError(
                415,
                "changes are sent as JSON: set the header `content-type: application/json`",
                reason="CONTENT_TYPE",
            )

    async def caller(self, request: Request) -> Caller:
        """Who makes a request.

        Raises:
            UnauthenticatedError: There is no valid token, and the connection is not the owner's.
        """
        text = self._token(request)
        if not self.settings.required:
            return EVERYBODY
        peer = peer_of(request)
        if not text:
            if await self._is_owner(request, peer):
                return self._owner_caller
            self._strangers.look(peer, "TOKEN_MISSING")
            raise UnauthenticatedError(
                "a token is required here: send `authorization: Bearer …`, or sign in at /login",
                reason="TOKEN_MISSING",
            )
        return await self.bearer(text, peer)

    async def bearer(self, text: str, peer: str) -> Caller:
        """The bearer of a token.

        Raises:
            UnauthenticatedError: It is not valid.
        """
        if self.owner is not None and self.owner.is_shown(text):
            return self._owner_caller
        if self._tokens.knows(text):
            return await self._tokens.caller(text)
        who = self._strangers.look(peer, "")
        try:
            caller = await self._tokens.caller(text)
        except UnauthenticatedError:
            raise
        except ServiceError:
            self._strangers.welcome(who)
            raise
        self._strangers.welcome(who)
        return caller

    def sealed(self, text: str) -> str:
        """A token as the value of a cookie."""
        return self._fernet().encrypt(text.encode()).decode()

    def _token(self, request: Request) -> str:
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and text.strip():
            return text.strip()
        cookie = request.cookies.get(COOKIE, "")
        if not cookie or not self.settings.required:
            return ""
        try:
            return self._fernet().decrypt(cookie.encode(), ttl=SESSION_SECONDS).decode()
        except (InvalidToken, ValueError):
            return ""

    def _fernet(self) -> Fernet:
        if self._sealing is None:
            import base64

            key = bytes.fromhex(files.secret(self._key_file, 32))
            self._sealing = Fernet(base64.urlsafe_b64encode(key))
        return self._sealing

    async def _is_owner(self, request: Request, peer: str) -> bool:
        if self.owner is None or not await self.owner.owns_connection(peer):
            return False
        opened = request.scope["state"]["transport"].get_extra_info("socket")
        try:
            state = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except (AttributeError, OSError):
            return False
        return bool(state == _TCP_ESTABLISHED)

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name.rstrip(".").lower() in self._hosts:
            return True
        try:
            # No page has an address as its name that is not served from there.
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def peer_of(request: Request) -> str:
    """The other end of a request's connection, as gRPC writes it."""
    address: Any = request.scope.get("client")
    if not address:
        return ""
    host, port = address[0], address[1]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def _foreign(what: str) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"pages of other {what} may not call this gateway; set VISTAFLOW_GATEWAY_ORIGINS"
        if what == "origins"
        else f"{what} may not start anything by GET; use POST",
        reason="ORIGIN_FOREIGN",
    )
