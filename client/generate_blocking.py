"""Writes the blocking client, `vistaflow/client.py`, from the asynchronous one.

    python client/generate_blocking.py [--check]

Every public method of `AsyncClient` becomes a method of `Client` with the same name, parameters and
docstring. `--check` writes nothing and fails if the file differs from what would be written.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parent / "vistaflow"
TARGET: Final = PACKAGE / "client.py"

SOURCES: Final = (
    ("client.py", "AsyncClient"),
    ("_stages.py", "StageCalls"),
    ("_data/conversions.py", "DataCalls"),
    ("_data/queries.py", "QueryCalls"),
    ("_data/collections.py", "CollectionCalls"),
    ("_data/datasets.py", "DatasetCalls"),
    ("_data/imports.py", "ImportCalls"),
    ("_data/uploads.py", "UploadCalls"),
    ("_kits/extension.py", "ExtensionCalls"),
    ("_kits/schedules.py", "ScheduleCalls"),
    ("_deliveries.py", "DeliveryCalls"),
    ("_artifacts.py", "ArtifactCalls"),
    ("_calls.py", "Calls"),
)
"""Modules of `aio`, each with the class whose methods are taken, in the order of the output."""

LIFE: Final = frozenset({"close"})
"""Methods that `BlockingClient` defines."""

HEAD: Final = '''"""The blocking client: the asynchronous one, run by a thread of its own.

It works inside a running event loop, too, as in a notebook. Generated from `aio` by
`client/generate_blocking.py`; change the asynchronous client instead.
"""

from __future__ import annotations

{imports}
__all__ = [
    "AsyncClient",
    "Client",
    "Dataset",
    "QueryResult",
    "Sent",
    "StateStream",
    "Stream",
    "Watches",
    "connect",
]


def connect(
    address: str = "", *, timeout: float = DEFAULT_TIMEOUT_SECONDS, token: str = ""
) -> Client:
    """{connect}"""
    return Client(address, timeout=timeout, token=token)


class Client(BlockingClient):
    """Calls the services; `vistaflow.aio.AsyncClient` is the same for asyncio.

    Safe to share between threads. Methods raise `VistaError` only. Calls that reach no service are
    repeated within the timeout, with one request id, so that nothing is done twice.
    """
'''

OWN_IMPORTS: Final = (
    "from collections.abc import Iterator",
    "from vistaflow._blocking import BlockingClient, Dataset, QueryResult, Sent, Stream, Watches",
    "from vistaflow._rows import Listing",
    "from vistaflow.models import WatchEvent",
    "from vistaflow.aio._stream import StateStream",
    "from vistaflow.aio._kits.schedules import Notified",
    "from vistaflow.aio._kits.sources import KitSource",
    "from vistaflow.aio.client import AsyncClient",
)


def generated() -> str:
    """The text of `client.py`."""
    imports: list[str] = [*OWN_IMPORTS]
    methods: list[str] = []
    connect = ""
    for name, class_name in SOURCES:
        tree = ast.parse((PACKAGE / "aio" / name).read_text("utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom) and (
                not isinstance(node, ast.ImportFrom) or node.module != "__future__"
            ):
                imports.append(ast.unparse(node))
            elif isinstance(node, ast.FunctionDef) and node.name == "connect":
                connect = docstring_of(node)
            elif isinstance(node, ast.ClassDef) and node.name == class_name:
                methods += [method_text(method) for method in public_methods(node)]
    head = HEAD.replace("{imports}", "\n".join(imports) + "\n").replace("{connect}", connect)
    return formatted(head + "\n" + "\n".join(methods))


def public_methods(node: ast.ClassDef) -> Iterator[ast.AsyncFunctionDef | ast.FunctionDef]:
    """The methods of a class for callers, in their order."""
    for method in node.body:
        if not isinstance(method, ast.AsyncFunctionDef | ast.FunctionDef):
            continue
        if not method.name.startswith("_") and method.name not in LIFE:
            yield method


def method_text(method: ast.AsyncFunctionDef | ast.FunctionDef) -> str:
    """The blocking method for an asynchronous one."""
    returns = ast.unparse(method.returns) if method.returns else "None"
    call = f"self._client.{method.name}({passed_arguments(method.args)})"
    if returns == "AsyncQueryResult":
        returns, body = "QueryResult", f"return QueryResult(self._loop.run({call}), self._loop)"
    elif returns == "AsyncDataset":
        returns, body = "Dataset", f"return Dataset(self._loop.run({call}), self._loop)"
    elif isinstance(method, ast.AsyncFunctionDef):
        body = f"return self._loop.run({call})"
    elif listing := re.fullmatch(r"AsyncListing\[([\w.]+)\]", returns):
        returns, body = f"Listing[{listing[1]}]", f"return self._loop.listing({call})"
    elif streamed := re.fullmatch(r"AsyncIterator\[(\w+)\]", returns):
        returns, body = f"Iterator[{streamed[1]}]", f"return self._loop.iterate({call})"
    elif returns == "Watch":
        returns = "Iterator[WatchEvent]"
        body = f"return self._loop.iterate(aiter(self._loop.call(lambda: {call})))"
    elif returns == "ManyWatches":
        returns, body = "Watches", f"return Watches(self._loop.call(lambda: {call}), self._loop)"
    elif returns == "StateStream":
        returns, body = "Stream", f"return Stream(self._loop.call(lambda: {call}), self._loop)"
    else:
        raise SystemExit(f"{method.name}: no rule for a method that returns {returns}")
    documented = f'    """{blocking(docstring_of(method))}"""\n' if docstring_of(method) else ""
    text = f"def {method.name}({ast.unparse(method.args)}) -> {returns}:\n{documented}    {body}\n"
    return textwrap.indent(text, "    ", lambda line: bool(line.strip()))


def passed_arguments(arguments: ast.arguments) -> str:
    """The arguments of a method, to be passed on."""
    positional = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)][1:]
    named = [f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs]
    rest = [f"**{arguments.kwarg.arg}"] if arguments.kwarg else []
    return ", ".join([*positional, *named, *rest])


def docstring_of(node: ast.AsyncFunctionDef | ast.FunctionDef) -> str:
    """A docstring, indented by four characters after its first line, as in the output."""
    text = ast.get_docstring(node) or ""
    lines = textwrap.indent(text, "    ").strip()
    return f"{lines}\n    " if "\n" in lines else lines


def blocking(text: str) -> str:
    """The examples of a docstring without `async` and `await`."""
    return re.sub(r"\b(?:async (?=for|with)|await )", "", text)


def formatted(text: str) -> str:
    """A module without unused imports, in the format of the project."""
    ruff = [sys.executable, "-P", "-m", "ruff"]
    name = f"--stdin-filename={TARGET}"
    for command in (
        ["check", "--quiet", "--fix-only", "--select=F401,F811,I", name, "-"],
        ["format", "--quiet", name, "-"],
    ):
        done = subprocess.run(
            [*ruff, *command], input=text, capture_output=True, encoding="utf-8", check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        text = done.stdout
    return text


def main(arguments: list[str]) -> None:
    """Writes the file, or compares it."""
    text = generated()
    if arguments == ["--check"]:
        if TARGET.read_text("utf-8") != text:
            raise SystemExit(f"{TARGET} is out of date; run `make blocking`")
    elif arguments:
        raise SystemExit(__doc__)
    else:
        TARGET.write_text(text, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
