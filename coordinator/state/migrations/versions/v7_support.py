"""Schema 7: what intake saw of each class."""

from alembic import op

revision = "7"
down_revision = "6"

STATEMENTS = ("ALTER TABLE blueprints ADD COLUMN support TEXT",)


def upgrade() -> None:
    """Migrate from schema 6."""
    for statement in STATEMENTS:
        op.execute(statement)
