"""`coordinator backup` and `restore`."""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import PROGRAM, Home, Json
from kit import clock, door


def backup(
    home: Home,
    out: Annotated[Path, typer.Option("--out", help="The folder to make the snapshot in.")],
    as_json: Json = False,
) -> None:
    """Take a snapshot of this home, without `keys/` and `keystore/`; `serve` may run meanwhile."""
    from coordinator import backup as snapshots
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(snapshots.back_up(coordinator, out, now=clock.utc_now()), as_json=as_json)


def restore(
    home: Home,
    source: Annotated[Path, typer.Option("--from", help="The snapshot.")],
    keys: Annotated[Path, typer.Option("--keys", help="The folder `keys/` from its own place.")],
    keystore: Annotated[
        Path, typer.Option("--keystore", help="The newest folder `keystore/` there is.")
    ],
    state: Annotated[
        str | None,
        typer.Option("--state", help="The PostgreSQL database (URL) that holds the state now."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Lay out a new home from a snapshot; sites that saw more of the log refuse it (A4)."""
    from coordinator import backup as snapshots

    result = snapshots.restore(source, home, keys=keys, keystore=keystore, state_url=state)
    door.emit(result, as_json=as_json)
    if result.unreadable_blueprints:
        door.note(
            f"{PROGRAM}: {len(result.unreadable_blueprints)} blueprints have no key any more:"
            " they were destroyed since, or this is not the newest key store"
        )
