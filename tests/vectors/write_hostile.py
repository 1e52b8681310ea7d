"""Write the hostile vectors: `python tests/vectors/write_hostile.py DIR` makes a whole set.

Keys and nonces are fresh at every run, so the bytes of two sets differ and their names do not. A
committed set is never replaced, only added to: what one version refused, every later one refuses.
"""

import argparse
from pathlib import Path

from tests.fakes.forge import Forge
from tests.vectors import hostile
from tests.vectors.catalogue import (
    chain_faults,
    envelope_faults,
    payload_faults,
    statement_faults,
)


def catalogue() -> list[hostile.Vector]:
    """Return every vector of steps 1 to 22, and the controls of every family."""
    found = [
        *envelope_faults.catalogue(),
        *chain_faults.catalogue(),
        *statement_faults.catalogue(),
        *payload_faults.catalogue(),
    ]
    return sorted(found, key=lambda vector: vector.name)


def main() -> None:
    """Write one set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="must not exist")
    hostile.write(parser.parse_args().folder, Forge(), catalogue())


if __name__ == "__main__":
    main()
