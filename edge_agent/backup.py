"""Backup and restore of a site's home: it holds the privacy ledger, so it has to survive whole.

The ledger is copied last: a run that is training meanwhile is then charged in the copy for at least
the steps that its copied checkpoint has taken. Sealed copies on their way out (`outbox/`) stay out
of backups: nobody could purge them there (A2). Keys are in it, as they lie in the home.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent.home import SCHEMA_VERSION, Home
from kit import snapshot

KIND = "edge-agent"
CONTENTS = snapshot.Contents(
    files=(".",),
    left_out=("enrolment", "ledger", "logs", "outbox", "reserve"),
    databases_after=("ledger/ledger.sqlite",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """Where a snapshot lies, and where its ledger stands."""

    snapshot: Path
    files: int
    ledger_head: str
    ledger_counter: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A home laid out from a snapshot, and where its ledger stands."""

    home: Path
    taken: str
    ledger_head: str
    ledger_counter: int


def back_up(home: Home, folder: Path, *, now: datetime) -> Backup:
    """Take a snapshot into a new folder below `folder`; training may go on meanwhile.

    Raises:
        KitError: the ledger cannot be read, or the disk is full.
    """
    facts = {"site": home.config.site, "federation": home.config.federation}
    made = snapshot.take(
        home.path, folder, CONTENTS, kind=KIND, schema=SCHEMA_VERSION, now=now, facts=facts
    )
    files = len(snapshot.verify(made, kind=KIND, newest_schema=SCHEMA_VERSION).files)
    head, counter = _ledger_head(made)
    return Backup(snapshot=made, files=files, ledger_head=head, ledger_counter=counter)


def restore(source: Path, path: Path) -> Restored:
    """Lay out a home from a snapshot; the first one must never be used again beside it.

    Raises:
        KitError: the snapshot is damaged or newer, or `path` is not empty.
    """
    manifest = snapshot.verify(source, kind=KIND, newest_schema=SCHEMA_VERSION)
    home = Home(path.absolute())
    with snapshot.restored(source, manifest, home.path) as part:
        Home.open(part)
        head, counter = _ledger_head(part)
    return Restored(home=home.path, taken=manifest.taken, ledger_head=head, ledger_counter=counter)


def _ledger_head(folder: Path) -> tuple[str, int]:
    """Return head and counter as the file says; its chain is verified when a command opens it."""
    path = folder / CONTENTS.databases_after[0]
    if not path.is_file():
        return "", 0
    with snapshot.read_only(path) as ledger:
        query = "SELECT hash, counter FROM entries ORDER BY counter DESC LIMIT 1"
        row = ledger.execute(query).fetchone()
    return ("", 0) if row is None else (row[0].hex(), row[1])
