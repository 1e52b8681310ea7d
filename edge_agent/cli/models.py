"""`edge-agent predict` and `evaluate`: the installed release at work."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import Data, HomeDir, Json, NamedRelease, StudyName
from kit import clock, door
from kit.errors import KitError
from kit.progress import Progress


def predict(
    home: HomeDir,
    study: StudyName,
    data: Data,
    release: NamedRelease = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a .csv or .json file instead of stdout.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict images with the accepted release; research use only, not a medical device.

    Where nobody accepted a release yet, with the one that was fetched last.
    """
    from edge_agent import inference, inspection, rollout, stick
    from edge_agent.datasets.load import load_images
    from edge_agent.home import Home
    from kit.files import write_atomic

    agent, now = Home.open(home), clock.utc_now()
    wants_json = as_json if out is None else _is_json(out)
    for warning in stick.warnings(agent, now):
        door.note(warning)
    found, is_accepted = rollout.load(agent, study, now=now, prefix=release)
    if not is_accepted:
        door.note("nobody here has accepted this release: see `edge-agent releases`")
    model, rule = rollout.opened(agent, study, found), agent.study(study)
    images = load_images(data, rule.image, rule.classes, on_image=_shown("read"))
    table = inference.tabulate(model, images, release=found.release.digest, now=now)
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
    probabilities: Annotated[
        Path | None, typer.Option("--probabilities", help="Also write them to this JSON file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate the release that was fetched last on this site's own images; figures stay here."""
    from edge_agent import inspection
    from edge_agent.home import Home

    agent, now = Home.open(home), clock.utc_now()
    result, images = inspection.evaluate(agent, study, data, probabilities, prefix=release, now=now)
    door.emit(result, as_json=as_json)
    inspection.require_all_read(images)
