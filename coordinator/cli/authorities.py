"""`coordinator authority`."""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import Home, Json
from kit import door

app = typer.Typer(no_args_is_help=True, help="The sites' own authorities.")


@app.command("add")
def add(
    home: Home,
    name: Annotated[str, typer.Argument(help="What to call it here.")],
    certificate: Annotated[Path, typer.Option(help="Its self-signed root certificate (PEM).")],
    site: Annotated[list[str], typer.Option(help="A site id it may speak for; repeat.")],
    as_json: Json = False,
) -> None:
    """Register a site's own certificate authority for some site ids, and for no others."""
    from coordinator import authorities
    from coordinator.context import Coordinator
    from pki import certificates

    pem = certificates.pem(*certificates.read_pem(certificate))
    with Coordinator.open(home) as coordinator:
        door.emit(authorities.add(coordinator, name, pem, site), as_json=as_json)


@app.command("list")
def list_authorities(home: Home, as_json: Json = False) -> None:
    """List the sites' own authorities and the ids each may speak for."""
    from coordinator import authorities
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = authorities.list_authorities(coordinator)
    rows = [(a.name, ",".join(a.sites), a.expires, a.fingerprint[:16]) for a in found]
    head = ("authority", "sites", "expires", "fingerprint")
    door.emit(found, as_json=as_json, text=door.columns(rows, head))


@app.command("remove")
def remove(
    home: Home, name: Annotated[str, typer.Argument(help="Its name here.")], as_json: Json = False
) -> None:
    """Take an authority off the table: its sites are out from their next call on."""
    from coordinator import authorities
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(authorities.remove(coordinator, name), as_json=as_json)


@app.command("crl")
def crl(
    home: Home,
    name: Annotated[str, typer.Argument(help="Its name here.")],
    file: Annotated[Path, typer.Option("--file", help="Its revocation list (DER or PEM).")],
    as_json: Json = False,
) -> None:
    """Take a newer revocation list of an authority; it counts from the next call on."""
    from coordinator import authorities
    from coordinator.context import Coordinator
    from kit.files import read_document
    from pki import crl

    data = read_document(
        file,
        crl.to_der,
        limit=2 * crl.MAX_CRL_BYTES,
        what="revocation list",
        hint="give the CA's list as DER or PEM",
    )
    with Coordinator.open(home) as coordinator:
        door.emit(authorities.put_list(coordinator, name, data), as_json=as_json)
