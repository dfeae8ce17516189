"""`python -m fmnist`: the console commands."""

import sys

from fmnist.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
