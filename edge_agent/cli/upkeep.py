"""`edge-agent backup`, `restore` and `doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import HomeDir, Json
from kit import clock, door
from kit.errors import KitError


def backup(
    home: HomeDir,
    out: Annotated[Path, typer.Option("--out", help="The folder to make the snapshot in.")],
    as_json: Json = False,
) -> None:
    """Take a snapshot of this home, keys and ledger included; keep it inside the hospital."""
    from edge_agent import backup as snapshots
    from edge_agent.home import Home

    door.emit(snapshots.back_up(Home.open(home), out, now=clock.utc_now()), as_json=as_json)


def restore(
    home: HomeDir,
    source: Annotated[Path, typer.Option("--from", help="The snapshot.")],
    as_json: Json = False,
) -> None:
    """Lay out a new home from a snapshot; never run it beside the first one."""
    from edge_agent import backup as snapshots

    door.emit(snapshots.restore(source, home), as_json=as_json)


def doctor(
    home: HomeDir,
    token: Annotated[
        Path | None, typer.Option(help="Before an enrolment: the token file it will take.")
    ] = None,
    proxy: Annotated[
        str, typer.Option(help="With --token: the proxy that the enrolment will name.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Find what keeps this site from working, with cause and fix; exit 0 only if all is well."""
    from edge_agent.doctor.rounds import before_enrolment, rounds
    from edge_agent.enrolment import read_token
    from edge_agent.home import Home
    from pki.tls import check_proxy

    if token is None:
        found = list(rounds(Home.open(home), clock.utc_now))
    else:
        found = list(before_enrolment(home, read_token(token), check_proxy(proxy), clock.utc_now))
    rows = [(f.check, f.verdict, f.seen) for f in found]
    text = door.columns(rows, ("check", "verdict", "seen"))
    fixes = "".join(f"\n{f.check}: {f.fix}" for f in found if f.fix)
    door.emit(found, as_json=as_json, text=text + fixes)
    failed = [f.check for f in found if f.passed is False]
    if failed:
        raise KitError(f"failed: {', '.join(failed)}", hint="see the fixes above")
