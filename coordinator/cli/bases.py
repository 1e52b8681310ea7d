"""`coordinator base`: public weights from which a site's training may start."""

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.options import Home, Json
from kit import door
from kit.progress import Progress

app = typer.Typer(
    no_args_is_help=True, help="Make and publish bases; `releases` lists, `revoke` withdraws them."
)


@app.command("make")
def make(
    home: Home,
    study: Annotated[str, typer.Argument(help="The study's id.")],
    out: Annotated[Path, typer.Option(help="Write the base into this file.")],
    looks: Annotated[
        str, typer.Option(help="What the images look like: all, shapes, textures or cells.")
    ] = "all",
    seed: Annotated[int, typer.Option(help="Public; the same seed gives the same base.")] = 0,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 2000,
    preset: Annotated[
        str, typer.Option(help="A generator preset of the study; its first if empty.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Train a base on procedural images, which no licence and no patient stands behind."""
    from coordinator import bases
    from coordinator.context import Coordinator
    from federation.learning.generator.procedural import VERSION

    recipe = {"version": VERSION, "looks": looks, "seed": seed, "steps": steps}
    progress = Progress("base", steps)
    with Coordinator.open(home) as coordinator:
        made = bases.make(
            coordinator,
            study,
            out,
            preset=preset,
            recipe=recipe,
            report=lambda done, _total: progress.update(done),
        )
    door.emit(made, as_json=as_json)


@app.command("publish")
def publish(
    home: Home,
    file: Annotated[Path, typer.Argument(help="What `base make` wrote.")],
    as_json: Json = False,
) -> None:
    """Sign a base and offer it to every site of the study it was made for."""
    from coordinator import bases
    from coordinator.context import Coordinator

    with Coordinator.open(home) as coordinator:
        door.emit(bases.publish(coordinator, file), as_json=as_json)
