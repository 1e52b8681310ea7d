"""`coordinator keys`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coordinator.cli.options import Home, Json, Roots
from kit import door

if TYPE_CHECKING:
    from pki.custody import Custody

app = typer.Typer(no_args_is_help=True, help="List private keys; put them under a passphrase.")

HomeOfKeys = Annotated[
    Path | None, typer.Option("--home", envvar="COORDINATOR_HOME", help="All keys of this home.")
]
OneKey = Annotated[
    Path | None, typer.Option("--key", help="One key file that travels alone, instead of a home.")
]
NewPassphrase = Annotated[
    Path | None,
    typer.Option("--new-passphrase-file", help="Read the new passphrase here; asked if absent."),
]


@app.command("list")
def list_keys(home: Home, as_json: Json = False) -> None:
    """List every private key and secret of the coordinator and how it is kept; opens none."""
    from coordinator import ceremony
    from coordinator.home import Home as Directory
    from pki import custody, protecting

    directory = Directory.open(home)
    found = [*protecting.inventory(directory.secrets), *ceremony.inventory(directory)]
    text = door.columns(custody.rows(found), custody.COLUMNS)
    door.emit(found, as_json=as_json, text=text)


@app.command("protect")
def protect(
    ctx: typer.Context, home: HomeOfKeys = None, key: OneKey = None, as_json: Json = False
) -> None:
    """Seal the keys under a passphrase; not while a server runs; goes on where it was stopped."""
    door.emit(_custody().protect(home, key, ctx.obj), as_json=as_json)


@app.command("passphrase")
def passphrase(
    home: HomeOfKeys = None,
    key: OneKey = None,
    new_passphrase_file: NewPassphrase = None,
    as_json: Json = False,
) -> None:
    """Change the passphrase of the home's keys, or of one key file, at once or not at all."""
    door.emit(_custody().change(home, key, new_passphrase_file), as_json=as_json)


@app.command("separate")
def separate(home: Home, roots: Roots = None, as_json: Json = False) -> None:
    """Move root, study and reviewers' keys out of a home of an early version; not while served."""
    from coordinator import separation
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(separation.separate(coordinator, roots), as_json=as_json)


def _custody() -> "Custody":
    from coordinator import protection
    from coordinator.home import Home as Directory
    from pki.custody import Custody

    return Custody(
        owner="the coordinator's keys",
        place=lambda home: Directory.open(home).secrets,
        seal=protection.protect,
    )
