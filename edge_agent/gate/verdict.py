"""What the gate answers: checks with private figures, and one verdict."""

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from edge_agent.training.folder import GATE
from kit import canonical
from kit.files import read_limited

_MAX_JSON_BYTES = 1 << 24


class Outcome(StrEnum):
    """What one check found; only `failed` stops a run."""

    PASSED = "passed"
    FAILED = "failed"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question and its answer; `value` and `threshold` are private scores."""

    name: str
    outcome: Outcome
    value: float
    threshold: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """The gate's verdict. Only `passed` may leave the site (A11)."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed; one that cannot tell stops nothing."""
        return all(c.outcome is not Outcome.FAILED for c in self.checks)

    def lines(self) -> list[str]:
        """Return one line a check, for people at the site."""
        return [f"{_loud(c.outcome)}: {c.words}" for c in self.checks]

    def to_table(self) -> dict[str, Any]:
        """Return the report as canonical JSON values (`gate.json`, local only)."""
        checks = [
            {
                "name": c.name,
                "outcome": str(c.outcome),
                "value": canonical.real(c.value),
                "threshold": canonical.real(c.threshold),
                "words": c.words,
            }
            for c in self.checks
        ]
        return {"passed": self.passed, "checks": checks}


def words(folder: Path, *, passed: bool) -> str:
    """Say in one line what was found about a run: also what could not be told.

    `passed` is the verdict that stands, by the ledger; the report may be gone, or of a failure
    since forgotten.
    """
    parts, path = ["passed" if passed else "FAILED"], folder / GATE
    if not path.is_file():
        return parts[0]
    report = json.loads(read_limited(path, limit=_MAX_JSON_BYTES, what="gate report"))
    for outcome in (Outcome.FAILED, Outcome.CANNOT_TELL):
        names = [c["name"] for c in report.get("checks", ()) if c["outcome"] == outcome]
        if names:
            parts.append(f"{outcome}: {', '.join(names)}")
    return "; ".join(parts) + (f" (why: `{path}`)" if len(parts) > 1 else "")


def _loud(outcome: Outcome) -> str:
    return outcome.upper() if outcome is Outcome.FAILED else str(outcome)
