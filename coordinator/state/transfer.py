"""Moving a state from one database to an empty one, row by row; the log stays what it was."""

import sqlalchemy as sa

from coordinator.state.database import State
from coordinator.state.location import Location
from coordinator.state.tables import metadata
from kit import clock

_BATCH = 500


def move(source: Location, target: Location) -> None:
    """Copy every row of `source`, migrated if it is older, into the empty database `target`.

    Raises:
        KitError: `source` is of a newer kit, or `target` is not empty or cannot be reached.
    """
    old = State.open(source)
    try:
        new = State.create(target)
        try:
            _copy(old, new)
        except BaseException:
            new.drop()
            raise
        finally:
            new.close()
    finally:
        old.close()


def _copy(old: State, new: State) -> None:
    with old.read() as rows, new.write(clock.utc_now()) as tx:
        for table in metadata.sorted_tables:
            found = rows.connection.execute(sa.select(table)).mappings()
            for batch in found.partitions(_BATCH):
                tx.connection.execute(sa.insert(table), [dict(row) for row in batch])
