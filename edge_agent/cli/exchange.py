"""`edge-agent submit`, `status` and `fetch`: what crosses the wall."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import FromFile, HomeDir, Json, Run, StudyName, ToFile, one_way
from kit import clock, door
from kit.progress import Progress


def submit(
    home: HomeDir,
    study: StudyName,
    run: Run = "",
    to_file: ToFile = None,
    as_json: Json = False,
) -> None:
    """Seal a finished run and bring it to the coordinator; goes on where it was cut off."""
    from edge_agent import journal, stick, submission
    from edge_agent.home import Home

    agent, now = Home.open(home), clock.utc_now()
    if to_file is not None:
        written = stick.submit(agent, run or study, to_file, now=now)
        door.emit(written, as_json=as_json)
        return
    bar = Progress("upload (KiB)", 0)
    with journal.command(agent, "submit"):
        result = submission.submit(
            agent,
            run or study,
            now=now,
            sent=lambda d, t: bar.move(d >> 10, t >> 10),
            tell=door.note,
        )
    door.emit(result, as_json=as_json)


def status(
    home: HomeDir,
    to_file: ToFile = None,
    from_file: FromFile = None,
    acknowledge: Annotated[
        list[int] | None,
        typer.Option(
            "--acknowledge", help="A person here knows what stands behind this log entry; repeat."
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option("--metrics", help="Also write this file for Prometheus' node exporter."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the coordinator for news, verify it, and show where this site stands.

    Exit status 4: the log shows something about this site that it did not do.
    """
    from edge_agent import alarms, inspection, journal, stick
    from edge_agent import metrics as figures
    from edge_agent.home import Home

    agent, now = Home.open(home), clock.utc_now()
    one_way(to_file, from_file)
    for entry in acknowledge or ():
        alarms.acknowledge(agent, entry, now=now)
    if to_file is not None:
        door.emit(stick.write(agent, to_file, now=now, asks={}), as_json=as_json)
        return
    with journal.command(agent, "status"), figures.written(agent, metrics, now=now):
        if from_file is not None:
            world = stick.visit(agent, from_file, now=now)
            standing = inspection.standing(agent, world, now=now)
        else:
            standing = inspection.status(agent, now=now)
        door.emit(standing, as_json=as_json, text=standing.to_text())
    alarms.require_none(agent)


def fetch(
    home: HomeDir,
    study: StudyName,
    base: Annotated[
        bool, typer.Option("--base", help="Instead: the newest public base to train from.")
    ] = False,
    from_file: FromFile = None,
    as_json: Json = False,
) -> None:
    """Install the newest release of a study, after verifying everything about it."""
    from edge_agent import bases, installed, journal, stick
    from edge_agent.home import Home

    agent = Home.open(home)
    if from_file is not None:
        by_stick: Callable[..., object] = stick.fetch_base if base else stick.fetch
        door.emit(by_stick(agent, study, from_file, now=clock.utc_now()), as_json=as_json)
        return
    by_line: Callable[..., object] = bases.fetch if base else installed.fetch
    with journal.command(agent, "fetch"):
        result = by_line(agent, study, got=_kibibytes("download"), tell=door.note)
    door.emit(result, as_json=as_json)


def _kibibytes(what: str) -> Callable[[int, int], None]:
    bar = Progress(f"{what} (KiB)", 0)
    return lambda done, total: bar.move(done >> 10, total >> 10)
