"""Handing out tokens, taking them back, and telling whose one is."""

from __future__ import annotations

import hashlib
import hmac
import logging
import uuid

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import callers
from vistaflow_services.core.access import role_number, role_of
from vistaflow_services.core.callers import Caller, Role, Validity
from vistaflow_services.core.errors import NotFoundError, Violations
from vistaflow_services.core.tokens import Tokens, digest_of, id_of, invalid
from vistaflow_services.registry import pages, translate
from vistaflow_services.registry.domain import MAX_PROJECT
from vistaflow_services.registry.token_store import Asked, Token, TokenStore

logger = logging.getLogger(__name__)

MAX_NAME = 200
MAX_PAGE = 1000
MIN_LIFETIME_SECONDS = 60.0
MAX_LIFETIME_SECONDS = 10 * 366 * 86400.0


class TokenService:
    """Serves CreateToken, ListTokens and RevokeToken, and the door of this registry.

    Args:
        store: Where tokens are kept.
    """

    def __init__(self, store: TokenStore) -> None:
        self._store = store
        self.tokens = Tokens(self._find)
        """For the door."""

    async def create(self, request: pb.CreateTokenRequest) -> pb.CreateTokenResponse:
        """Makes a token."""
        found = Violations()
        role = role_of(request.role)
        if role is None:
            found.add("role", "give ROLE_VIEWER, ROLE_EDITOR, ROLE_ADMIN or ROLE_WORKER")
        check_name(request.name, found)
        check_project(request.project, role, found)
        seconds = None
        if request.HasField("lifetime"):
            seconds = request.lifetime.seconds + request.lifetime.nanos / 1e9
        check_lifetime(seconds, "lifetime", found)
        asked = None
        if request.request_id:
            request_id = translate.uuid_from_proto(request.request_id, "request_id", found)
            body = request.SerializeToString(deterministic=True)
            asked = Asked(request_id=request_id, body_sha256=hashlib.sha256(body).hexdigest())
        found.check()
        assert role is not None
        by = callers.current()
        token, text, replayed = await self._store.create(
            name=request.name,
            project=request.project,
            role=role,
            created_by=by.token_id,
            seconds=seconds,
            request=asked,
        )
        if replayed:
            self.tokens.forget(str(token.token_id))
        logger.info(
            "made %s %s token %s for %r",
            token.project or "every project's",
            role,
            token.token_id,
            token.name,
        )
        return pb.CreateTokenResponse(token=token_to_proto(token), secret=text, replayed=replayed)

    async def list(self, request: pb.ListTokensRequest) -> pb.ListTokensResponse:
        """Lists tokens, newest first."""
        found = Violations()
        limit = pages.size(request, 100, MAX_PAGE, found)
        before = pages.decode(request, found)
        found.check()
        tokens, more = await self._store.page(before=before, limit=limit)
        return pb.ListTokensResponse(
            tokens=map(token_to_proto, tokens),
            next_page_token=pages.encode(tokens[-1].number, request) if more else "",
        )

    async def revoke(self, request: pb.RevokeTokenRequest) -> pb.RevokeTokenResponse:
        """Makes a token invalid."""
        found = Violations()
        token_id = translate.uuid_from_proto(request.token_id, "token_id", found)
        found.check()
        token = await self._store.revoke(token_id)
        if token is None:
            raise NotFoundError(f"there is no token {token_id}")
        self.tokens.forget(str(token_id))
        logger.info("revoked token %s of %r", token_id, token.name)
        return pb.RevokeTokenResponse(token=token_to_proto(token))

    async def shown(self) -> pb.Token | None:
        """The token that the call shows, for whoever asks what it is worth."""
        caller = callers.current()
        if not caller.token_id:
            return None
        token = await self._store.get(uuid.UUID(caller.token_id))
        return token_to_proto(token) if token is not None else None

    async def _find(self, text: str) -> Caller:
        """Whose a token is."""
        token_id = id_of(text)
        known = await self._store.standing(token_id) if token_id is not None else None
        # Compared even where it decides nothing, so that the time taken tells nothing.
        matches = hmac.compare_digest(known.digest if known else bytes(32), digest_of(text))
        if known is None or not matches or known.revoked:
            raise invalid()
        if known.seconds is not None and known.seconds <= 0:
            raise invalid()
        return Caller(
            token_id=str(known.token_id),
            name=known.name,
            project=known.project,
            role=known.role,
            secret=text,
            validity=Validity(known.seconds),
        )


def check_name(name: str, found: Violations) -> None:
    """A token's name says what it is for."""
    if not name.strip():
        found.add("name", f"is required: say what the token is for, 1 to {MAX_NAME} characters")
    translate.label_from_proto(name, "name", MAX_NAME, found)


def check_lifetime(seconds: float | None, field: str, found: Violations) -> None:
    """A token is valid for a time within the range of the database's clock, or without end."""
    if seconds is not None and not MIN_LIFETIME_SECONDS <= seconds <= MAX_LIFETIME_SECONDS:
        found.add(field, f"is {seconds:g} s; give 1 minute to 10 years, or none")


def check_project(project: str, role: Role | None, found: Violations) -> None:
    """A token is for one project, but for administrators and workers."""
    if role in (Role.ADMIN, Role.WORKER):
        if project:
            found.add("project", f"must be unset: {role} tokens are for every project")
    elif not project:
        found.add("project", "is required: the project that the token is for")
    else:
        translate.name_from_proto(project, "project", MAX_PROJECT, found)


def token_to_proto(token: Token) -> pb.Token:
    """A token without its secret."""
    message = pb.Token(
        token_id=str(token.token_id),
        name=token.name,
        project=token.project,
        role=role_number(token.role),
    )
    message.created_at.FromDatetime(token.created_at)
    if token.expires_at is not None:
        message.expires_at.FromDatetime(token.expires_at)
    if token.revoked_at is not None:
        message.revoked_at.FromDatetime(token.revoked_at)
    return message
