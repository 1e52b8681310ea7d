"""Which version of the tables a state has, and how an older one becomes that of this kit.

Versions are Alembic revisions named by their number. Up to 7 they stood in the table `meta`; those
states are of SQLite only, and are stamped before they are migrated.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from coordinator.state.transaction import Transaction
from kit.errors import KitError

if TYPE_CHECKING:
    from alembic.config import Config

SCHEMA_VERSION = 11
SCRIPTS = Path(__file__).parent / "migrations"
_TABLE = "alembic_version"
_BEFORE_ALEMBIC = 7
_VERSION: sa.ColumnClause[str] = sa.column("version_num")
_NUMBER = sa.select(_VERSION).select_from(sa.table(_TABLE))


def version(tx: Transaction) -> int:
    """Return the version of a state.

    Raises:
        KitError: a newer kit wrote it, or something else did.
    """
    if sa.inspect(tx.connection).has_table(_TABLE):
        found, newest = tx.connection.execute(_NUMBER).scalar() or "", SCHEMA_VERSION
    elif sa.inspect(tx.connection).has_table("meta"):
        found, newest = tx.get("schema") or "", _BEFORE_ALEMBIC
    else:
        found, newest = "", SCHEMA_VERSION
    if not found.isdecimal() or not 1 <= int(found) <= newest:
        raise KitError(
            f"the coordinator's state has schema version {found or 'unknown'}; this kit knows"
            f" versions up to {SCHEMA_VERSION}",
            hint="use the version of the kit that wrote it, or a newer one",
        )
    return int(found)


def stamp(connection: sa.Connection, number: int) -> None:
    """Write down which version the tables have."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(_config())
    MigrationContext.configure(connection).stamp(script, str(number))


def upgrade(tx: Transaction) -> None:
    """Migrate to the newest version, within a transaction.

    Raises:
        KitError: a newer kit wrote it.
    """
    from alembic import command

    found = version(tx)
    if not sa.inspect(tx.connection).has_table(_TABLE):
        stamp(tx.connection, found)
    config = _config()
    config.attributes["transaction"] = tx
    command.upgrade(config, "head")


def drop(connection: sa.Connection) -> None:
    """Forget the version, with the tables."""
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {_TABLE}")


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config
