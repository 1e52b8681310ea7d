"""`edge-agent predict` and `evaluate`: the installed release at work."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import Data, HomeDir, Json, StudyName
from kit import clock, door


def predict(
    home: HomeDir,
    study: StudyName,
    data: Data,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a .csv or .json file instead of stdout.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict images with the installed release; research use only, not a medical device."""
    from edge_agent import inference, inspection, installed, stick
    from edge_agent.datasets.load import load_images
    from edge_agent.home import Home
    from kit.files import write_atomic

    agent, now = Home.open(home), clock.utc_now()
    for warning in stick.warnings(agent, now):
        door.note(warning)
    found, rule = installed.load(agent, study, now=now), agent.study(study)
    model = inference.open_model(found.model, contract=found.contract(rule))
    images = load_images(data, rule.image, rule.classes)
    table = inference.tabulate(model, images, release=found.release.digest, now=now)
    wants_json = as_json if out is None else out.suffix == ".json"
    text = table.to_json() if wants_json else table.to_csv()
    door.note(f"{len(table.rows)} images; {model.why}; research use only, not a medical device")
    if out is None:
        sys.stdout.write(text)
    else:
        write_atomic(out, text.encode(), mode=0o600)
    inspection.require_all_read(images)


def evaluate(
    home: HomeDir,
    study: StudyName,
    data: Data,
    probabilities: Annotated[
        Path | None, typer.Option("--probabilities", help="Also write them to this JSON file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate the installed release on this site's own labelled images; figures stay here."""
    from edge_agent import inspection
    from edge_agent.home import Home

    agent, now = Home.open(home), clock.utc_now()
    result, images = inspection.evaluate(agent, study, data, probabilities, now=now)
    door.emit(result, as_json=as_json)
    inspection.require_all_read(images)
