"""token create, token list, token revoke: who may call. For administrators."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from vistaflow.api.common.v1 import access_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.cli.connection import answer_of
from vistaflow.cli.lists import How, Output, print_list
from vistaflow.cli.output import USAGE, Address, AsJson, console, errors, print_json, stop


class Role(StrEnum):
    """What the bearer of a token may do."""

    VIEWER = "viewer"
    EDITOR = "editor"
    ADMIN = "admin"
    WORKER = "worker"
    READER = "reader"


COLUMNS = {
    "token": lambda token: token.token_id,
    "role": lambda token: access_pb2.Role.Name(token.role).removeprefix("ROLE_").lower(),
    "project": lambda token: token.project or "every",
    "state": lambda token: _state(token),
    "scopes": lambda token: " ".join(token.scopes),
    "name": lambda token: token.name,
}

app = typer.Typer(help="Make, list and revoke tokens, as an administrator.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    role: Annotated[
        Role | None, typer.Option(help="What its bearer may do; reader, with --scope.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What a reader reads: dataset:PROJECT.NAME:read, or NAME@ALIAS; may be repeated.",
        ),
    ] = None,
    project: Annotated[str, typer.Option(help="The project of a viewer or an editor.")] = "",
    days: Annotated[float, typer.Option(help="How long it is valid; 0 for good.", min=0)] = 0,
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Make a token. Its text is printed once, alone on standard output.

    For example: vistaflow token create "Ana's notebook" --role editor --project photonics, or
    vistaflow token create "the shop" --scope dataset:spirits.whisky:read
    """
    chosen = role or (Role.READER if scope else None)
    if chosen is None:
        stop("--role: say what its bearer may do", USAGE)
    token, text = answer_of(
        address,
        lambda client: client.create_token(
            name, chosen, project=project, scopes=scope or (), days=days
        ),
    )
    if as_json:
        print_json({"token_id": token.token_id, "secret": text})
        return
    errors.print(f"token {token.token_id}; what follows is shown only now", markup=False)
    sys.stdout.write(f"{text}\n")


@app.command("list")
def list_(address: Address = "", as_json: AsJson = False, output: How = Output.TABLE) -> None:
    """List tokens, newest first, without their texts.

    For example: vistaflow token list -o csv
    """
    tokens = answer_of(address, lambda client: client.tokens())
    print_list(tokens, COLUMNS, Output.JSON if as_json else output)


@app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(help="The token's id.", metavar="TOKEN")],
    address: Address = "",
) -> None:
    """Make a token invalid, for good; calls that use it end within seconds.

    For example: vistaflow token revoke 0b1c4a4e-6d0e-4b59-8a3c-2f0d6a1e9c55
    """
    token = answer_of(address, lambda client: client.revoke_token(token_id))
    console.print(f"{token.token_id} is {_state(token)}", markup=False)


def _state(token: registry_pb2.Token) -> str:
    if token.HasField("revoked_at"):
        return f"revoked {token.revoked_at.ToDatetime():%Y-%m-%d %H:%M} UTC"
    if token.HasField("expires_at"):
        return f"until {token.expires_at.ToDatetime():%Y-%m-%d %H:%M} UTC"
    return "valid"
