"""Schema 8: Alembic keeps the version, and PostgreSQL may keep the state.

The first that both databases know. An older kit finds no version and refuses it.
"""

from alembic import op

revision = "8"
down_revision = "7"


def upgrade() -> None:
    """Migrate from schema 7."""
    op.execute("DELETE FROM meta WHERE name = 'schema'")
