"""How far the privacy ledger had come, kept outside its folder (threat A8).

A ledger that was deleted, or put back from an older copy, knows less than was spent. The mark is
written where a run begins and ends: in between, the run's whole reservation counts anyway. A home
that was put back as a whole carries an older mark as well; that one is missed by the coordinator,
who remembers the head of every statement.
"""

from dataclasses import dataclass
from pathlib import Path

from edge_agent.ledger import Ledger
from kit import canonical
from kit.errors import KitError
from kit.files import read_limited, write_atomic

_MAX_BYTES = 4096
_HINT = (
    "put back the newest copy of the ledger's folder; if there is none, what these patients have"
    " spent is unknown and no private run may use them: ask the privacy officer"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """The chain's hash (hexadecimal) after `counter` entries."""

    head: str
    counter: int


def read(path: Path) -> Mark | None:
    """Return the mark, None where no run has begun yet.

    Raises:
        KitError: the file is damaged.
    """
    if not path.exists():
        return None
    table = canonical.decode(read_limited(path, limit=_MAX_BYTES, what="ledger mark"))
    fields = canonical.fields(table, {"head", "counter"}, what="ledger mark")
    counter = canonical.integer(fields["counter"], low=0, high=1 << 53, what="ledger counter")
    return Mark(head=str(fields["head"]), counter=counter)


def advance(path: Path, ledger: Ledger) -> None:
    """Write down how far the ledger is; never back."""
    head, counter = ledger.head()
    known = read(path)
    if known is None or counter > known.counter:
        table = {"head": head, "counter": counter}
        write_atomic(path, canonical.encode(table), mode=0o600)


def require_present(path: Path, ledger: Path) -> None:
    """Check, before a ledger is made, that none is missing.

    Raises:
        KitError: there was a ledger.
    """
    mark = read(path)
    if mark is not None and not ledger.is_file():
        raise KitError(
            f"the privacy ledger `{ledger}` is gone; it had {mark.counter} entries", hint=_HINT
        )


def require_whole(path: Path, ledger: Ledger) -> None:
    """Check that the ledger goes on from the mark.

    Raises:
        KitError: it is older, or another one.
    """
    mark = read(path)
    if mark is not None and not ledger.has(mark.head, mark.counter):
        _, counter = ledger.head()
        raise KitError(
            f"the privacy ledger was put back to an older state: it has {counter} entries and does"
            f" not hold the {mark.counter} that were written",
            hint=_HINT,
        )
