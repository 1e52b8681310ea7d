"""`edge-agent predict`, `evaluate` and `adapt`: the installed release at work."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import Data, HomeDir, Json, NamedAdapted, NamedRelease, StudyName
from kit import clock, door
from kit.errors import KitError
from kit.progress import Progress


def predict(
    home: HomeDir,
    study: StudyName,
    data: Data,
    release: NamedRelease = "",
    adapted: NamedAdapted = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a .csv or .json file instead of stdout.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict images with the accepted release; research use only, not a medical device.

    With `--adapted`, with a model that this site adapted from one.

    Where nobody accepted a release yet, with the one that was fetched last.
    """
    from edge_agent import at_work, inference, inspection, stick
    from edge_agent.datasets.load import load_images
    from edge_agent.home import Home
    from kit.files import write_atomic

    agent, now = Home.open(home), clock.utc_now()
    wants_json = as_json if out is None else _is_json(out)
    for warning in stick.warnings(agent, now):
        door.note(warning)
    chosen = at_work.chosen(agent, study, release=release, adapted=adapted, now=now)
    for line in chosen.notes:
        door.note(line)
    model, rule = chosen.model, agent.study(study)
    images = load_images(data, rule.image, rule.classes, on_image=_shown("read"))
    table = inference.tabulate(
        model, images, release=chosen.release, adapted=chosen.adapted, now=now
    )
    text = table.to_json() if wants_json else table.to_csv()
    door.note(f"{len(table.rows)} images; {model.why}; research use only, not a medical device")
    if out is None:
        sys.stdout.write(text)
    else:
        write_atomic(out, text.encode(), mode=0o600)
    inspection.require_all_read(images)


def _is_json(out: Path) -> bool:
    if out.suffix not in (".csv", ".json"):
        raise KitError(f"`{out}` is named neither .csv nor .json", hint="its name says the format")
    return out.suffix == ".json"


def _shown(what: str) -> Callable[[int, int], None]:
    return Progress(f"{what} (images)", 0).move


def evaluate(
    home: HomeDir,
    study: StudyName,
    data: Data,
    release: NamedRelease = "",
    adapted: NamedAdapted = "",
    probabilities: Annotated[
        Path | None, typer.Option("--probabilities", help="Also write them to this JSON file.")
    ] = None,
    send: Annotated[
        bool,
        typer.Option("--send", help="Send what the study takes of it: rounded, signed, once."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Evaluate the release that was fetched last on this site's own images; figures stay here.

    Unless `--send` is given, and the study's manifest takes rounded metrics.
    """
    from contextlib import nullcontext

    from edge_agent import inspection, journal
    from edge_agent.home import Home

    agent, now = Home.open(home), clock.utc_now()
    with journal.command(agent, "evaluate") if send else nullcontext():
        result, images = inspection.evaluate(
            agent, study, data, probabilities, prefix=release, adapted=adapted, send=send, now=now
        )
    door.emit(result, as_json=as_json)
    inspection.require_all_read(images)


def adapt(
    home: HomeDir,
    release: Annotated[
        str, typer.Argument(help="Digits of the digest of an installed release with such a set.")
    ],
    study: StudyName,
    data: Data,
    name: Annotated[str, typer.Option("--name", help="What the model is called here.")],
    split: Annotated[str, typer.Option("--split", help="Which part of an .npz.")] = "train",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps, instead of the study's.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Instead of the adapted model of this name.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a model for this site alone: a release's synthetic images and real ones from here.

    Shows how it does on held-out units of this site, beside the release as it is and a model of the
    site's real images alone. Without differential privacy: it never leaves.
    """
    from edge_agent.adapting import training
    from edge_agent.home import Home

    request = training.Request(
        study=study,
        release=release,
        data=data,
        name=name,
        split=split,
        steps=steps,
        replace=replace,
    )
    done = training.adapt(Home.open(home), request, now=clock.utc_now(), tell=door.note)
    door.emit(done, as_json=as_json, text=done.to_text())
