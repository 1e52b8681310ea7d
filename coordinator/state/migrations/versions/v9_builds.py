"""Schema 9: builds as plans, their jobs under leases, and what happened in them."""

import sqlalchemy as sa
from alembic import op

revision = "9"
down_revision = "8"

# The types of this version, whatever those of a later one are.
TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
LONG_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Migrate from schema 8."""
    op.create_table(
        "builds",
        sa.Column("number", INTEGER, primary_key=True, autoincrement=False),
        sa.Column("plan", TEXT, nullable=False, index=True),
        sa.Column("study_digest", TEXT, nullable=False, index=True),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("created", TEXT, nullable=False),
        sa.Column("ended", TEXT),
        sa.Column("result", LONG_TEXT),
    )
    op.create_table(
        "jobs",
        sa.Column("build", INTEGER, primary_key=True, autoincrement=False),
        sa.Column("number", INTEGER, primary_key=True, autoincrement=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("blueprint", TEXT),
        sa.Column("label", TEXT),
        sa.Column("work", TEXT, nullable=False, index=True),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("owner", TEXT),
        sa.Column("lease_until", TEXT),
        sa.Column("attempt", INTEGER, nullable=False),
    )
    op.create_table(
        "build_events",
        sa.Column("build", INTEGER, primary_key=True, autoincrement=False),
        sa.Column("number", INTEGER, primary_key=True, autoincrement=False),
        sa.Column("time", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("job", INTEGER),
        sa.Column("details", LONG_TEXT, nullable=False),
    )
