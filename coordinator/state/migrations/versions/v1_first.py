"""Schema 1: the tables of the first coordinators, which made them themselves, in SQLite."""

revision = "1"
down_revision = None


def upgrade() -> None:
    """Nothing: a new state is made as the newest version has it."""
