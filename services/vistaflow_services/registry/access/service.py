"""Creates, lists, revokes and checks tokens."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
import uuid
from collections.abc import Sequence

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.door import callers
from vistaflow_services.core.door.access import role_number, role_of
from vistaflow_services.core.door.callers import Caller, Role, Validity
from vistaflow_services.core.door.tokens import Tokens, digest_of, id_of, invalid
from vistaflow_services.core.errors import NotFoundError, Violations
from vistaflow_services.core.names import MAX_PROJECT, dataset_scope
from vistaflow_services.core.rpc import pages
from vistaflow_services.registry.access.issuer import Issuer
from vistaflow_services.registry.access.store import Token, TokenRequest, TokenStore
from vistaflow_services.registry.messages import translate

logger = logging.getLogger(__name__)

MAX_NAME = 200
MAX_PAGE = 1000
MAX_SCOPES = 100
MIN_LIFETIME_SECONDS = 60.0
MAX_LIFETIME_SECONDS = 10 * 366 * 86400.0


class TokenService:
    """Serves CreateToken, ListTokens and RevokeToken, and the door of this registry.

    Args:
        store: Where tokens are kept.
        issuer: Checks the tokens that others made; None accepts none of them.
    """

    def __init__(self, store: TokenStore, issuer: Issuer | None = None) -> None:
        self.store = store
        self.issuer = issuer
        self.tokens = Tokens(self._find)
        """For the door."""

    async def create(self, request: pb.CreateTokenRequest) -> pb.CreateTokenResponse:
        """Makes a token."""
        violations = Violations()
        role = role_of(request.role)
        if role is None:
            violations.add(
                "role", "give ROLE_VIEWER, ROLE_EDITOR, ROLE_ADMIN, ROLE_WORKER or ROLE_READER"
            )
        check_name(request.name, violations)
        scopes, project = check_scopes(request.scopes, request.project, role, violations)
        check_project(project, role, violations)
        seconds = None
        if request.HasField("lifetime"):
            seconds = request.lifetime.seconds + request.lifetime.nanos / 1e9
        check_lifetime(seconds, "lifetime", violations)
        request_id = None
        if request.request_id:
            request_id = translate.uuid_from_proto(request.request_id, "request_id", violations)
        violations.check()
        assert role is not None
        by = callers.current()
        body = request.SerializeToString(deterministic=True)
        token_request = TokenRequest(
            request_id=request_id, body_sha256=hashlib.sha256(body).hexdigest(), actor=by.name
        )
        token, text, replayed = await self.store.create(
            name=request.name,
            project=project,
            role=role,
            scopes=scopes,
            created_by=by.token_id,
            seconds=seconds,
            request=token_request,
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
        violations = Violations()
        limit = pages.size(request, 100, MAX_PAGE, violations)
        before = pages.decode(request, violations)
        violations.check()
        tokens, more = await self.store.page(before=before, limit=limit)
        return pb.ListTokensResponse(
            tokens=map(token_to_proto, tokens),
            next_page_token=pages.encode(tokens[-1].number, request) if more else "",
        )

    async def revoke(self, request: pb.RevokeTokenRequest) -> pb.RevokeTokenResponse:
        """Makes a token invalid."""
        violations = Violations()
        token_id = translate.uuid_from_proto(request.token_id, "token_id", violations)
        violations.check()
        token = await self.store.revoke(token_id, callers.current().name)
        if token is None:
            raise NotFoundError(f"there is no token {token_id}")
        self.tokens.forget(str(token_id))
        logger.info("revoked token %s of %r", token_id, token.name)
        return pb.RevokeTokenResponse(token=token_to_proto(token))

    async def shown(self) -> pb.Token | None:
        """The token that the call shows; None if it shows none."""
        caller = callers.current()
        if not caller.token_id:
            return None
        if id_of(caller.secret) is None:
            return _foreign_to_proto(caller)
        token = await self.store.get(uuid.UUID(caller.token_id))
        return token_to_proto(token) if token is not None else None

    async def _find(self, text: str) -> Caller:
        """Whose a token is."""
        token_id = id_of(text)
        if token_id is None and self.issuer is not None:
            return await self.issuer.caller(text)
        standing = await self.store.standing(token_id) if token_id is not None else None
        # Compared even for an unknown token, so that the time does not reveal which are known.
        matches = hmac.compare_digest(standing.digest if standing else bytes(32), digest_of(text))
        if standing is None or not matches or standing.revoked:
            raise invalid()
        if standing.seconds is not None and standing.seconds <= 0:
            raise invalid()
        return Caller(
            token_id=str(standing.token_id),
            name=standing.name,
            project=standing.project,
            role=standing.role,
            scopes=standing.scopes,
            secret=text,
            validity=Validity(standing.seconds),
        )


def check_name(name: str, violations: Violations) -> None:
    """A token's name says what it is for."""
    if not name.strip():
        violations.add(
            "name", f"is required: say what the token is for, 1 to {MAX_NAME} characters"
        )
    translate.label_from_proto(name, "name", MAX_NAME, violations)


