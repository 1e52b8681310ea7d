"""How the state of every older version becomes that of this one.

Each step is SQL that is never edited once it was on the main branch, so that a home of any age
passes through the very tables that its version knew. A new column or table is a new step at the
end, beside its definition in `coordinator.state`: `tests/coordinator/test_migrations.py` holds the
two equal.
"""

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from federation.auditlog.events import Kind
from federation.auditlog.history import revocations_digest

if TYPE_CHECKING:
    from coordinator.state import Transaction

# STEPS[0] leads from schema 1 to schema 2, and so on.
STEPS: tuple[tuple[str, ...], ...] = (
    (
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
    ),
    (
        "CREATE TABLE papers (digest VARCHAR NOT NULL, blueprint VARCHAR NOT NULL,"
        " kind VARCHAR NOT NULL, envelope BLOB NOT NULL, chain BLOB NOT NULL,"
        " PRIMARY KEY (digest))",
        "CREATE INDEX ix_papers_blueprint ON papers (blueprint)",
    ),
    ("CREATE TABLE lost (name VARCHAR NOT NULL, kind VARCHAR NOT NULL, PRIMARY KEY (name))",),
    (
        "ALTER TABLE sites ADD COLUMN signing_previous VARCHAR",
        "ALTER TABLE sites ADD COLUMN authority VARCHAR",
        "CREATE TABLE certificates (fingerprint VARCHAR NOT NULL, position INTEGER NOT NULL,"
        " serial VARCHAR NOT NULL, holder VARCHAR NOT NULL, usage VARCHAR NOT NULL,"
        " chain BLOB NOT NULL, expires VARCHAR NOT NULL, own BOOLEAN NOT NULL, revoked VARCHAR,"
        " reason VARCHAR, PRIMARY KEY (fingerprint), UNIQUE (position))",
        "CREATE INDEX ix_certificates_serial ON certificates (serial)",
        "CREATE INDEX ix_certificates_holder ON certificates (holder)",
        "CREATE TABLE authorities (name VARCHAR NOT NULL, certificate BLOB NOT NULL,"
        " sites TEXT NOT NULL, crl BLOB, crl_number INTEGER, PRIMARY KEY (name))",
        "CREATE TABLE readmissions (site VARCHAR NOT NULL, previous VARCHAR NOT NULL,"
        " reviewer_key VARCHAR NOT NULL, envelope BLOB NOT NULL, reason TEXT NOT NULL,"
        " salt BLOB NOT NULL, PRIMARY KEY (site, previous, reviewer_key))",
    ),
    (
        "CREATE TABLE delegations (study_digest VARCHAR NOT NULL, envelope BLOB NOT NULL,"
        " PRIMARY KEY (study_digest))",
    ),
    ("ALTER TABLE blueprints ADD COLUMN support TEXT",),
)
NEWEST = len(STEPS) + 1
LOG_NODES = 2  # the schema from which on subtree roots, and the documents below, are kept


def steps_from(version: int) -> list[str]:
    """Return the statements that lead from `version` to the newest, in order."""
    return [statement for step in STEPS[version - 1 :] for statement in step]


def log_what_was_not_logged(tx: "Transaction") -> None:
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


def _rows(tx: "Transaction", query: str) -> list[Any]:
    return list(tx.execute(sa.text(query)))
