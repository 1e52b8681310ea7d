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
    out: Annotated[Path | None, typer.Option("--out", help="The file for the coordinator.")] = None,
    days: Annotated[
        int, typer.Option(min=1, max=400, help="For studies created within so many days.")
    ] = 400,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Take the word back, as far as this site goes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sign that a person is a reviewer of this site; the coordinator lists them with it."""
    from edge_agent import reviewers
    from edge_agent.home import Home
    from federation.endorsement import to_file
    from kit.errors import KitError
    from kit.files import write_atomic

    agent, now = Home.open(home), clock.utc_now()
    if withdraw is (out is not None):
        raise KitError(
            "an endorsement needs `--out FILE`; taking one back needs `--withdraw` without it"
        )
    if out is None:
        reviewers.withdraw(agent, reviewer, public_key, now=now)
        door.emit({"reviewer": reviewer, "withdrawn": True}, as_json=as_json)
        return
    made = reviewers.endorse(agent, reviewer, public_key, now=now, days=days)
    write_atomic(out, to_file(made))
    result = {"reviewer": made.name, "site": made.site, "public_key": made.public_key, "file": out}
    door.emit(result, as_json=as_json)