def check_lifetime(seconds: float | None, field: str, violations: Violations) -> None:
    """A token is valid for a time within the range of the database's clock, or without end."""
    if seconds is not None and not MIN_LIFETIME_SECONDS <= seconds <= MAX_LIFETIME_SECONDS:
        violations.add(field, f"is {seconds:g} s; give 1 minute to 10 years, or none")


def check_scopes(
    texts: Sequence[str], project: str, role: Role | None, violations: Violations
) -> tuple[list[str], str]:
    """The scopes of a token, each with its alias, and the project that all of them are of."""
    if role is not Role.READER:
        if texts:
            violations.add("scopes", "are for the role READER; leave them out")
        return [], project
    if not 1 <= len(texts) <= MAX_SCOPES:
        violations.add("scopes", f"{len(texts)} given; a READER has 1 to {MAX_SCOPES}")
    scopes = dict[str, str]()
    for place, text in enumerate(texts[:MAX_SCOPES]):
        named = dataset_scope(text)
        if named is None:
            violations.add(
                f"scopes[{place}]", "write dataset:PROJECT.NAME:read, or PROJECT.NAME@ALIAS"
            )
        elif project and named.project != project:
            violations.add(f"scopes[{place}]", f"is of another project than {project}")
        elif named.name in scopes:
            violations.add(f"scopes[{place}]", f"names {named.name} again")
        else:
            project = named.project or ""
            scopes[named.name] = f"dataset:{project}.{named.name}@{named.alias}:read"
    return list(scopes.values()), project


def check_project(project: str, role: Role | None, violations: Violations) -> None:
    """A token is for one project, but for administrators and workers."""
    if role in (Role.ADMIN, Role.WORKER):
        if project:
            violations.add("project", f"must be unset: {role} tokens are for every project")
    elif not project:
        violations.add("project", "is required: the project that the token is for")
    else:
        translate.name_from_proto(project, "project", MAX_PROJECT, violations)


def _foreign_to_proto(caller: Caller) -> pb.Token:
    """What others may know of a token that the registry did not make."""
    message = pb.Token(
        token_id=caller.token_id,
        name=caller.name,
        project=caller.project,
        role=role_number(caller.role),
    )
    if caller.validity is not None and caller.validity.seconds is not None:
        message.expires_at.FromNanoseconds(time.time_ns() + round(caller.validity.seconds * 1e9))
    return message


def token_to_proto(token: Token) -> pb.Token:
    """A token without its secret."""
    message = pb.Token(
        token_id=str(token.token_id),
        name=token.name,
        project=token.project,
        role=role_number(token.role),
        scopes=token.scopes,
    )
    message.created_at.FromDatetime(token.created_at)
    if token.expires_at is not None:
        message.expires_at.FromDatetime(token.expires_at)
    if token.revoked_at is not None:
        message.revoked_at.FromDatetime(token.revoked_at)
    return message
