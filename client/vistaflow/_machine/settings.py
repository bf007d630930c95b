"""The environment variables that vistaflow reads, and the detection of misspelt ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final

PREFIX: Final = "VISTAFLOW_"

SERVICES: Final = ("REGISTRY", "INGESTION", "DOE", "ML", "OPTIMIZE", "PIPELINE", "QUERY", "GATEWAY")
"""Services with settings `VISTAFLOW_<SERVICE>_<SETTING>`, which each service defines."""

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
        "VISTAFLOW_OIDC_ISSUER",
        "VISTAFLOW_OIDC_AUDIENCE",
        "VISTAFLOW_OIDC_ROLES",
        "VISTAFLOW_RATE_PER_SECOND",
        "VISTAFLOW_STREAMS_PER_CALLER",
        "VISTAFLOW_REFUSALS_PER_SECOND",
        "VISTAFLOW_DATA_ROOTS",
        "VISTAFLOW_STORES",
        "VISTAFLOW_COPIES",
        "VISTAFLOW_WEBHOOK_HOSTS",
        "VISTAFLOW_OPENLINEAGE_URL",
        "VISTAFLOW_OPENLINEAGE_API_KEY",
        "VISTAFLOW_PUBLIC_URL",
        "VISTAFLOW_BACKUPS",
        "VISTAFLOW_PROGRAMS",
        "VISTAFLOW_SIMULATOR_SERVERS",
        "VISTAFLOW_MODEL_FOLDERS",
    }
)
"""The settings that several services or commands read."""

COMPOSE: Final = frozenset({"VISTAFLOW_DB_PASSWORD", "VISTAFLOW_HOST", "VISTAFLOW_DATA"})
"""The variables of docker-compose.yml, which no service reads."""

OTHERS: Final = (
    # Of the tests.
    "VISTAFLOW_FAILPOINT",
    "VISTAFLOW_FAULTS",
    "VISTAFLOW_MODEL_EXAMPLES",
    "VISTAFLOW_TEST",
)
"""Variables that are not settings, or the prefixes of their names."""

# Kubernetes sets variables with the addresses of the services of a namespace in each of its
# containers; see its documentation on the environment variables of services.
_LINK = re.compile(
    r"VISTAFLOW_([A-Z0-9_]*_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)


def misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables with the prefix of settings that are no settings, each with a message.

    The variables of a single service are checked by that service.
    """
    return {
        name: f"no such setting{suggestion(name, SHARED)}"
        for name, text in environment.items()
        if name.startswith(PREFIX)
        and name not in SHARED | COMPOSE
        and not name.startswith(tuple(f"{PREFIX}{service}_" for service in SERVICES))
        and not name.startswith(OTHERS)
        and not is_link(name, text)
    }


def is_link(name: str, text: str) -> bool:
    """Whether Kubernetes set the variable for a service whose name begins with `vistaflow`."""
    return bool(_LINK.fullmatch(name)) or (name.endswith("_PORT") and "://" in text)


def suggestion(name: str, names: Collection[str]) -> str:
    """The known name most similar to a name, as the end of a message."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(sorted(names))}" if names else ""
