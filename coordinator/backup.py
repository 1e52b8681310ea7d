"""Backup and restore of the coordinator, without what must be forgettable (A4).

A snapshot holds the state, certificates, releases, sealed payloads and the configuration. `keys/`
and `keystore/` are never in it: the first is kept sealed and rarely changes, the second is what a
revocation destroys, and has a policy of its own (`docs/operations.md`). A state restored from a
snapshot is as old as the snapshot: sites that saw more of the log refuse it.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from coordinator import payloads, state
from coordinator.context import Coordinator
from coordinator.home import CONFIG, Home
from coordinator.state import SCHEMA_VERSION
from coordinator.submissions import BlueprintState
from federation.auditlog import merkle
from kit import snapshot

KIND = "coordinator"
CONTENTS = snapshot.Contents(
    databases_before=("state.sqlite",),
    files=(CONFIG, "protection.json", "certificates", "payloads", "releases"),
)
SECRET_FOLDERS = ("keys", "keystore")
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
    facts = {"federation": coordinator.config.federation}
    made = snapshot.take(
        coordinator.home.path,
        folder,
        CONTENTS,
        kind=KIND,
        schema=SCHEMA_VERSION,
        now=now,
        facts=facts,
    )
    size, root = _log_of(made / CONTENTS.databases_before[0])
    files = len(snapshot.verify(made, kind=KIND, newest_schema=SCHEMA_VERSION).files)
    return Backup(snapshot=made, files=files, log_size=size, log_root=root)


def restore(source: Path, home: Path, *, keys: Path, keystore: Path) -> Restored:
    """Lay out a home from a snapshot and the two folders of secrets, which have their own places.

    Raises:
        KitError: the snapshot is damaged or newer, a folder is missing, or `home` is not empty.
        IdentityError: the keys are not those of the snapshot's certificates.
    """
    manifest = snapshot.verify(source, kind=KIND, newest_schema=SCHEMA_VERSION)
    home = home.absolute()
    with snapshot.restored(source, manifest, home) as part:
        for name, given in zip(SECRET_FOLDERS, (keys, keystore), strict=True):
            snapshot.copy_folder(given, part / name)
        with Coordinator.open(part) as coordinator:
            _check_keys(coordinator)
            unreadable = _unreadable(coordinator)
        size, root = _log_of(Home(part).database)
    return Restored(
        home=home,
        taken=manifest.taken,
        log_size=size,
        log_root=root,
        unreadable_blueprints=unreadable,
    )


def _log_of(database: Path) -> tuple[int, str]:
    with snapshot.read_only(database) as rows:
        hashes = [row[0] for row in rows.execute("SELECT hash FROM log ORDER BY position")]
    return len(hashes), merkle.root(hashes).hex()


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
