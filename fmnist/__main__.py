"""The program `fmnist`, also as `python -m fmnist`: the console commands."""

import sys

from fmnist import process


def main() -> int:
    """Run one command in a process of its own."""
    process.begin()
    from fmnist.cli.app import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
