"""Schema 6: who may sign the recipient keys of a study."""

from alembic import op

revision = "6"
down_revision = "5"

STATEMENTS = (
    "CREATE TABLE delegations (study_digest VARCHAR NOT NULL, envelope BLOB NOT NULL,"
    " PRIMARY KEY (study_digest))",
)


def upgrade() -> None:
    """Migrate from schema 5."""
    for statement in STATEMENTS:
        op.execute(statement)
