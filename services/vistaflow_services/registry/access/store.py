"""Tokens in the database. Their SQL is in `sql/token_queries.sql`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from vistaflow_services.core.door.callers import Role
from vistaflow_services.core.door.tokens import digest_of, new_token, text_of
from vistaflow_services.core.errors import ConflictError, ExistsError
from vistaflow_services.registry.database.pool import Connections, Row
from vistaflow_services.registry.database.queries import QUERIES

METHOD: Final = "CreateToken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token without its secret."""

    token_id: uuid.UUID
    number: int
    """Counts tokens in the order they were made."""
    name: str
    project: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStanding:
    """What is known of a token that a caller shows."""

    token_id: uuid.UUID
    name: str
    project: str
    role: Role
    digest: bytes
    """SHA-256 of its text."""
    revoked: bool
    seconds: float | None
    """For how many seconds it is still valid, by the database's clock; None: no limit."""
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """A request for a token that may be repeated."""

    request_id: uuid.UUID | None
    """None: it cannot be repeated."""
    body_sha256: str
    """Of the whole request, to detect another body under the same id."""
    actor: str
    """The name of the token that asks."""


class NewToken(NamedTuple):
    """A token that was made."""

    token: Token
    text: str
    replayed: bool
    """Whether an earlier call of the same request made it; that call's text is no longer valid."""


class TokenStore:
    """Makes, finds, lists and revokes tokens.

    Args:
        pool: Connections whose search path is the registry's schema.
    """

    def __init__(self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Row]]) -> None:
        self._connections = Connections(pool)

    async def create(
        self,
        *,
        name: str,
        project: str,
        role: Role,
        created_by: str,
        seconds: float | None,
        scopes: Sequence[str] = (),
        request: TokenRequest | None = None,
    ) -> NewToken:
        """A new token and its text, which is not stored anywhere.

        Args:
            name: What it is for.
            project: The project of a viewer or an editor.
            role: What its bearer may do.
            created_by: The token of who asks.
            seconds: How long it is valid; None: for good.
            scopes: What a reader reads.
            request: The request to keep. If it comes again, the token that it made has a new text.

        Raises:
            ExistsError: The request's id was used for something else.
            ConflictError: The token that the request made has ended.
        """
        token_id, text = new_token()
        columns = {
            "token_id": token_id,
            "name": name,
            "project": project,
            "role": role,
            "digest": digest_of(text),
            "created_by": created_by,
            "seconds": seconds,
            "scopes": list(scopes),
        }
        if request is None:
            (row,) = await self._fetch("create_token", **columns)
            return NewToken(token=_token(row), text=text, replayed=False)
        answered = {
            "request_id": request.request_id,
            "method": METHOD,
            "body_sha256": request.body_sha256,
            "actor": request.actor,
            "data": Jsonb(
                {"name": name, "project": project, "role": role}
                | ({"scopes": list(scopes)} if scopes else {})
            ),
        }
        rows = await self._fetch("create_token_once", **columns, **answered)
        if rows:
            return NewToken(token=_token(rows[0]), text=text, replayed=False)
        return await self._replayed(request)

    async def _replayed(self, request: TokenRequest) -> NewToken:
        """The token that an earlier call made, with a new text: the first is not stored."""
        ((method, body_sha256, response),) = await self._fetch(
            "answered_request", request_id=request.request_id
        )
        if (method, body_sha256) != (METHOD, request.body_sha256):
            raise ExistsError(
                f"the request_id was used for another {method}; choose a new one for each request",
                reason="REQUEST_ID_REUSED",
            )
        token_id = uuid.UUID(bytes(response).decode())
        text = text_of(token_id)
        rows = await self._fetch("renew_token", token_id=token_id, digest=digest_of(text))
        if not rows:
            raise ConflictError(
                "the token that this request created was revoked or has expired; create another "
                "with a new request_id",
                reason="TOKEN_ENDED",
            )
        return NewToken(token=_token(rows[0]), text=text, replayed=True)

    async def standing(self, token_id: uuid.UUID) -> TokenStanding | None:
        """What a token's bearer may do, as of now."""
        rows = await self._fetch("token_by_id", token_id=token_id)
        if not rows:
            return None
        row = rows[0]
        return TokenStanding(
            token_id=row[0],
            name=row[1],
            project=row[2],
            role=Role(row[3]),
            digest=bytes(row[4]),
            revoked=row[5],
            seconds=row[6],
            scopes=tuple(row[7]),
        )

    async def get(self, token_id: uuid.UUID) -> Token | None:
        """One token."""
        rows = await self._fetch("token_times", token_id=token_id)
        return _token(rows[0]) if rows else None

    async def page(self, *, before: int | None, limit: int) -> tuple[list[Token], bool]:
        """Tokens, newest first, made before a number; and whether there are more."""
        rows = await self._fetch("list_tokens", before=before or 2**62, limit=limit + 1)
        return [_token(row) for row in rows[:limit]], len(rows) > limit

    async def revoke(self, token_id: uuid.UUID, actor: str = "") -> Token | None:
        """Makes a token invalid, as an actor asks; None if there is none."""
        rows = await self._fetch("revoke_token", token_id=token_id, actor=actor)
        return _token(rows[0]) if rows else None

    async def revoke_others(self, token: Token) -> int:
        """Makes the other tokens of the same name and role invalid; returns how many."""
        parameters = {"name": token.name, "role": token.role, "token_id": token.token_id}
        return len(await self._fetch("revoke_tokens_named", **parameters))

    async def _fetch(self, query: str, **parameters: Any) -> list[Row]:
        # What was written may have been: then it is written once more, which changes nothing, or
        # for a request without an id makes one more token of the name.
        return await self._connections.fetch(QUERIES[query], parameters)


def _token(row: Row) -> Token:
    return Token(
        token_id=row[0],
        number=row[1],
        name=row[2],
        project=row[3],
        role=Role(row[4]),
        created_at=row[5],
        expires_at=row[6],
        revoked_at=row[7],
        scopes=tuple(row[8]),
    )
