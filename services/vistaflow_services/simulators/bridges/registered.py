"""What the operator of this machine has registered for decks: nothing else is started or called.

    VISTAFLOW_PROGRAMS=amp=/opt/amp/bin/amp,hspice+network=/opt/hspice/bin/hspice
    VISTAFLOW_SIMULATOR_SERVERS=tcad=127.0.0.1:7001
    VISTAFLOW_MODEL_FOLDERS=PDK_ROOT=/opt/pdk

A program runs without a network unless its name has `+network` behind it, as those with a licence
server need. The files of a folder of models are read by every deck that names one of them as
`$PDK_ROOT/...` or by its absolute path.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

from vistaflow_services.core.errors import Violations
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.parameter import NAME

PROGRAMS: Final = "VISTAFLOW_PROGRAMS"
SERVERS: Final = "VISTAFLOW_SIMULATOR_SERVERS"
MODELS: Final = "VISTAFLOW_MODEL_FOLDERS"

_NETWORK: Final = "+network"
_MOST_FILES: Final = 50_000
"""Most files of a folder of models whose times are part of its identity."""

_LOOKED_SECONDS: Final = 30.0
"""How long the identity of a folder of models is remembered."""

Entry = TypeVar("Entry")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program that decks may run."""

    path: Path
    network: bool
    """Whether its runs have a network."""

    @property
    def folder(self) -> Path:
        """What its runs read: its installation."""
        return self.path.parent.parent if self.path.parent.name == "bin" else self.path.parent

    @property
    def identity(self) -> str:
        """Changes when the program does."""
        try:
            status = self.path.stat()
        except OSError:
            return "absent"
        return _short(f"{self.path.name} {status.st_size} {status.st_mtime_ns}")


def programs(environment: Mapping[str, str] = os.environ) -> dict[str, Program]:
    """The registered programs by name.

    Raises:
        InvalidError: With every entry that is malformed.
    """

    def program(name: str, value: str) -> Program:
        return Program(path=_absolute(value), network=name.endswith(_NETWORK))

    read = _entries(PROGRAMS, environment.get(PROGRAMS, ""), program)
    return {name.removesuffix(_NETWORK): entry for name, entry in read.items()}


def servers(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The addresses of the registered servers by name.

    Raises:
        InvalidError: With every entry that is malformed.
    """

    def address(_: str, value: str) -> str:
        if not re.fullmatch(r"\S+:\d{1,5}", value):
            raise ValueError("give host:port")
        return value

    return _entries(SERVERS, environment.get(SERVERS, ""), address)


def model_folders(environment: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """The registered folders of models by name.

    Raises:
        InvalidError: With every entry that is malformed.
    """
    return _entries(MODELS, environment.get(MODELS, ""), lambda _, value: _absolute(value))


def registered(entries: Mapping[str, Entry], name: str, field: str, variable: str) -> Entry:
    """The entry of a name.

    Raises:
        InvalidError: There is none; its violation is of `field`.
    """
    if name not in entries:
        violations = Violations()
        if entries:
            problem = f"`{name}` is not registered{suggest(name, list(entries))}"
        else:
            problem = f"`{name}` is not registered, and nothing else is"
        violations.add(field, f"{problem}; the operator of the services registers it in {variable}")
        violations.check()
    return entries[name]


def in_folders(content: bytes, folders: Mapping[str, Path]) -> bytes:
    """A netlist with `$NAME/` and `${NAME}/` of registered folders as paths."""
    for name, folder in folders.items():
        pattern = rf"\$(?:{name}|\{{{name}\}})(?=/)".encode()
        content = re.sub(pattern, lambda _, path=str(folder): path.encode(), content)  # type: ignore[misc]
    return content


def folder_identity(folder: Path) -> str:
    """Changes when a file of the folder does: by the names, sizes and times of all."""
    return _folder_identity(str(folder), int(time.monotonic() / _LOOKED_SECONDS))


@lru_cache(maxsize=64)
def _folder_identity(folder: str, _period: int) -> str:
    digest = hashlib.sha256()
    count = 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            line = f"{os.path.relpath(path, folder)} {status.st_size} {status.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
            count += 1
            if count >= _MOST_FILES:
                return digest.hexdigest()[:12]
    return digest.hexdigest()[:12]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def _absolute(value: str) -> Path:
    path = Path(value)
    if not path.is_absolute():
        raise ValueError("give an absolute path")
    return path.resolve()


def _entries(variable: str, text: str, read: Callable[[str, str], Entry]) -> dict[str, Entry]:
    """The entries `name=value` of a setting; `read` raises ValueError for what is wrong."""
    violations, entries = Violations(), dict[str, Entry]()
    for number, part in enumerate(filter(None, map(str.strip, text.split(",")))):
        name, equals, value = part.partition("=")
        if not equals or not NAME.fullmatch(name.removesuffix(_NETWORK)):
            violations.add(f"{variable}[{number}]", "is not name=value")
            continue
        try:
            entries[name] = read(name, value)
        except ValueError as error:
            violations.add(f"{variable}[{number}]", str(error))
    violations.check()
    return entries
