"""Leftovers: files that a crash left behind of blueprints and releases nobody may read any more.

A process that dies between a file and the commit that knows it leaves the file without a row, and
one that dies between a commit and a deletion leaves what was to be deleted. Nothing else would
find them: a release made from a blueprint that is revoked later would stay readable.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from coordinator import recipients, state
from coordinator.context import Coordinator
from coordinator.state import Transaction
from coordinator.stores.objects import SCRATCH
from coordinator.submissions import BlueprintState
from kit.files import os_errors

_SCRATCH_AGE_S = 24 * 3600.0  # a copy of an object that is still in use is younger
# `<digest>.sealed`, `blueprint-<digest>.key`, and what `kit.files` calls them until they are whole
_NAMED = re.compile(r"\.?(?:blueprint-|recipient-)?([0-9a-f]{64})(?:\..*)?")


def sweep(coordinator: Coordinator) -> int:
    """Delete every file of a blueprint, key or release that is gone; returns how many.

    Runs under the state's write lock: releases and recipient keys are written under it too, so a
    temporary file of theirs that is seen here belongs to a process that died.
    """
    home, stores = coordinator.home, coordinator.stores
    with coordinator.write() as tx:
        blueprints = _blueprints(tx)
        files = {
            *_files(home.keystore, "*blueprint-*", blueprints),
            *_files(home.keystore, "*recipient-*", recipients.needed(tx)),
            *_files(home.path / "staging", "*", blueprints),
            *_forgotten(home.path / "staging"),
        }
        for path in files:
            _delete(path)
        models = stores.releases.names()
        parts = [name for name in models if name.startswith(".")]
        entries = {
            *((stores.payloads, name) for name in _strangers(stores.payloads.names(), blueprints)),
            *((stores.shards, name) for name in _strangers(stores.shards.names(), blueprints)),
            *((stores.releases, name) for name in _strangers(models, _releases(tx))),
            *((stores.releases, name) for name in _strangers(parts, set())),
        }
        for store, name in entries:
            store.delete(name)
        _rename_received(coordinator, tx)
    return len(files) + len(entries)


def _rename_received(coordinator: Coordinator, tx: Transaction) -> None:
    """Give whole uploads of an earlier version of the kit the name that intake looks for."""
    table = state.blueprints
    for row in tx.all(sa.select(table.c.digest).where(table.c.state == BlueprintState.RECEIVED)):
        part, whole = coordinator.home.staging(row.digest), coordinator.home.received(row.digest)
        if part.is_file() and not whole.exists():
            part.replace(whole)


def _blueprints(tx: Transaction) -> set[str]:
    table = state.blueprints
    return {r.digest for r in tx.all(sa.select(table.c.digest).where(table.c.destroyed.is_(None)))}


def _releases(tx: Transaction) -> set[str]:
    """Return the releases in use, and those withdrawn for what is not destroyed yet."""
    blueprint, edge, release = state.blueprints, state.lineage, state.releases
    destroyed = sa.select(blueprint.c.digest).where(blueprint.c.destroyed.is_not(None))
    fallen = sa.select(edge.c.descendant).where(edge.c.ancestor.in_(destroyed))
    kept = sa.select(release.c.digest).where(
        release.c.withdrawn.is_(False) | release.c.digest.not_in(fallen)
    )
    return {row.digest for row in tx.all(kept)}


def _files(folder: Path, pattern: str, known: set[str]) -> Iterator[Path]:
    found = {path.name: path for path in folder.glob(pattern)} if folder.is_dir() else {}
    yield from (found[name] for name in _strangers(found, known))


def _forgotten(staging: Path) -> Iterator[Path]:
    """Yield the copies of objects of processes that died."""
    for path in staging.glob(f"{SCRATCH}*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _SCRATCH_AGE_S:
                yield path


def _strangers(names: Iterable[str], known: set[str]) -> Iterator[str]:
    for name in names:
        named = _NAMED.fullmatch(name)
        if named is not None and named[1] not in known:
            yield name


def _delete(path: Path) -> None:
    with os_errors(path):
        if path.suffix == ".key" or ".key." in path.name:
            path.write_bytes(os.urandom(path.stat().st_size))
        path.unlink(missing_ok=True)
