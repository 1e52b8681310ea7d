"""Schema 11: rounded metrics of releases, signed by sites."""

import sqlalchemy as sa
from alembic import op

revision = "11"
down_revision = "10"

# The types of this version, whatever those of a later one are.
TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Migrate from schema 10."""
    op.create_table(
        "site_metrics",
        sa.Column("release", TEXT, primary_key=True),
        sa.Column("site", TEXT, primary_key=True),
        sa.Column("digest", TEXT, nullable=False, index=True),
        sa.Column("received", TEXT, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
    )
