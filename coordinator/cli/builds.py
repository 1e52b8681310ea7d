"""`coordinator build` and `releases`."""

from typing import Annotated

import typer

from coordinator.cli.options import Home, Json
from kit import door
from kit.progress import Progress


def build(
    home: Home, study: Annotated[str, typer.Argument(help="The study's id.")], as_json: Json = False
) -> None:
    """Build and publish a release from the approved blueprints; goes on where it was stopped."""
    from coordinator import builds
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        result = builds.build(coordinator, study, report=_BuildProgress())
    door.emit(result, as_json=as_json)


class _BuildProgress:
    """Shows a build's phases as they come."""

    def __init__(self) -> None:
        self._phase = ""
        self._progress = Progress("", 0)

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._phase:
            self._phase, self._progress = what, Progress(what, total)
        self._progress.update(done)


def releases(home: Home, as_json: Json = False) -> None:
    """List the releases, bases among them."""
    from coordinator import releases as services
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        found = services.list_releases(coordinator)
    rows = [
        (
            r.digest[:16],
            r.study,
            r.role,
            r.state,
            r.published,
            ",".join(r.labels),
        )
        for r in found
    ]
    text = door.columns(rows, ("release", "study", "role", "state", "published", "labels"))
    door.emit(found, as_json=as_json, text=text)
