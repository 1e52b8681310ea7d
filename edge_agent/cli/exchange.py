"""`edge-agent submit`, `status`, `fetch` and `withdraw`: what crosses the wall."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.cli.options import FromFile, HomeDir, Json, Run, StudyName, ToFile, one_way
from kit import clock, door, prompts
from kit.errors import KitError
from kit.progress import Progress

if TYPE_CHECKING:
    from edge_agent.home import Home


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


def withdraw(
    home: HomeDir,
    reason: Annotated[str, typer.Option(help="Why; only a commitment to it is sent.")],
    study: Annotated[
        str, typer.Option("--study", help="The study whose blueprint is taken back.")
    ] = "",
    patient: Annotated[
        str,
        typer.Option(
            help="Instead: a patient's id; every blueprint the patient is in, everywhere."
        ),
    ] = "",
    undo: Annotated[
        bool, typer.Option("--undo", help="Undo this site's withdrawal, within the grace period.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    to_file: ToFile = None,
    as_json: Json = False,
) -> None:
    """Take this site's blueprint back: out of use at once, shredded after the grace period.

    Shows first what is destroyed, and asks; an undo does not ask.
    """
    from edge_agent.home import Home

    if bool(study) == bool(patient) or (patient and undo):
        raise KitError("give --study or --patient", hint="see `edge-agent withdraw --help`")
    agent = Home.open(home)
    if not (yes or undo):
        _confirm(agent, study, patient, reason)
    if patient:
        _erase(agent, patient, reason, to_file, as_json=as_json)
    elif to_file is not None:
        _order_by_file(agent, study, reason, to_file, undo=undo, as_json=as_json)
    else:
        _order(agent, study, reason, undo=undo, as_json=as_json)


def _confirm(agent: "Home", study: str, patient: str, reason: str) -> None:
    """Ask, after saying what is destroyed; a full disk does not keep anybody from it."""
    from edge_agent import erasure, withdrawal

    with agent.reserve.drawn_on():
        if patient:
            lines = erasure.preview(agent, patient, reason=reason).lines()
        else:
            lines = withdrawal.preview(agent, study)
    for line in lines:
        door.note(line)
    if not prompts.confirm("Erase this patient?" if patient else "Withdraw?"):
        raise KitError("nothing was withdrawn")


def _order(agent: "Home", study: str, reason: str, *, undo: bool, as_json: bool) -> None:
    from edge_agent import journal, withdrawal

    act = withdrawal.undo if undo else withdrawal.withdraw
    with agent.reserve.drawn_on(), journal.command(agent, "withdraw"):
        status_now = act(agent, study, reason=reason, now=clock.utc_now())
    result = {"blueprint": status_now.digest, "state": status_now.state}
    door.emit(result, as_json=as_json)


def _order_by_file(
    agent: "Home", study: str, reason: str, file: Path, *, undo: bool, as_json: bool
) -> None:
    from edge_agent import stick

    act = stick.undo if undo else stick.withdraw
    with agent.reserve.drawn_on():
        written = act(agent, study, file, reason=reason, now=clock.utc_now())
    door.emit(written, as_json=as_json)


def _erase(agent: "Home", patient: str, reason: str, file: Path | None, *, as_json: bool) -> None:
    from edge_agent import erasure, journal, stick

    with agent.reserve.drawn_on(), journal.command(agent, "withdraw"):
        now = clock.utc_now()
        if file is None:
            found, written = erasure.withdraw_patient(agent, patient, reason=reason, now=now), None
        else:
            found, written = stick.withdraw_patient(agent, patient, file, reason=reason, now=now)
    result = door.to_table(found) | ({"written": door.to_table(written)} if written else {})
    door.emit(result, as_json=as_json)
    erasure.require_whole(found)


def _kibibytes(what: str) -> Callable[[int, int], None]:
    bar = Progress(f"{what} (KiB)", 0)
    return lambda done, total: bar.move(done >> 10, total >> 10)
