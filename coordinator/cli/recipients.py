"""`coordinator recipients`."""

import typer

from coordinator.cli.options import Home, Json
from kit import door

app = typer.Typer(no_args_is_help=True, help="The keys that sites seal to.")


@app.command("rotate")
def rotate(home: Home, as_json: Json = False) -> None:
    """After the key store was lost: give new keys in place of lost ones, and name what is lost."""
    from coordinator import recipients
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = recipients.replace_lost(coordinator)
    door.emit(found, as_json=as_json)
    for digest in found.lost_blueprints:
        door.note(f"lost: `coordinator reject {digest[:16]} --lost` lets its site send it again")
