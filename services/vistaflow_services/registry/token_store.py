"""Tokens in the database. The SQL lies in `sql/token_queries.sql`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from vistaflow_services.core.callers import Role
from vistaflow_services.core.tokens import digest_of, new_token
from vistaflow_services.registry.reading import QUERIES
from vistaflow_services.registry.refusals import CONFLICTS, is_lost, told
from vistaflow_services.registry.watch_store import Row


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of a token that somebody shows."""

    token_id: uuid.UUID
    name: str
    project: str
    role: Role
    digest: bytes
    """SHA-256 of its text."""
    revoked: bool
    seconds: float | None
    """For how long it is valid still, by the database's clock; None: for good."""


class TokenStore:
    """Makes, finds, lists and revokes tokens.

    Args:
        pool: Connections whose search path is the registry's schema.
    """

    def __init__(self, pool: AsyncConnectionPool[psycopg.AsyncConnection[Row]]) -> None:
        self._pool = pool

    async def create(
        self, *, name: str, project: str, role: Role, created_by: str, seconds: float | None
    ) -> tuple[Token, str]:
        """A new token and its text, which is nowhere else from here on."""
        token_id, text = new_token()
        (row,) = await self._fetch(
            "create_token",
            token_id=token_id,
            name=name,
            project=project,
            role=role,
            digest=digest_of(text),
            created_by=created_by,
            seconds=seconds,
        )
        return _token(row), text

    async def standing(self, token_id: uuid.UUID) -> Standing | None:
        """What a token's bearer may do, as of now."""
        rows = await self._fetch("token_by_id", token_id=token_id)
        if not rows:
            return None
        row = rows[0]
        return Standing(
            token_id=row[0],
            name=row[1],
            project=row[2],
            role=Role(row[3]),
            digest=bytes(row[4]),
            revoked=row[5],
            seconds=row[6],
        )

    async def get(self, token_id: uuid.UUID) -> Token | None:
        """One token."""
        rows = await self._fetch("token_times", token_id=token_id)
        return _token(rows[0]) if rows else None

    async def page(self, *, before: int | None, limit: int) -> tuple[list[Token], bool]:
        """Tokens, newest first, made before a number; and whether there are more."""
        rows = await self._fetch("list_tokens", before=before or 2**62, limit=limit + 1)
        return [_token(row) for row in rows[:limit]], len(rows) > limit

    async def revoke(self, token_id: uuid.UUID) -> Token | None:
        """Makes a token invalid; None if there is none."""
        rows = await self._fetch("revoke_token", token_id=token_id)
        return _token(rows[0]) if rows else None

    async def revoke_others(self, token: Token) -> int:
        """Makes the other tokens of the same name and role invalid; returns how many."""
        parameters = {"name": token.name, "role": token.role, "token_id": token.token_id}
        return len(await self._fetch("revoke_tokens_named", **parameters))

    async def _fetch(self, query: str, **parameters: Any) -> list[Row]:
        for last in (False, True):
            try:
                async with self._pool.connection() as connection:
                    cursor = await connection.execute(QUERIES[query], parameters)
                    return await cursor.fetchall()
            except psycopg.Error as error:
                # What was written may have been: a second token of the name is only one more.
                if last or not (is_lost(error) or isinstance(error, CONFLICTS)):
                    raise told(error) from error
                if is_lost(error):
                    # The others of the pool are as dead as this one was: let them go at once.
                    await self._pool.drain()
        raise AssertionError


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
    )
