"""What one aid says of one blueprint: for a person to weigh, never a verdict."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from kit import canonical
from kit.errors import FormatError

MAX_WORDS = 400
NAMED = 6  # classes that a line names; there may be a thousand


class Aid(StrEnum):
    """The aids, in the order in which people read them."""

    CONSTANT = "constant"
    DUPLICATES = "duplicates"
    NOISE = "noise"
    UNLIKE = "unlike"
    CLASSES = "classes"
    LABELS = "labels"
    TRIGGER = "trigger"
    INFLUENCE = "influence"
    REVOKED = "revoked"


class Outcome(StrEnum):
    """What an aid may conclude."""

    CLEAR = "clear"
    FLAGGED = "flagged"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line for a reviewer.

    Attributes:
        aid: which aid.
        outcome: flagged if any class is; else "cannot tell" if that is so of any class.
        measure: of the class that comes out worst; None where nothing could be measured.
        threshold: what `measure` was held against.
        words: the measure in plain words, the classes, and what could not be told.
    """

    aid: Aid
    outcome: Outcome
    measure: float | None
    threshold: float
    words: str

    def line(self) -> str:
        """Return the finding as one line of text."""
        return f"{self.aid}: {self.outcome}: {self.words}"

    def to_table(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_table(cls, value: Any) -> Self:
        """Read what `to_table` wrote; whoever wrote it may have been a payload's puppet.

        Raises:
            FormatError: it is no finding.
        """
        table = canonical.fields(value, set(cls.__slots__), what="finding")
        try:
            measure = None if table["measure"] is None else float(table["measure"])
            found = cls(
                aid=Aid(table["aid"]),
                outcome=Outcome(table["outcome"]),
                measure=measure,
                threshold=float(table["threshold"]),
                words=canonical.printable(table["words"], width=MAX_WORDS),
            )
        except (TypeError, ValueError) as error:
            raise FormatError("a finding has a field that is none") from error
        if not math.isfinite(found.threshold) or not math.isfinite(found.measure or 0.0):
            raise FormatError("a finding has a number that is not finite")
        return found


def named(labels: Iterable[str]) -> str:
    """Return classes as words: the first few, and how many more there are."""
    every = list(labels)
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more


def conclude(flagged: Sequence[str], untold: Sequence[str]) -> Outcome:
    """Return the outcome where some classes are flagged and some could not be judged."""
    if flagged:
        return Outcome.FLAGGED
    return Outcome.CANNOT_TELL if untold else Outcome.CLEAR
