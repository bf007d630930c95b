"""The command `python -m vistaflow_services.registry.rebuild`; see `upkeep.rebuild`."""

import sys

from vistaflow_services.registry.upkeep.rebuild import main

if __name__ == "__main__":
    sys.exit(main())
