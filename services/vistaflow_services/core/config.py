"""Configuration: one frozen dataclass a service, read once from the environment.

    @dataclass(frozen=True, kw_only=True)
    class DoeConfig:
        listen: str = "127.0.0.1:50053"

    config = read_config(DoeConfig, "VISTAFLOW_DOE_")     # VISTAFLOW_DOE_LISTEN=...

An unknown variable that begins with `VISTAFLOW_` is refused: a misspelt setting would otherwise
have no effect.
"""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from vistaflow._machine.settings import is_link, misspelt, suggestion
from vistaflow_services.core.errors import InvalidError, Violations, cut

Config = TypeVar("Config")

DEFAULT_REGISTRY = "127.0.0.1:50051"


def home(environment: Mapping[str, str] = os.environ) -> Path:
    """Where vistaflow keeps everything: `$VISTAFLOW_HOME`, or `~/.vistaflow`.

    Raises:
        InvalidError: This user has no home folder.
    """
    try:
        return _path(environment.get("VISTAFLOW_HOME") or "~/.vistaflow").absolute()
    except ValueError as error:
        raise InvalidError(f"{error}; set VISTAFLOW_HOME") from None


def registry_address(environment: Mapping[str, str] = os.environ) -> str:
    """Where the registry listens: `$VISTAFLOW_REGISTRY`, or port 50051 of this machine."""
    return environment.get("VISTAFLOW_REGISTRY") or DEFAULT_REGISTRY


def data_roots(environment: Mapping[str, str] = os.environ) -> str:
    """The folders and buckets that inputs are read from: `$VISTAFLOW_DATA_ROOTS`, unparsed."""
    return environment.get("VISTAFLOW_DATA_ROOTS", "")


def stores(environment: Mapping[str, str] = os.environ) -> str:
    """The stores of blobs: `$VISTAFLOW_STORES`, unparsed; empty for the default one."""
    return environment.get("VISTAFLOW_STORES", "")


def backups(environment: Mapping[str, str] = os.environ) -> str:
    """The targets of backups: `$VISTAFLOW_BACKUPS`, unparsed; empty for none."""
    return environment.get("VISTAFLOW_BACKUPS", "")


def copies(environment: Mapping[str, str] = os.environ) -> int:
    """How many stores have each blob: `$VISTAFLOW_COPIES`, or 1.

    Raises:
        InvalidError: It is not a whole number.
    """
    try:
        return int(_convert(environment.get("VISTAFLOW_COPIES") or "1", int))
    except ValueError as error:
        raise InvalidError(f"VISTAFLOW_COPIES: {error}") from None


def webhook_hosts(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The hosts that events may be sent to: `$VISTAFLOW_WEBHOOK_HOSTS`."""
    return tuple(filter(None, environment.get("VISTAFLOW_WEBHOOK_HOSTS", "").split(",")))


def openlineage_url(environment: Mapping[str, str] = os.environ) -> str:
    """Where lineage is sent: `$VISTAFLOW_OPENLINEAGE_URL`; empty: nowhere."""
    return environment.get("VISTAFLOW_OPENLINEAGE_URL", "").rstrip("/")


def public_url(environment: Mapping[str, str] = os.environ) -> str:
    """Where people reach the gateway, for links: `$VISTAFLOW_PUBLIC_URL`; empty: not known."""
    return environment.get("VISTAFLOW_PUBLIC_URL", "").rstrip("/")


def read_config(
    kind: type[Config], prefix: str, environment: Mapping[str, str] = os.environ
) -> Config:
    """A `kind` from the variables that begin with `prefix`; unset ones keep their default.

    Fields may be str, int, float, bool, Path, `X | None` and tuples of one of them (by commas).

    Raises:
        InvalidError: One violation for each variable that is unknown, missing or malformed.
    """
    hints = typing.get_type_hints(kind)
    fields = {f"{prefix}{field.name.upper()}": field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    violations = Violations()
    values: dict[str, Any] = {}
    for name, problem in misspelt(environment).items():
        violations.add(name, problem)
    for name, text in environment.items():
        if not name.startswith(prefix) or is_link(name, text):
            continue
        if name not in fields:
            violations.add(name, f"no such setting{suggestion(name, list(fields))}")
            continue
        try:
            values[fields[name].name] = _convert(text, hints[fields[name].name])
        except ValueError as error:
            violations.add(name, str(error))
    for name, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and name not in environment:
            violations.add(name, "must be set")
    violations.check()
    try:
        return kind(**values)
    except InvalidError:
        raise
    except ValueError as error:
        raise InvalidError(f"{prefix}*: {error}") from error


def truth(text: str) -> bool:
    """What a setting that is on or off says.

    Raises:
        ValueError: It says neither.
    """
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"`{text}` is neither true nor false; write 1 or 0")


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text}: this user has no home folder (HOME is not set)") from None


def _convert(text: str, kind: Any) -> Any:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        inner = [argument for argument in arguments if argument is not type(None)]
        return None if not text else _convert(text, inner[0])
    if typing.get_origin(kind) is tuple:
        return tuple(_convert(part.strip(), arguments[0]) for part in text.split(",") if part)
    if kind is bool:
        return truth(text)
    if kind is Path:
        return _path(text)
    if kind in (int, float):
        try:
            value = kind(text)
            # NaN passes most checks of a range, and infinity breaks what is computed from it.
            if math.isfinite(value):
                return value
        except (ValueError, OverflowError):
            pass
        raise ValueError(
            f"`{cut(text, 40)}` is not {'a whole number' if kind is int else 'a number'}"
        )
    return text
