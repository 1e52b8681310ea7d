"""`edge-agent endorse`: this site's word for its reviewers."""

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import HomeDir, Json
from kit import clock, door


def endorse(
    home: HomeDir,
    reviewer: Annotated[str, typer.Argument(help="The name that the study will list.")],
    public_key: Annotated[str, typer.Argument(help="Their public key, hexadecimal.")],
    out: Annotated[Path, typer.Option("--out", help="The file for the coordinator.")],
    as_json: Json = False,
) -> None:
    """Sign that a person is a reviewer of this site; the coordinator lists them with it."""
    from edge_agent import reviewers
    from edge_agent.home import Home
    from federation.endorsement import to_file
    from kit.files import write_atomic

    made = reviewers.endorse(Home.open(home), reviewer, public_key, now=clock.utc_now())
    write_atomic(out, to_file(made))
    result = {"reviewer": made.name, "site": made.site, "public_key": made.public_key, "file": out}
    door.emit(result, as_json=as_json)
