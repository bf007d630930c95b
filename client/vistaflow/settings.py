"""The environment variables that vistaflow reads, and what looks like one of them and is none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final

PREFIX: Final = "VISTAFLOW_"

SERVICES: Final = ("REGISTRY", "INGESTION", "DOE", "ML", "OPTIMIZE", "PIPELINE")
"""Who has settings of its own, as `VISTAFLOW_<SERVICE>_<SETTING>`; each service knows its own."""

SHARED: Final = frozenset(
    {
        "VISTAFLOW_HOME",
        "VISTAFLOW_REGISTRY",
        "VISTAFLOW_PORT",
        "VISTAFLOW_ALLOW_INSECURE",
        "VISTAFLOW_AUTH",
        "VISTAFLOW_TOKEN",
        "VISTAFLOW_TLS_CERT",
        "VISTAFLOW_TLS_KEY",
        "VISTAFLOW_TLS_CLIENT_CA",
        "VISTAFLOW_TLS_CA",
        "VISTAFLOW_TLS_CLIENT_CERT",
        "VISTAFLOW_TLS_CLIENT_KEY",
        "VISTAFLOW_RATE_PER_SECOND",
        "VISTAFLOW_STREAMS_PER_CALLER",
        "VISTAFLOW_REFUSALS_PER_SECOND",
    }
)
"""The settings that several read."""

OTHERS: Final = (
    # Of docker-compose.yml.
    "VISTAFLOW_DB_PASSWORD",
    "VISTAFLOW_HOST",
    # Marks the processes of a simulation.
    "VISTAFLOW_RUN",
    # Of the tests.
    "VISTAFLOW_FAILPOINT",
    "VISTAFLOW_FAULTS",
    "VISTAFLOW_MODEL_EXAMPLES",
    "VISTAFLOW_TEST",
)
"""Variables that are no settings, or how their names begin."""

# Kubernetes tells every container of a namespace where its services are; see its documentation on
# the environment variables of services.
_LINK = re.compile(
    r"VISTAFLOW_([A-Z0-9_]*_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


def misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that look like settings and that nothing reads, with what is wrong.

    Those of a single service are that service's to judge.
    """
    return {
        name: f"no such setting{suggestion(name, SHARED)}"
        for name, text in environment.items()
        if name.startswith(PREFIX)
        and name not in SHARED
        and not name.startswith(tuple(f"{PREFIX}{service}_" for service in SERVICES))
        and not name.startswith(OTHERS)
        and not is_link(name, text)
    }


def is_link(name: str, text: str) -> bool:
    """Whether Kubernetes made a variable for a service whose name begins with `vistaflow`."""
    return bool(_LINK.fullmatch(name)) or (name.endswith("_PORT") and "://" in text)


def suggestion(name: str, known: Collection[str]) -> str:
    """What may have been meant by a name, as the end of a message."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(sorted(known))}" if known else ""
