"""The public names of the client with their parameters.

PYTHONPATH=FOLDER/client python tests/contract/public_names.py > FILE
"""

from __future__ import annotations

import inspect
import json
import sys
import types
from typing import Any

import vistaflow
import vistaflow.aio
import vistaflow.client

PREFIXES = {
    inspect.Parameter.KEYWORD_ONLY: "*, ",
    inspect.Parameter.VAR_KEYWORD: "**",
    inspect.Parameter.VAR_POSITIONAL: "*",
}


def public_names() -> dict[str, list[str]]:
    """Each public name, with its parameters if it is called.

    A parameter is `name`, `name=` with a default, `*, name` if it is passed by name only.
    """
    names: dict[str, list[str]] = {}
    homes = {
        "vistaflow.client": {
            name: getattr(vistaflow.client, name)
            for name in ("Client", "Sent", "Stream", "Watches", "connect")
        },
        "vistaflow": {name: getattr(vistaflow, name) for name in vistaflow.__all__},
        "vistaflow.aio": {name: getattr(vistaflow.aio, name) for name in vistaflow.aio.__all__},
    }
    classes = set()
    for home, values in homes.items():
        for name, value in values.items():
            names[f"{home}.{name}"] = parameters(value)
            if not isinstance(value, type) or value in classes:
                continue
            classes.add(value)
            fields = set(getattr(value, "__dataclass_fields__", ()))
            for member in sorted(fields | set(dir(value)) - set(dir(Exception))):
                if not member.startswith("_"):
                    names[f"{home}.{name}.{member}"] = parameters(getattr(value, member, None))
    return names


def parameters(value: Any) -> list[str]:
    """The parameters of a function or class; none of other values."""
    # Streams and watches are made by a client, not by callers.
    made_by_clients = {"StateStream", "Sent", "Stream", "Watches"}
    if isinstance(value, types.UnionType) or getattr(value, "__name__", "") in made_by_clients:
        return []
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return []
    return [
        f"{PREFIXES.get(parameter.kind, '')}{parameter.name}"
        f"{'' if parameter.default is parameter.empty else '='}"
        for parameter in signature.parameters.values()
    ]


if __name__ == "__main__":
    json.dump(public_names(), sys.stdout, indent=0)
    print()
