"""What this site did that the log will show: digests, noted before anything is sent.

Against this list the site reads the log for its own name (`edge_agent/watch.py`): an entry about it
that is not here is somebody else's doing (A1).
"""

from dataclasses import dataclass

from edge_agent.home import Home
from kit import canonical
from kit.errors import FormatError
from kit.files import write_atomic

VERSION = 1
MAX_ACTS_BYTES = 1 << 20  # 15,000 acts: a renewal a week for three hundred years


@dataclass(frozen=True, slots=True, kw_only=True)
class Acts:
    """Digests of what this site asked for; complete for log entries from number `since` on."""

    since: int
    digests: frozenset[str]


def known(home: Home) -> Acts | None:
    """Return what this site did, or None in a home from before it was noted.

    Raises:
        FormatError: the file is damaged.
    """
    if not home.acts.is_file():
        return None
    data = canonical.decode(home.read(home.acts, "list of acts"), limit=MAX_ACTS_BYTES)
    table = canonical.fields(data, {"version", "since", "acts"}, what="list of acts")
    canonical.version(table["version"], expected=VERSION, what="list of acts")
    if not isinstance(table["acts"], list):
        raise FormatError("list of acts is damaged")
    return Acts(
        since=canonical.integer(
            table["since"], low=0, high=canonical.MAX_INTEGER, what="number of a log entry"
        ),
        digests=frozenset(canonical.sha256_hex(item) for item in table["acts"]),
    )


def begin(home: Home, *, since: int) -> None:
    """Start the list, unless there is one; earlier log entries are taken as they are."""
    if known(home) is None:
        _write(home, Acts(since=since, digests=frozenset()))


def note(home: Home, *digests: str) -> None:
    """Note what is about to be done, durably; the caller then sends it."""
    before = known(home) or Acts(since=0, digests=frozenset())
    _write(home, Acts(since=before.since, digests=before.digests | set(digests)))


def forget(home: Home, digest: str) -> bool:
    """Take back what was noted; False if it never was."""
    before = known(home)
    if before is None or digest not in before.digests:
        return False
    _write(home, Acts(since=before.since, digests=before.digests - {digest}))
    return True


def _write(home: Home, acts: Acts) -> None:
    table = {"version": VERSION, "since": acts.since, "acts": sorted(acts.digests)}
    write_atomic(home.acts, canonical.encode(table), mode=0o600)
