"""Schema 10: review aids, and the sketches of blueprints."""

import sqlalchemy as sa
from alembic import op

revision = "10"
down_revision = "9"

# The types of this version, whatever those of a later one are.
TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
LONG_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Migrate from schema 9."""
    op.create_table(
        "sketches",
        sa.Column("blueprint", TEXT, primary_key=True),
        sa.Column("sketch", LONG_TEXT, nullable=False),
    )
    op.create_table(
        "review_aids",
        sa.Column("blueprint", TEXT, primary_key=True),
        sa.Column("made", TEXT, nullable=False),
        sa.Column("compared_with", LONG_TEXT, nullable=False),
        sa.Column("findings", LONG_TEXT, nullable=False),
    )
