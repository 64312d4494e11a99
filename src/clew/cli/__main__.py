"""`python -m clew.cli`: the command without its script."""

import sys

from clew.cli import main

if __name__ == "__main__":
    sys.exit(main())
