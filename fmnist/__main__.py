"""`python -m fmnist`: the console commands."""

import sys

from fmnist.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
