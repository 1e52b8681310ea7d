"""Uploads that nobody can finish any more: dropped, with the key that they were sealed to (A2).

An incomplete upload holds ciphertext and the wrapped key. Once its statement has expired, its study
is closed or its site shut out, only somebody who kept a copy could still want it. One that nobody
goes on with expires by this machine's clock, and its key stays: the site may begin it again.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coordinator import papers, recipients, state, uploads
from coordinator.context import Coordinator
from coordinator.state import Transaction
from federation.blueprint.statement import Statement
from kit import clock

_RECEIVING, _ACTIVE = "receiving", "active"


def give_up(coordinator: Coordinator, tx: Transaction, digest: str) -> None:
    """Drop an upload that its site does not want to finish; nothing happens if there is none."""
    table = state.blueprints
    is_open = (table.c.digest == digest) & (table.c.state == _RECEIVING)
    if tx.execute(sa.delete(table).where(is_open)).rowcount:
        papers.forget(tx, digest)
        uploads.drop(coordinator, digest)


def drop_dead(coordinator: Coordinator) -> int:
    """Drop every upload that cannot become `received`; returns how many there were."""
    with coordinator.state.read() as tx:
        if not _dead(coordinator, tx):
            return 0
    with coordinator.write() as tx:
        dead = _dead(coordinator, tx)
        for row in dead:
            tx.execute(sa.delete(state.blueprints).where(state.blueprints.c.digest == row.digest))
            papers.forget(tx, row.digest)
            recipients.rotate(coordinator, tx, row.study_digest, row.site)
            uploads.drop(coordinator, row.digest)
    return len(dead)


def expire(coordinator: Coordinator) -> int:
    """Drop every upload without a new byte for the configured hours; returns how many.

    The time is that of this machine alone. The site keeps its sealed copy and may begin again.
    """
    limit = coordinator.now() - timedelta(hours=coordinator.config.staging_hours)
    folder, table, gone = coordinator.home.path / "staging", state.blueprints, 0
    for path in folder.iterdir() if folder.is_dir() else ():
        if _last_written(path) >= limit:
            continue
        is_open = (table.c.digest == path.stem) & (table.c.state == _RECEIVING)
        with coordinator.write() as tx:
            if tx.execute(sa.delete(table).where(is_open)).rowcount:
                uploads.drop(coordinator, path.stem)
                gone += 1
    return gone


def _dead(coordinator: Coordinator, tx: Transaction) -> list[sa.Row[Any]]:
    table, sites, studies = state.blueprints, state.sites, state.studies
    active = sa.select(sites.c.id).where(sites.c.state == _ACTIVE)
    is_open = sa.select(studies.c.digest).where(studies.c.open)
    columns = (table.c.digest, table.c.site, table.c.study_digest, table.c.statement)
    query = sa.select(
        *columns, table.c.site.in_(active).label("active"), table.c.study_digest.in_(is_open)
    ).where(table.c.state == _RECEIVING)
    now = coordinator.now()
    return [
        row
        for row in tx.all(query)
        if not all(row[-2:])
        or now >= clock.parse_rfc3339(Statement.from_bytes(row.statement).expires)
    ]


def _last_written(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:  # taken in meanwhile
        return datetime.max.replace(tzinfo=UTC)
