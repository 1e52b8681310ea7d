"""Write the hostile vectors: `python -m tests.vectors.write_hostile DIR` makes a whole set.

Keys and nonces are fresh at every run, so the bytes of two sets differ and their names do not. A
committed set is never replaced: what one version refused, every later one refuses. What came to the
catalogue since is added with `--missing` as a set of its own, under keys of its own.
"""

import argparse
from pathlib import Path

from tests.fakes.forge import Forge
from tests.vectors import hostile
from tests.vectors.catalogue import (
    base_faults,
    chain_faults,
    composition_faults,
    envelope_faults,
    payload_faults,
    statement_faults,
    statistics_faults,
)


def catalogue() -> list[hostile.Vector]:
    """Return every vector of steps 1 to 22, and the controls of every family."""
    found = [
        *envelope_faults.catalogue(),
        *chain_faults.catalogue(),
        *statement_faults.catalogue(),
        *composition_faults.catalogue(),
        *base_faults.catalogue(),
        *payload_faults.catalogue(),
        *statistics_faults.catalogue(),
    ]
    return sorted(found, key=lambda vector: vector.name)


def missing() -> list[hostile.Vector]:
    """Return the vectors that no committed set has, and the controls of their families."""
    vectors, known = catalogue(), hostile.committed()
    families = {vector.family for vector in vectors if vector.name not in known}
    return [
        vector
        for vector in vectors
        if vector.name not in known or (vector.step == 0 and vector.family in families)
    ]


def main() -> None:
    """Write one set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="must not exist")
    parser.add_argument("--missing", action="store_true", help="only what is not committed yet")
    options = parser.parse_args()
    hostile.write(options.folder, Forge(), missing() if options.missing else catalogue())


if __name__ == "__main__":
    main()
