"""`python -m icreward_lib`: the command line, also under `accelerate launch -m`."""

import sys

from icreward_lib.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
