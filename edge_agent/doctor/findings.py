"""A finding: what was looked at, what was seen, and what to do if it is not as it should be."""

from collections.abc import Callable
from dataclasses import dataclass

from kit.errors import KitError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check; `passed` is None if another has to pass first."""

    check: str
    passed: bool | None
    seen: str
    fix: str = ""

    @property
    def verdict(self) -> str:
        """One word for a table."""
        return {True: "ok", False: "FAILED", None: "not tried"}[self.passed]


def examine(check: str, look: Callable[[], str]) -> Finding:
    """Run a check: it returns what it saw, or raises a `KitError` with cause and hint."""
    try:
        return Finding(check=check, passed=True, seen=look())
    except KitError as error:
        return Finding(check=check, passed=False, seen=str(error), fix=error.hint or "")


def postponed(check: str, cause: Finding) -> Finding:
    """Say that a check was not made because another failed."""
    return Finding(check=check, passed=None, seen=f"not tried: `{cause.check}` has to pass first")
