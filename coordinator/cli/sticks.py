"""`coordinator import` and `export`: files for sites without a line."""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import PROGRAM, Home, Json
from kit import door


def import_file(
    home: Home,
    file: Annotated[Path, typer.Argument(help="A file that a site wrote with --to-file.")],
    as_json: Json = False,
) -> None:
    """Take in a file from a site without a line: a request, a blueprint, a withdrawal."""
    from coordinator import stick
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(stick.import_file(coordinator, file), as_json=as_json)


def export(
    home: Home,
    site: Annotated[str, typer.Argument(help="The site's id.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the file.")],
    study: Annotated[
        list[str] | None,
        typer.Option(help="Carry the model of this study only; repeat. Default: of every study."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the file for a site without a line: news, receipts, certificates, models."""
    from coordinator import stick
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        result = stick.export(coordinator, site, out, studies=study or ())
    door.emit(result, as_json=as_json)
    for warning in result.warnings():
        door.note(f"{PROGRAM}: warning: {warning}")
