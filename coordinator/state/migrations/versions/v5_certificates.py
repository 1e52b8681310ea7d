"""Schema 5: certificates, authorities of sites, and consents to readmission."""

from alembic import op

revision = "5"
down_revision = "4"

STATEMENTS = (
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
)


def upgrade() -> None:
    """Migrate from schema 4."""
    for statement in STATEMENTS:
        op.execute(statement)
