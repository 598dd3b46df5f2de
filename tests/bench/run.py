"""``make bench``: p2pstream beside its peers. ``--help`` tells what can be chosen."""

import sys
from pathlib import Path


def main() -> int:
    # A script imports from its own folder first; these modules are named from the root.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from tests.bench.measure import entry

    return entry()


if __name__ == "__main__":
    sys.exit(main())
