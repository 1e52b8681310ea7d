"""`coordinator init`."""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import PROGRAM, Home, Json
from kit import clock, door

ProtectKeys = Annotated[
    bool, typer.Option("--protect-keys", help="Put the keys under a passphrase from the start.")
]


def init(
    ctx: typer.Context,
    home: Home,
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    host: Annotated[
        str, typer.Option(help="Names and addresses that sites use, separated by commas.")
    ] = "127.0.0.1",
    listen: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    exchange_port: Annotated[int, typer.Option(help="Port for enrolled sites.")] = 8443,
    enrol_port: Annotated[int, typer.Option(help="Port for enrolment only.")] = 8444,
    reviewer: Annotated[str, typer.Option(help="Name of the first reviewer.")] = "first",
    grace_hours: Annotated[
        int, typer.Option(help="Hours between a revocation and the destruction of keys.")
    ] = 72,
    threads: Annotated[
        int, typer.Option(help="Threads of a build; part of the bits of a release.")
    ] = 1,
    cosigners: Annotated[
        int, typer.Option(help="Other sites that vouch for the log before a site takes a release.")
    ] = 1,
    protect_keys: ProtectKeys = False,
    roots: Annotated[
        Path | None,
        typer.Option(
            "--roots",
            help="Where the root, study and reviewer's keys go; beside the home if absent.",
        ),
    ] = None,
    stick_days: Annotated[
        int, typer.Option(min=1, max=100, help="Days a file for a site without a line is valid.")
    ] = 30,
    hsm: Annotated[
        str, typer.Option("--hsm", help="Make root and study key in this token (a PKCS#11 URI).")
    ] = "",
    state: Annotated[
        str,
        typer.Option("--state", help="A PostgreSQL database (URL); SQLite in the home if absent."),
    ] = "",
    store: Annotated[
        str,
        typer.Option(
            "--store",
            help="Where payloads, shards and releases go (`s3://BUCKET/FOLDER`, `file:///FOLDER`);"
            " the home if absent.",
        ),
    ] = "",
    store_endpoint: Annotated[
        str, typer.Option("--store-endpoint", help="The object store's URL, if it is not AWS's.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Found a federation: a home, and its offline keys in a folder of their own."""
    from coordinator import founding
    from coordinator.home import CoordinatorConfig
    from pki.identity import DEMO_FEDERATION
    from pki.tokens import TokenUri

    settings = CoordinatorConfig(
        federation=federation,
        hosts=host,
        exchange_port=exchange_port,
        enrol_port=enrol_port,
        listen=listen,
        threads=threads,
        revocation_grace_hours=grace_hours,
        stick_days=stick_days,
        roots=str(roots.absolute()) if roots is not None else "",
        state=state,
        store=store,
        store_endpoint=store_endpoint,
    )
    new = (lambda: ctx.obj.new("the coordinator's keys")) if protect_keys else None
    result = founding.found(
        home,
        settings,
        reviewer=reviewer,
        now=clock.utc_now(),
        new_passphrase=new,
        cosigners=cosigners,
        token=TokenUri.parse(hsm) if hsm else None,
    )
    door.emit(result, as_json=as_json)
    if federation != DEMO_FEDERATION:
        door.note(
            f"{PROGRAM}: `{result.roots}` must leave this machine before `serve`; `study create`"
            " needs it once more"
        )
