"""The command `python -m vistaflow_services.registry.restore`; see `upkeep.restore`."""

import sys

from vistaflow_services.registry.upkeep.restore import main

if __name__ == "__main__":
    sys.exit(main())
