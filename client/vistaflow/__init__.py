"""Client for the vistaflow services.

    with vistaflow.connect() as client:
        kit = client.run("kit.yaml")
        for event in client.watch(kit_ids=[kit.kit_id]):
            ...

`vistaflow.aio.connect()` is the same for asyncio.

client.py    the blocking client, generated from that in aio/
errors.py    the exceptions
models.py    what the registry returns: kits, jobs, rows, events
results.py   what the stages return: decks, studies, trials
aio/         the asynchronous client
api/         the generated messages and stubs
cli/         the `vistaflow` command

Private, with names that change without notice:

_blocking.py the thread of the blocking client
_datasets.py datasets as values
_html.py     how notebooks show results
_report.py   a kit as one HTML file
_rows.py     lists that turn into data frames
_spans.py    spans of time as text
_rpc/        calls over gRPC
_machine/    the suite, decks and files of this machine
_schemas/    the JSON Schemas of deck.yaml and kit.yaml
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# gRPC reads this when it is imported. Its own fork handlers run concurrently with its threads and
# crash some children, even those that do not use gRPC; see `forks`.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

if TYPE_CHECKING:
    from vistaflow.client import *
    from vistaflow.errors import *
    from vistaflow.models import *
    from vistaflow.results import *

_HOMES = (
    "vistaflow.errors",
    "vistaflow.models",
    "vistaflow.results",
    "vistaflow.client",
)
"""Modules whose `__all__` are the names of this package, imported when a name is first used: the
messages in `api` are available without the whole client."""


def __getattr__(name: str) -> Any:
    if name == "aio":
        return importlib.import_module("vistaflow.aio")
    if name == "__all__":  # for `from vistaflow import *`
        return sorted(name for home in _HOMES for name in importlib.import_module(home).__all__)
    if not name.startswith("_"):
        for home in _HOMES:
            module = importlib.import_module(home)
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]
