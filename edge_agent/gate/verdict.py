"""What the gate answers: checks with private figures, and one verdict."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kit import canonical


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


def _loud(outcome: Outcome) -> str:
    return outcome.upper() if outcome is Outcome.FAILED else str(outcome)
