"""Schema 3: signed documents about a blueprint."""

from alembic import op

revision = "3"
down_revision = "2"

STATEMENTS = (
    "CREATE TABLE papers (digest VARCHAR NOT NULL, blueprint VARCHAR NOT NULL,"
    " kind VARCHAR NOT NULL, envelope BLOB NOT NULL, chain BLOB NOT NULL,"
    " PRIMARY KEY (digest))",
    "CREATE INDEX ix_papers_blueprint ON papers (blueprint)",
)


def upgrade() -> None:
    """Migrate from schema 2."""
    for statement in STATEMENTS:
        op.execute(statement)
