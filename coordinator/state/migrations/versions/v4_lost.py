"""Schema 4: what a recovery found on the log and not here."""

from alembic import op

revision = "4"
down_revision = "3"

STATEMENTS = (
    "CREATE TABLE lost (name VARCHAR NOT NULL, kind VARCHAR NOT NULL, PRIMARY KEY (name))",
)


def upgrade() -> None:
    """Migrate from schema 3."""
    for statement in STATEMENTS:
        op.execute(statement)
