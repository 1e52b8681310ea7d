"""`coordinator repository`."""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import Home, Json, Roots
from kit import door

app = typer.Typer(no_args_is_help=True, help="Sign, show and copy the repository of releases.")


@app.command("sign")
def sign(
    home: Home,
    roots: Roots = None,
    with_root: Annotated[
        bool,
        typer.Option(
            "--with-root", help="Sign a new root as well; wants the root's key beside the study's."
        ),
    ] = False,
    new_key: Annotated[
        bool,
        typer.Option("--new-key", help="Replace this home's repository key; implies --with-root."),
    ] = False,
    days: Annotated[
        int | None,
        typer.Option("--days", help="Days that the list of studies holds; at most 400 [180]."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign the repository's studies and delegations anew, with the offline keys."""
    from coordinator import repository
    from coordinator.context import Coordinator
    from coordinator.roots import root_key, study_key

    with Coordinator.open(home) as coordinator:
        wants_root = with_root or new_key or not repository.is_founded(coordinator.home)
        root = coordinator.root
        signed = repository.sign(
            coordinator,
            study_key=study_key(coordinator.home, roots),
            root_key=root_key(coordinator.home, roots, certificate=root) if wants_root else None,
            new_key=new_key,
            days=days,
        )
    door.emit(signed, as_json=as_json)


@app.command("show")
def show(home: Home, as_json: Json = False) -> None:
    """Show what the offline keys signed last, and until when it holds."""
    from coordinator import repository
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(repository.standing(coordinator), as_json=as_json)


@app.command("export")
def export(
    home: Home,
    folder: Annotated[Path, typer.Argument(help="A new folder, as a web server would show it.")],
    as_json: Json = False,
) -> None:
    """Copy the repository to plain files that any TUF client reads."""
    from coordinator import publication
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        targets = publication.export(coordinator, folder)
    door.emit({"folder": str(folder), "targets": len(targets)}, as_json=as_json)
