"""`edge-agent audit`."""

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import HomeDir, Json
from kit import door, prompts
from kit.errors import KitError

app = typer.Typer(
    no_args_is_help=True, help="Check the receipts this site holds, and its privacy ledger."
)


@app.command("verify")
def verify(
    home: HomeDir,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the coordinator for consistency.")
    ] = False,
    receipt: Annotated[
        Path | None,
        typer.Option("--receipt", help="Verify this one .tlog-proof file, without any network."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify every receipt held here, and that the coordinator's log still contains them."""
    from edge_agent import inspection
    from edge_agent.home import Home

    agent = Home.open(home)
    if receipt is not None:
        door.emit(inspection.audit_receipt(agent, receipt), as_json=as_json)
    else:
        door.emit(inspection.audit(agent, offline=offline), as_json=as_json)


@app.command("ledger")
def ledger(home: HomeDir, as_json: Json = False) -> None:
    """Show the privacy ledger: every run, what it tried, and what trials cost together."""
    from edge_agent import runs
    from edge_agent.home import Home

    with runs.open_ledger(Home.open(home)) as account:
        status = account.status()
    door.emit(status.to_table(), as_json=as_json, text="\n".join(status.lines()))


@app.command("export")
def export(
    home: HomeDir,
    out: Annotated[Path, typer.Option("--out", help="A new folder to write into.")],
    as_json: Json = False,
) -> None:
    """Write this site's copy of the log as plain files: for an auditor, or for a recovery."""
    from edge_agent import recovery
    from edge_agent.home import Home

    size = recovery.export(Home.open(home), out)
    door.emit({"size": size, "out": str(out)}, as_json=as_json)


@app.command("compare")
def compare(
    home: HomeDir,
    folder: Annotated[Path, typer.Argument(help="Another site's or the coordinator's export.")],
    as_json: Json = False,
) -> None:
    """Hold another copy of the log against this site's: two logs under one key are a fork."""
    from edge_agent import recovery
    from edge_agent.home import Home

    door.emit(recovery.compare(Home.open(home), folder), as_json=as_json)


@app.command("dossier")
def dossier(
    home: HomeDir,
    folder: Annotated[Path, typer.Argument(help="A dossier of a revocation.")],
    as_json: Json = False,
) -> None:
    """Verify the dossier of a revocation against this site's pins and its copy of the log."""
    from edge_agent import dossiers
    from edge_agent.home import Home
    from federation.dossier import page

    found = dossiers.check(Home.open(home), folder)
    door.emit(found, as_json=as_json, text=page.to_text(found))


@app.command("accept")
def accept(
    home: HomeDir,
    record: Annotated[Path, typer.Option("--record", help="The signed record of a recovery.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Believe a recovered log that lacks entries this site saw; asks a person first."""
    from edge_agent import recovery
    from edge_agent.home import Home

    agent = Home.open(home)
    _, dropped = recovery.prepare(agent, record)
    door.note(
        f"recovery {dropped.epoch} keeps {dropped.keeps} entries; this site saw these as well:"
    )
    for line in dropped.entries:
        door.note(f"  {line}")
    if not yes and not prompts.confirm("Did the federation's people announce it?"):
        raise KitError("nothing was changed")
    world = recovery.accept(agent, record)
    result = {"log_size": world.trust.size, "kept_aside": str(dropped.kept_aside)}
    door.emit(result, as_json=as_json)


@app.command("rebuild")
def rebuild(
    home: HomeDir,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Start again from the receipts after `state/trust.json` was lost; asks a person first."""
    from edge_agent import inspection
    from edge_agent.home import Home

    agent = Home.open(home)
    door.note(inspection.rebuild_warning(agent))
    if not yes and not prompts.confirm("Believe the log that the coordinator shows now?"):
        raise KitError("nothing was changed")
    door.emit(inspection.rebuild(agent), as_json=as_json)


@app.command("erase")
def erase(
    home: HomeDir,
    blueprint: Annotated[
        str, typer.Option("--blueprint", help="The blueprint's digest, or its first digits.")
    ],
    as_json: Json = False,
) -> None:
    """Erase the words behind this site's orders about a blueprint; the signed orders stay."""
    from edge_agent import withdrawal
    from edge_agent.home import Home

    door.emit(withdrawal.erase_words(Home.open(home), blueprint), as_json=as_json)
