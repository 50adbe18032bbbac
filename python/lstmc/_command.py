"""The command line."""

import sys

from ._native import main as _main


def main() -> None:
    """Runs `lstmc` with this program's arguments."""
    sys.exit(_main(sys.argv))
