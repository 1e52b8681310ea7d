"""`coordinator token` and `coordinator sites`."""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import PROGRAM, Home, Json, Key, Reason
from kit import clock, door
from kit.errors import KitError

app = typer.Typer(no_args_is_help=True, help="List, confirm and revoke sites.")


def token(
    home: Home,
    site: Annotated[str, typer.Argument(help="The new site's id.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the token file.")],
    hours: Annotated[
        int,
        typer.Option(min=1, max=720, help="Its life; more than 24 only for a site without a line."),
    ] = 24,
    authority: Annotated[
        str | None, typer.Option(help="The site's own authority, as `authority add` named it.")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Void the site's earlier token; write over the file."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Invite a site: write a token file to hand over safely; valid once, for 24 hours."""
    from datetime import timedelta

    from coordinator import enrolments
    from coordinator.context import Coordinator
    from kit.files import write_secret

    if out.exists() and not replace:
        raise KitError(
            f"`{out}` exists already; no token was made",
            hint="give another --out, or --replace to write over it",
        )
    with Coordinator.open(home) as coordinator:
        made = enrolments.issue_token(
            coordinator,
            site,
            authority=authority,
            lifetime=timedelta(hours=hours),
            replace=replace,
        )
    write_secret(out, made.to_bytes())
    result = {"site": site, "token": str(out), "expires": clock.rfc3339(made.expires)}
    door.emit(result, as_json=as_json)


@app.command("list")
def list_sites(home: Home, as_json: Json = False) -> None:
    """List the sites, where each stands, and what somebody must look into."""
    from coordinator import expiries, registry
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        sites = registry.list_sites(coordinator)
        warnings = expiries.warnings(coordinator)
    rows = [
        (s.id, s.state, s.last_contact or "-", s.certificate_expires or "-", s.alarm or "-")
        for s in sites
    ]
    head = ("site", "state", "last contact", "certificate expires", "alarm")
    door.emit(sites, as_json=as_json, text=door.columns(rows, head))
    for warning in warnings:
        door.note(f"{PROGRAM}: warning: {warning.line}")


@app.command("readmit")
def readmit(
    home: Home,
    site: Annotated[str, typer.Argument(help="The site's id.")],
    key: Key,
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Sign a reviewer's consent to another enrolment of a site that was enrolled before."""
    from coordinator import readmission
    from coordinator.context import Coordinator
    from pki import keys

    with Coordinator.open(home) as coordinator:
        signing = keys.load_signing(key)
        done = readmission.readmit(coordinator, site, reviewer_key=signing, reason=reason)
    door.emit(done, as_json=as_json)


@app.command("confirm")
def confirm(
    home: Home,
    site: Annotated[str, typer.Argument(help="The site's id.")],
    code: Annotated[str, typer.Option("--code", help="The code the site reads out to you.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Also write the file for a site without a line."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Issue a site's certificates after its operator read out the code by telephone."""
    from coordinator import enrolments, stick
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        confirmed = enrolments.confirm(coordinator, site, code)
        if out is not None:
            stick.export(coordinator, site, out)
        door.emit(confirmed, as_json=as_json)


@app.command("revoke")
def revoke(
    home: Home, site: Annotated[str, typer.Argument(help="The site's id.")], as_json: Json = False
) -> None:
    """Shut a site out, from its next call on."""
    from coordinator import registry
    from coordinator.context import Coordinator
    from coordinator.home import Home as Directory
    from coordinator.reserve import drawn_on

    with drawn_on(Directory.open(home)), Coordinator.open(home) as coordinator:
        door.emit(registry.revoke_site(coordinator, site), as_json=as_json)
