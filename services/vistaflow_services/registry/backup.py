"""The command `python -m vistaflow_services.registry.backup`; see `upkeep.backup`."""

import sys

from vistaflow_services.registry.upkeep.backup import main

if __name__ == "__main__":
    sys.exit(main())
