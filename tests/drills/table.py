"""Drills: functions that return what was seen, or raise if it is not what was expected."""

import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.fakes import site

DRILLS = []


@dataclass(frozen=True, kw_only=True)
class Drill:
    """One drill: its stage of a federation, what is done to it, and what must come of it."""

    name: str
    done: str
    expected: str
    stage: str
    run: object


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One row of the table."""

    drill: str
    done: str
    expected: str
    seen: str
    passed: bool
    seconds: float


def drill(name, *, done, expected, stage="enrolled"):
    """Add a function of one federation to the table."""

    def add(function):
        DRILLS.append(Drill(name=name, done=done, expected=expected, stage=stage, run=function))
        return function

    return add


def carry_out(each, folder, stages):
    """Run one drill on a fresh copy of its stage."""
    folder.mkdir(parents=True)
    started = time.monotonic()
    try:
        federation = site.copy(each.stage, folder, stages) if each.stage else None
        seen, passed = each.run(federation if federation else folder), True
    except Exception as error:  # noqa: BLE001 - a drill that fails is a row, and the next one runs
        (folder / "traceback.txt").write_text(traceback.format_exc())
        seen, passed = f"{type(error).__name__}: {error}".splitlines()[0][:200], False
    return Outcome(
        drill=each.name,
        done=each.done,
        expected=each.expected,
        seen=seen,
        passed=passed,
        seconds=round(time.monotonic() - started, 1),
    )


def markdown(outcomes):
    """The table as it stands in `docs/drills.md`."""
    rows = ["| drill | done | expected | seen | s | |", "|---|---|---|---|---|---|"]
    for row in outcomes:
        cells = (row.drill, row.done, row.expected, row.seen, f"{row.seconds:.0f}")
        verdict = "passed" if row.passed else "**FAILED**"
        rows.append("| " + " | ".join(c.replace("|", "/") for c in (*cells, verdict)) + " |")
    return "\n".join(rows) + "\n"


def stages_folder(folder: Path) -> Path:
    """Where the stages that drills copy are made once."""
    made = folder / "stages"
    made.mkdir(parents=True, exist_ok=True)
    return made
