"""The command `python -m vistaflow_services.registry.tokens`; see `access.command`."""

import sys

from vistaflow_services.registry.access.command import main

if __name__ == "__main__":
    sys.exit(main())
