"""The command `python -m vistaflow_services.registry.retention`; see `upkeep.retention`."""

import sys

from vistaflow_services.registry.upkeep.retention import main

if __name__ == "__main__":
    sys.exit(main())
