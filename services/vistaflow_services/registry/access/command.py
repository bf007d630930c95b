"""Makes, lists and revokes tokens directly in the database, so that no token is needed.

    python -m vistaflow_services.registry.tokens create --role admin --name "the first"
    python -m vistaflow_services.registry.tokens list
    python -m vistaflow_services.registry.tokens revoke TOKEN_ID

The embedded database is reached below `$VISTAFLOW_HOME` while the registry runs; another is named
by `VISTAFLOW_REGISTRY_DATABASE`. A token's text is printed once, alone on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import uuid
from collections.abc import Sequence

import psycopg

from vistaflow._machine.encoding import degrade_output
from vistaflow_services.core.config import read_config
from vistaflow_services.core.door.callers import Role
from vistaflow_services.core.errors import NotFoundError, ServiceError, Violations
from vistaflow_services.registry.access.service import (
    check_lifetime,
    check_name,
    check_project,
    check_scopes,
)
from vistaflow_services.registry.access.store import Token, TokenStore
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.connect import database
from vistaflow_services.registry.database.migrations import MigrationError, migrate
from vistaflow_services.registry.reads.store import make_pool

PACKAGE = "vistaflow_services.registry"
CREATED_BY = "the machine"


async def _create(store: TokenStore, arguments: argparse.Namespace) -> None:
    violations = Violations()
    role = Role(arguments.role.upper())
    check_name(arguments.name, violations)
    scopes, project = check_scopes(arguments.scope, arguments.project, role, violations)
    check_project(project, role, violations)
    seconds = None if arguments.days is None else arguments.days * 86400
    check_lifetime(seconds, "days", violations)
    violations.check()
    token, text, _ = await store.create(
        name=arguments.name,
        project=project,
        role=role,
        scopes=scopes,
        created_by=CREATED_BY,
        seconds=seconds,
    )
    if arguments.replace:
        replaced = await store.revoke_others(token)
        print(f"revoked {replaced} of the same name and role", file=sys.stderr)
    print(f"token {token.token_id}; what follows is printed only once", file=sys.stderr)
    print(text)


async def _list(store: TokenStore, arguments: argparse.Namespace) -> None:
    before: int | None = None
    while True:
        tokens, more = await store.page(before=before, limit=1000)
        for token in tokens:
            print(_line(token))
        if not more:
            return
        before = tokens[-1].number


async def _revoke(store: TokenStore, arguments: argparse.Namespace) -> None:
    token = await store.revoke(arguments.token_id)
    if token is None:
        raise NotFoundError(f"there is no token {arguments.token_id}")
    print(_line(token))


def _line(token: Token) -> str:
    state = "valid"
    if token.revoked_at is not None:
        state = f"revoked {token.revoked_at:%Y-%m-%d %H:%M}"
    elif token.expires_at is not None:
        state = f"until {token.expires_at:%Y-%m-%d %H:%M}"
    project = token.project or "every project"
    return f"{token.token_id}  {token.role:<6}  {project}  {state}  {token.name}"


async def _act(conninfo: str, schema: str, arguments: argparse.Namespace) -> None:
    await asyncio.to_thread(migrate, conninfo, schema, PACKAGE)
    pool = make_pool(conninfo, schema=schema, size=1)
    await pool.open(wait=True, timeout=10)
    try:
        await arguments.act(TokenStore(pool), arguments)
    finally:
        await pool.close(timeout=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and acts; the exit code."""
    degrade_output()
    parser = argparse.ArgumentParser(description="Makes, lists and revokes tokens.")
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser("create", help="make a token; its text is printed once")
    create.add_argument("--role", required=True, choices=[role.lower() for role in Role])
    create.add_argument("--name", required=True, help="what it is for")
    create.add_argument("--project", default="", help="for viewers and editors")
    create.add_argument(
        "--scope", action="append", default=[], help="of a reader: dataset:PROJECT.NAME:read"
    )
    create.add_argument("--days", type=float, help="how long it is valid; for good if left out")
    create.add_argument(
        "--replace", action="store_true", help="revoke the others of the same name and role"
    )
    create.set_defaults(act=_create)
    commands.add_parser("list", help="list tokens").set_defaults(act=_list)
    revoke = commands.add_parser("revoke", help="make a token invalid, for good")
    revoke.add_argument("token_id", type=uuid.UUID)
    revoke.set_defaults(act=_revoke)
    parsed = parser.parse_args(arguments)
    try:
        config = read_config(Config, "VISTAFLOW_REGISTRY_")
        with database(config) as conninfo:
            asyncio.run(_act(conninfo, config.schema, parsed))
    except (ServiceError, MigrationError, psycopg.Error) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
