"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

PROGRAM = "coordinator"
Home = Annotated[
    Path, typer.Option("--home", envvar="COORDINATOR_HOME", help="The coordinator's folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Blueprint = Annotated[str, typer.Argument(help="The first digits of a blueprint's digest.")]
Key = Annotated[Path, typer.Option("--key", help="The reviewer's private key file.")]
Roots = Annotated[
    Path | None,
    typer.Option(
        "--roots",
        envvar="COORDINATOR_ROOTS",
        help="The folder of the offline keys; where `init` wrote them if absent.",
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept outside the audit log.")]
