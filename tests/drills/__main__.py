"""`python -m tests.drills`: carry out every drill and print the table; exit 0 if all passed."""

import argparse
import json
import logging
import signal
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.drills import (  # noqa: F401 - they register
    certificates,
    clocks_and_logs,
    crashes,
    crowds,
    disks,
)
from tests.drills.table import DRILLS, carry_out, markdown, stages_folder

LIMIT_S = 900  # for one drill


@contextmanager
def bounded(limit_s):
    """End what runs too long: it fails, and the next one is carried out."""

    def too_long(_number, _frame):
        raise TimeoutError(f"not done within {limit_s} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="drills whose name contains this")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--table", type=Path, help="also write the table to this file")
    parser.add_argument("--keep", type=Path, help="work here and keep it, instead of a new folder")
    words = parser.parse_args()
    logging.disable(logging.CRITICAL)  # refusals are what a drill provokes
    chosen = [each for each in DRILLS if words.only in each.name]
    with tempfile.TemporaryDirectory(prefix="drills-") as new:
        folder = words.keep or Path(new)
        stages, outcomes = stages_folder(folder), []
        for number, each in enumerate(chosen):
            print(f"{number + 1}/{len(chosen)}: {each.name}", file=sys.stderr, flush=True)
            with bounded(LIMIT_S):
                outcomes.append(carry_out(each, folder / f"{number:02d}", stages))
            # After each: what was seen is not lost with the machine.
            if words.json:
                rows = [asdict(row) for row in outcomes]
                words.json.write_text(json.dumps(rows, indent=2) + "\n")
            if words.table:
                words.table.write_text(markdown(outcomes))
    print(markdown(outcomes), end="")
    failed = [row.drill for row in outcomes if not row.passed]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} passed", file=sys.stderr)
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
