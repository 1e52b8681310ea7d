"""Uploads that nobody can finish any more: dropped, with the key that they were sealed to (A2).

An incomplete upload holds ciphertext and the wrapped key. Once its statement has expired, its study
is closed or its site shut out, only somebody who kept a copy could still want it.
"""

from typing import Any

import sqlalchemy as sa

from coordinator import papers, recipients, state
from coordinator.context import Coordinator
from coordinator.state import Transaction
from federation.blueprint.statement import Statement
from kit import clock

_RECEIVING, _ACTIVE = "receiving", "active"


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
            coordinator.home.staging(row.digest).unlink(missing_ok=True)
    return len(dead)


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
