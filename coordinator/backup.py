"""Backup and restore of the coordinator, without what must be forgettable (A4).

A snapshot holds the state, certificates, releases, sealed payloads and the configuration. `keys/`
and `keystore/` are never in it: the first is kept sealed and rarely changes, the second is what a
revocation destroys, and has a policy of its own (`docs/operations.md`). A state restored from a
snapshot is as old as the snapshot: sites that saw more of the log refuse it.

A state in PostgreSQL is dumped by its own tools, before the snapshot: a file was whole before its
row, so files that are newer than the rows miss nothing. The snapshot says how long the log was.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from coordinator import payloads, state
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.home import CONFIG, CoordinatorConfig, Home
from coordinator.state import SCHEMA_VERSION, State, transfer
from coordinator.submissions import BlueprintState
from federation.auditlog import merkle
from kit import config, snapshot
from kit.errors import FormatError

KIND = "coordinator"
CONTENTS = snapshot.Contents(
    databases_before=(state.FILE,),
    files=(CONFIG, "protection.json", "certificates", "payloads", "releases", "repository"),
)
SECRET_FOLDERS = ("keys", "keystore")
_LOG_SIZE = "log_size"  # in the facts of a snapshot without a database
_SEALED = (BlueprintState.PENDING, BlueprintState.APPROVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """Where a snapshot lies, and how far its log goes."""

    snapshot: Path
    files: int
    log_size: int
    log_root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A home laid out from a snapshot, and what it cannot give back."""

    home: Path
    taken: str
    log_size: int
    log_root: str
    unreadable_blueprints: tuple[str, ...]


def back_up(coordinator: Coordinator, folder: Path, *, now: datetime) -> Backup:
    """Take a snapshot into a new folder below `folder`; a running server goes on meanwhile.

    Raises:
        KitError: the state cannot be read, or the disk is full.
    """
    size, root = _log_of(coordinator.state)  # a dump of before the snapshot has no more than this
    facts = {"federation": coordinator.config.federation}
    if not coordinator.state.location.is_file:
        facts[_LOG_SIZE] = str(size)
    made = snapshot.take(
        coordinator.home.path,
        folder,
        CONTENTS,
        kind=KIND,
        schema=SCHEMA_VERSION,
        now=now,
        facts=facts,
    )
    if coordinator.state.location.is_file:
        size, root = _log_of_file(made)
    files = len(snapshot.verify(made, kind=KIND, newest_schema=SCHEMA_VERSION).files)
    return Backup(snapshot=made, files=files, log_size=size, log_root=root)


def restore(
    source: Path, home: Path, *, keys: Path, keystore: Path, state_url: str | None = None
) -> Restored:
    """Lay out a home from a snapshot and the two folders of secrets, which have their own places.

    With `state_url` the state is in that PostgreSQL database from now on: the one into which the
    dump was restored, or an empty one for the SQLite state of the snapshot to move to.

    Raises:
        KitError: the snapshot is damaged or newer, a folder is missing, or `home` is not empty.
        StateError: the database is newer than the snapshot, or not of this federation.
        IdentityError: the keys are not those of the snapshot's certificates.
    """
    manifest = snapshot.verify(source, kind=KIND, newest_schema=SCHEMA_VERSION)
    home = home.absolute()
    with snapshot.restored(source, manifest, home) as part:
        for name, given in zip(SECRET_FOLDERS, (keys, keystore), strict=True):
            snapshot.copy_folder(given, part / name)
        if state_url:
            _use_database(Home(part), state_url)
        with Coordinator.open(part) as coordinator:
            _check_keys(coordinator)
            unreadable = _unreadable(coordinator)
            size, root = _log_of(coordinator.state)
            _check_database(manifest, size)
    return Restored(
        home=home,
        taken=manifest.taken,
        log_size=size,
        log_root=root,
        unreadable_blueprints=unreadable,
    )


def _log_of(opened: State) -> tuple[int, str]:
    with opened.read() as tx:
        size = tx.log_size()
        return size, tx.tree().root(size).hex()


def _log_of_file(folder: Path) -> tuple[int, str]:
    with snapshot.read_only(folder / state.FILE) as rows:
        hashes = [row[0] for row in rows.execute("SELECT hash FROM log ORDER BY position")]
    return len(hashes), merkle.root(hashes).hex()


def _use_database(home: Home, url: str) -> None:
    """Point a home that is being restored to another database, and move a SQLite state there."""
    target = replace(home.state, url=url)
    if home.state.is_file:
        transfer.move(home.state, target)
        for path in home.database_files:
            path.unlink(missing_ok=True)
    settings: CoordinatorConfig = replace(home.config, state=url)
    config.save(home.path / CONFIG, settings)


def _check_database(manifest: snapshot.Manifest, size: int) -> None:
    """Want a dump that is not newer than the files: their newest rows would name none."""
    said = manifest.facts.get(_LOG_SIZE)
    if said is None:
        return
    if not said.isdecimal():
        raise FormatError("the snapshot's manifest is damaged")
    if size > int(said):
        raise StateError(
            f"the database's log has {size} entries, and {said} when the snapshot was taken",
            hint="restore a dump that was made before this snapshot, or a newer snapshot",
        )


def _check_keys(coordinator: Coordinator) -> None:
    """Want the keys that the certificates are for: a wrong one would only show at a site."""
    _ = coordinator.issuing, coordinator.signer
    coordinator.log_key.public_key()
    _ = coordinator.study_public


def _unreadable(coordinator: Coordinator) -> tuple[str, ...]:
    """Return blueprints in use whose key is gone: destroyed since, or an older key store."""
    table, store = state.blueprints, payloads.keystore(coordinator)
    with coordinator.state.read() as tx:
        rows = tx.all(sa.select(table.c.digest).where(table.c.state.in_(_SEALED)))
    return tuple(sorted(r.digest for r in rows if not store.has(payloads.BLUEPRINT, r.digest)))
