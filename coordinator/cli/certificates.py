"""`coordinator certificates`."""

from typing import Annotated

import typer

from coordinator.cli.options import PROGRAM, Home, Json, Roots
from kit import clock, door
from kit.errors import KitError

app = typer.Typer(no_args_is_help=True, help="What runs out, and renewing it.")


@app.command("list")
def list_certificates(home: Home, as_json: Json = False) -> None:
    """List what the coordinator holds, until when, and what somebody must do about it."""
    from coordinator import expiries
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        held, warnings = expiries.held(coordinator), expiries.warnings(coordinator)
    rows = [(item.name, clock.rfc3339(item.expires)) for item in held]
    table = {"certificates": held, "warnings": [warning.line for warning in warnings]}
    door.emit(table, as_json=as_json, text=door.columns(rows, ("certificate", "expires")))
    for warning in warnings:
        door.note(f"{PROGRAM}: warning: {warning.line}")


@app.command("renew")
def renew(
    home: Home,
    issuing: Annotated[
        bool, typer.Option("--issuing", help="Also renew the issuing CA; needs the root's key.")
    ] = False,
    roots: Roots = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Give the issuing CA another key as well.")
    ] = False,
    compromised: Annotated[
        bool,
        typer.Option("--compromised", help="Nothing that the old signing key signed counts."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Renew the document-signing certificate now; a running `serve` takes it up by itself."""
    from coordinator import renewals
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        done = []
        if issuing:
            done.append(renewals.renew_issuing(coordinator, roots, new_key=new_key))
        elif new_key:
            raise KitError("a new key is for the issuing CA", hint="give --issuing as well")
        done.append(renewals.renew_documents(coordinator, compromised=compromised))
    rows = [(item.certificate, item.expires, item.fingerprint[:16]) for item in done]
    head = ("certificate", "expires", "fingerprint")
    door.emit(done, as_json=as_json, text=door.columns(rows, head))
