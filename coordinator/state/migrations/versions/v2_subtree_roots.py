"""Schema 2: roots of complete subtrees, cosignatures, and on the log what stood in tables only."""

from typing import Any

import sqlalchemy as sa
from alembic import context, op

from coordinator.state.transaction import Transaction
from federation.auditlog.events import Kind
from federation.auditlog.history import revocations_digest

revision = "2"
down_revision = "1"

STATEMENTS = (
    "CREATE TABLE log_nodes (level INTEGER NOT NULL, number INTEGER NOT NULL,"
    " hash BLOB NOT NULL, PRIMARY KEY (level, number)) WITHOUT ROWID",
    "CREATE TABLE cosignatures (pseudonym VARCHAR NOT NULL, size INTEGER NOT NULL,"
    " line VARCHAR NOT NULL, time VARCHAR NOT NULL, PRIMARY KEY (pseudonym, size))",
    "CREATE TABLE log_causes (site VARCHAR NOT NULL, day VARCHAR NOT NULL,"
    " entries INTEGER NOT NULL, PRIMARY KEY (site, day))",
    "CREATE TRIGGER log_nodes_no_update BEFORE update ON log_nodes"
    " BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
    "CREATE TRIGGER log_nodes_no_delete BEFORE delete ON log_nodes"
    " BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END",
)


def upgrade() -> None:
    """Migrate from schema 1."""
    for statement in STATEMENTS:
        op.execute(statement)
    tx: Transaction = context.config.attributes["transaction"]
    tx.fill_nodes()
    log_what_was_not_logged(tx)


def log_what_was_not_logged(tx: Transaction) -> None:
    """Put on the log what schema 1 kept in tables only: witness and recipient keys, the list."""
    for row in _rows(tx, "SELECT pseudonym, witness_key FROM sites WHERE state = 'active'"):
        tx.record(Kind.WITNESS_REGISTERED, row.witness_key.hex(), site=row.pseudonym)
    keys = (
        "SELECT k.kid, k.study_digest, s.pseudonym FROM recipient_keys k JOIN sites s"
        " ON s.id = k.site ORDER BY k.kid"
    )
    for row in _rows(tx, keys):
        tx.record(Kind.RECIPIENT_ISSUED, row.kid, study=row.study_digest, site=row.pseudonym)
    number = int(tx.get("revocations") or 0)
    revoked = _rows(tx, "SELECT digest FROM blueprints WHERE state = 'revoked'")
    withdrawn = _rows(tx, "SELECT digest FROM releases WHERE withdrawn")
    content = revocations_digest([r.digest for r in revoked], [r.digest for r in withdrawn])
    tx.record(Kind.REVOCATIONS_CHANGED, content, number=number)


def _rows(tx: Transaction, query: str) -> list[Any]:
    return list(tx.execute(sa.text(query)))
