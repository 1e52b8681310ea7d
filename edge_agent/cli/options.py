"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from kit.errors import KitError

PROGRAM = "edge-agent"
HomeDir = Annotated[
    Path, typer.Option("--home", envvar="EDGE_AGENT_HOME", help="This installation's folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
StudyName = Annotated[str, typer.Option("--study", help="The study's id.")]
Data = Annotated[
    Path, typer.Option("--data", help="A folder of class folders, or an .npz with MedMNIST keys.")
]
ToFile = Annotated[
    Path | None,
    typer.Option("--to-file", help="Without a line: write the file for `coordinator import`."),
]
FromFile = Annotated[
    Path | None,
    typer.Option("--from-file", help="Without a line: read the file of `coordinator export`."),
]
NamedRelease = Annotated[
    str,
    typer.Option(
        "--release", help="Digits of an installed release's digest, instead of the usual one."
    ),
]
NamedAdapted = Annotated[
    str, typer.Option("--adapted", help="Instead: a model that this site adapted, by its name.")
]
Run = Annotated[str, typer.Option("--run", help="The run's name; default: the study's id.")]


def one_way(to_file: Path | None, from_file: Path | None) -> bool:
    """Say whether a file takes the place of the line; it goes one way at a time."""
    if to_file is not None and from_file is not None:
        raise KitError("--to-file and --from-file are two trips", hint="run them one by one")
    return to_file is not None or from_file is not None
