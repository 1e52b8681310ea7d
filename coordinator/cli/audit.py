"""`coordinator audit` and `evidence`: what an auditor asks for."""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import PROGRAM, Blueprint, Home, Json, Key, Reason
from kit import door
from kit.errors import KitError

app = typer.Typer(no_args_is_help=True, help="Check and show the audit log.")


def evidence(
    home: Home,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write evidence.json and evidence.txt here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the dossier an auditor asks for: rule, check, command, result, and every gap."""
    import json

    from coordinator import evidence as dossiers
    from coordinator.context import Coordinator
    from kit.files import write_atomic

    with Coordinator.open(home) as coordinator:
        made = dossiers.gather(coordinator)
    if out is not None:
        table = json.dumps(door.to_table(made), indent=2, sort_keys=True) + "\n"
        write_atomic(out / "evidence.json", table.encode(), mode=0o600)
        write_atomic(out / "evidence.txt", made.to_text().encode(), mode=0o600)
    door.emit(made, as_json=as_json, text=made.to_text())
    if made.failing:
        raise KitError(f"{len(made.failing)} checks fail: {'; '.join(made.failing)}")


@app.command("verify")
def verify(home: Home, as_json: Json = False) -> None:
    """Recompute the audit log from its leaves, and compare every table with it."""
    from coordinator import audit
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(audit.verify(coordinator), as_json=as_json)


@app.command("export")
def export(
    home: Home,
    out: Annotated[Path, typer.Option("--out", help="A new folder to write into.")],
    as_json: Json = False,
) -> None:
    """Write the whole log, its cosigned checkpoint and keys as plain files."""
    from coordinator import exports
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        size = exports.export(coordinator, out)
    door.emit({"size": size, "out": str(out)}, as_json=as_json)


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="An export.")],
    log_key: Annotated[
        str, typer.Option("--log-key", help="The log key you trust, hexadecimal; else its own.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Verify an export with nothing but its files: no home, no network."""
    from coordinator import exports

    door.emit(exports.check(folder, log_key), as_json=as_json)


@app.command("dossier")
def dossier(
    blueprint: Blueprint,
    home: Home,
    out: Annotated[Path, typer.Option("--out", help="A new folder to write into.")],
    as_json: Json = False,
) -> None:
    """Write the signed dossier of a revocation: who asked, what fell, what was destroyed."""
    from coordinator import dossiers
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(dossiers.write(coordinator, blueprint, out), as_json=as_json)


@app.command("check-dossier")
def check_dossier(
    folder: Annotated[Path, typer.Argument(help="A dossier's folder.")],
    root: Annotated[
        Path, typer.Option("--root", help="The federation's root certificate that you trust.")
    ],
    log_key: Annotated[
        str, typer.Option("--log-key", help="The log key you trust, hexadecimal; else its own.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Verify the dossier of a revocation: no home, no network; prints the page that it proves."""
    from coordinator import dossiers
    from federation.dossier import page

    found = dossiers.check(folder, root, log_key)
    door.emit(found, as_json=as_json, text=page.to_text(found))


@app.command("recover")
def recover(
    home: Home,
    copy: Annotated[list[Path], typer.Option("--copy", help="A site's export; repeat.")],
    key: Key,
    reason: Reason,
    as_json: Json = False,
) -> None:
    """After a backup was restored: sign its record, and replay the log from sites' copies."""
    from coordinator import recovery
    from coordinator.context import Coordinator
    from pki import keys

    with Coordinator.open(home) as coordinator:
        result = recovery.recover(
            coordinator, copy, reviewer_key=keys.load_signing(key), reason=reason
        )
    door.emit(result, as_json=as_json)


@app.command("erase")
def erase(
    home: Home,
    reviewer: Annotated[str, typer.Option("--reviewer", help="The reviewer's identifier.")],
    as_json: Json = False,
) -> None:
    """Erase every reason that a reviewer wrote; says what still names them."""
    from coordinator import erasure
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(erasure.erase_reviewer(coordinator, reviewer), as_json=as_json)
        if not coordinator.state.location.is_file:
            door.note(
                f"{PROGRAM}: write-ahead log, replicas and dumps of the database server still hold"
                " it until they are recycled or destroyed: see docs/operations.md"
            )


@app.command("list")
def list_entries(home: Home, as_json: Json = False) -> None:
    """List every entry of the audit log."""
    from coordinator import logbook
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = logbook.events(coordinator)
    rows = [(str(i), e.time, e.kind, e.actor, e.subject[:16]) for i, e in enumerate(found)]
    text = door.columns(rows, ("entry", "time", "event", "actor", "subject"))
    door.emit(found, as_json=as_json, text=text)
