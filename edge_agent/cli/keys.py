"""`edge-agent keys`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.cli.options import HomeDir, Json
from kit import door

if TYPE_CHECKING:
    from pki.custody import Custody

app = typer.Typer(no_args_is_help=True, help="List private keys; put them under a passphrase.")

HomeOfKeys = Annotated[
    Path | None, typer.Option("--home", envvar="EDGE_AGENT_HOME", help="All keys of this home.")
]
OneKey = Annotated[
    Path | None, typer.Option("--key", help="One key file that travels alone, as an officer's.")
]
NewPassphrase = Annotated[
    Path | None,
    typer.Option("--new-passphrase-file", help="Read the new passphrase here; asked if absent."),
]


@app.command("list")
def list_keys(home: HomeDir, as_json: Json = False) -> None:
    """List every private key of this site and how it is kept; opens none."""
    from pki import custody, protecting

    found = protecting.inventory(_custody().place(home))
    text = door.columns(custody.rows(found), custody.COLUMNS)
    door.emit(found, as_json=as_json, text=text)


@app.command("protect")
def protect(
    ctx: typer.Context, home: HomeOfKeys = None, key: OneKey = None, as_json: Json = False
) -> None:
    """Seal this site's keys, or an officer's, under a passphrase; goes on where it was stopped."""
    door.emit(_custody().protect(home, key, ctx.obj), as_json=as_json)


@app.command("passphrase")
def passphrase(
    home: HomeOfKeys = None,
    key: OneKey = None,
    new_passphrase_file: NewPassphrase = None,
    as_json: Json = False,
) -> None:
    """Change the passphrase of this site's keys, or of one key file, at once or not at all."""
    door.emit(_custody().change(home, key, new_passphrase_file), as_json=as_json)


def _custody() -> "Custody":
    from edge_agent.home import Home
    from pki.custody import Custody

    return Custody(owner="this site's keys", place=lambda home: Home.open(home).secrets)
