"""Purges, repairs and sweeps the stores now: `python -m vistaflow_services.ingestion.repair`.

It runs where ingestion does, with the same settings; it may run while ingestion serves. It removes
old pages of collections, too. With
`--verify` every copy is read and compared with its hash. It prints what it did as JSON, and its
status is 1 if a step failed or a file is lost.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import timedelta

from vistaflow_services.core import config as configuration
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.datasets.registrar import Registrar
from vistaflow_services.ingestion.datasets.stores import Tidied, tidy

PATIENCE_SECONDS = 60.0
"""How long it waits for a registry that is away."""


def main() -> None:
    """Tidies the stores once."""
    parser = argparse.ArgumentParser(description="Purges, repairs and sweeps the stores.")
    parser.add_argument("--verify", action="store_true", help="read every copy")
    parser.add_argument("--probe", action="store_true", help="say what each store can do")
    arguments = parser.parse_args()
    try:
        config = configuration.read_config(Config, "VISTAFLOW_INGESTION_")
        with Registrar(configuration.registry_address(), PATIENCE_SECONDS) as registrar:
            tidied = tidy(
                configuration.home(),
                registrar,
                timedelta(seconds=config.grace_seconds),
                timedelta(days=config.collect_days),
                probe=arguments.probe,
                verify=arguments.verify,
            )
    except ServiceError as error:
        tidied = Tidied(errors=[error.message])
    print(json.dumps(tidied.to_dict()))
    sys.exit(1 if tidied.errors or tidied.lost else 0)


if __name__ == "__main__":
    main()
