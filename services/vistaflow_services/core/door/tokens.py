"""Bearer tokens: their text, and who their bearers are, remembered for a few seconds.

A token is `vf1.<id>.<secret>`: the id names its row in the registry, the secret is 256 random
bits. Only the SHA-256 of the whole text is kept anywhere, and compared in constant time. The JWTs
of an OpenID Connect issuer pass here as well; which of them are valid only the registry knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from vistaflow_services.core.door.callers import Caller
from vistaflow_services.core.errors import ExhaustedError, ServiceError, UnauthenticatedError
from vistaflow_services.core.lru import Lru

logger = logging.getLogger(__name__)

SECRET_BYTES = 32

KEPT_SECONDS = 2.0
"""How long what was learned of a token is believed: a revocation is noticed after as much."""

KEPT_TOKENS = 10_000
KEPT_REFUSALS = 1_000
"""Tokens remembered that are not valid; forgotten sooner than the others, which they never push
out."""

MOST_ASKED = 200
"""Tokens asked for at once that were not known to be valid."""

MOST_CHARACTERS = 6_000
"""Longest JWT; the headers of a gRPC call have 8 KiB."""

_TEXT = re.compile(r"vf1\.([0-9a-f]{32})\.[A-Za-z0-9_-]{43}")
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

Find = Callable[[str], Awaitable[Caller]]
"""Finds the bearer of a token's text; `UnauthenticatedError` if it is not valid."""


def new_token() -> tuple[uuid.UUID, str]:
    """The id and the text of a token that was never used before."""
    token_id = uuid.uuid4()
    return token_id, text_of(token_id)


def text_of(token_id: uuid.UUID) -> str:
    """A text for a token that was never used before."""
    return f"vf1.{token_id.hex}.{secrets.token_urlsafe(SECRET_BYTES)}"


def digest_of(text: str) -> bytes:
    """The SHA-256 of a token's text: what is kept of it."""
    return hashlib.sha256(text.encode()).digest()


def id_of(text: str) -> uuid.UUID | None:
    """The id in a token's text; None if it is no token."""
    match = _TEXT.fullmatch(text)
    return uuid.UUID(match[1]) if match else None


def is_jwt(text: str) -> bool:
    """Whether a text has the form of a JWT of bounded size."""
    return len(text) <= MOST_CHARACTERS and _JWT.fullmatch(text) is not None


def invalid() -> UnauthenticatedError:
    """The error for the bearer of a token that is unknown, expired or revoked."""
    return UnauthenticatedError(
        "the token is not valid: it is unknown, expired or revoked; ask an administrator for "
        "another and set VISTAFLOW_TOKEN, or unset it if none is needed",
        reason="TOKEN_INVALID",
    )


@dataclass(slots=True)
class _Entry:
    """What was learned of a token."""

    text: str
    learned: float
    caller: Caller | None
    """None: it is not valid."""
    holders: int = 0
    """Streams that its bearer has open."""


class Tokens:
    """Who the bearers of tokens are.

    Args:
        find: Asked for what is not known, or was learned too long ago.
        seconds: How long an answer is believed.
    """

    def __init__(self, find: Find, *, seconds: float = KEPT_SECONDS) -> None:
        self._find = find
        self._seconds = seconds
        self._entries: Lru[bytes, _Entry] = Lru(KEPT_TOKENS, spared=lambda entry: entry.holders > 0)
        self._refused: Lru[bytes, float] = Lru(KEPT_REFUSALS)
        self._asking: dict[bytes, asyncio.Task[Caller]] = {}
        self._rounds: asyncio.Task[None] | None = None

    async def caller(self, text: str) -> Caller:
        """The bearer of a token.

        Raises:
            UnauthenticatedError: The token is not valid.
            UnavailableError: The registry, which knows the tokens, does not answer.
        """
        if id_of(text) is None and not is_jwt(text):
            raise invalid()
        key = digest_of(text)
        entry = self._entries.peek(key)
        now = asyncio.get_running_loop().time()
        if entry is not None and now - entry.learned < self._seconds:
            if entry.caller is None or entry.caller.over:
                raise invalid()
            return entry.caller
        refused_at = self._refused.peek(key)
        if refused_at is not None and now - refused_at < self._seconds:
            raise invalid()
        asking = self._asking.get(key)
        if asking is None:
            if entry is None and len(self._asking) >= MOST_ASKED:
                raise ExhaustedError(
                    "too many tokens are being looked up; try again",
                    reason="TOO_MANY_TOKENS",
                    retry_after=1.0,
                )
            # Of many calls at once one asks for all; that its caller hangs up must not end it.
            asking = self._asking[key] = asyncio.create_task(self._ask(key, text))
            asking.add_done_callback(lambda done: self._forget_task(key, done))
        return await asyncio.shield(asking)

    def knows(self, text: str) -> bool:
        """Whether a token was valid when last looked at."""
        entry = self._entries.peek(digest_of(text))
        return entry is not None and entry.caller is not None

    def forget(self, token_id: str) -> None:
        """Ends the streams of a token that was revoked in this process."""
        for entry in self._entries.values():
            if entry.caller is not None and entry.caller.token_id == token_id:
                _end(entry)

    @contextlib.contextmanager
    def held(self, caller: Caller) -> Iterator[None]:
        """Looks again and again whether the token is valid, for as long as the block runs."""
        entry = self._entries.peek(digest_of(caller.secret))
        if entry is None:
            yield
            return
        entry.holders += 1
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._look_again())
        try:
            yield
        finally:
            entry.holders -= 1

    async def _ask(self, key: bytes, text: str) -> Caller:
        entry = self._entries.peek(key)
        loop = asyncio.get_running_loop()
        try:
            caller = await self._find(text)
        except UnauthenticatedError:
            if entry is not None:
                _end(entry)
                self._entries.pop(key)
            self._refused.put(key, loop.time())
            raise
        if entry is not None and entry.caller is not None and not entry.caller.over:
            # The same bearer, whose streams listen to the validity that they know.
            entry.learned = loop.time()
            return entry.caller
        self._entries.put(key, _Entry(text=text, learned=loop.time(), caller=caller))
        return caller

    def _forget_task(self, key: bytes, done: asyncio.Task[Caller]) -> None:
        self._asking.pop(key, None)
        if not done.cancelled():
            done.exception()  # Read, so that asyncio does not log it where no caller waits.

    async def _look_again(self) -> None:
        """Asks for the tokens with open streams, for as long as there are any."""
        while held := [
            (key, entry) for key, entry in self._entries.items() if entry.holders and entry.caller
        ]:
            for key, entry in held:
                try:
                    await self._ask(key, entry.text)
                except UnauthenticatedError:
                    logger.info("a token with %d open streams has ended", entry.holders)
                except ServiceError as error:
                    logger.debug("tokens cannot be checked now: %s", error)
            await asyncio.sleep(self._seconds)


def _end(entry: _Entry) -> None:
    if entry.caller is not None and entry.caller.validity is not None:
        entry.caller.validity.end()
    entry.caller = None
