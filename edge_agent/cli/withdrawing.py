"""`edge-agent withdraw`: a blueprint is taken back, or everything that some patients are in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.cli.options import HomeDir, Json, ToFile
from kit import clock, door, prompts
from kit.errors import KitError
from kit.files import read_limited
from kit.progress import Progress

if TYPE_CHECKING:
    from edge_agent.batches import Batch
    from edge_agent.home import Home
    from edge_agent.replacement import Options, Proposal

_HELP = "see `edge-agent withdraw --help`"
_MAX_LIST_BYTES = 8 << 20


def withdraw(
    home: HomeDir,
    reason: Annotated[str, typer.Option(help="Why; only a commitment to it is sent.")] = "",
    study: Annotated[
        str, typer.Option("--study", help="The study whose blueprint is taken back.")
    ] = "",
    patient: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead: a patient's id; every blueprint the patient is in, everywhere; repeat."
        ),
    ] = None,
    patients: Annotated[
        Path | None,
        typer.Option(
            "--patients",
            help="Instead: a file with one id a line, which leaves none in the shell's history.",
        ),
    ] = None,
    collect: Annotated[
        bool,
        typer.Option("--collect", help="Note these patients for later; nothing leaves now."),
    ] = False,
    collected: Annotated[
        bool, typer.Option("--collected", help="Those who were collected, and any named here.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--replace", help="Then train again without them, charged to the rest, and submit."
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="With --replace: the images, if they are elsewhere now."),
    ] = None,
    declared_count: Annotated[
        int | None, typer.Option(help="With --replace: another one than before; it is seen.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="With --replace: another one than before.")
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Undo this site's withdrawal, within the grace period.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    to_file: ToFile = None,
    as_json: Json = False,
) -> None:
    """Take this site's blueprint back: out of use at once, shredded after the grace period.

    Shows first what is destroyed, and asks; an undo does not ask. Cut off? Run it again.
    """
    from edge_agent.home import Home
    from edge_agent.replacement import Options

    options = Options(data=data, declared_count=declared_count, epsilon=epsilon)
    about_patients = bool(patient or patients or collected)
    if bool(study) == about_patients or (about_patients and undo):
        raise KitError("give --study or patients", hint=_HELP)
    if not about_patients and (collect or again):
        raise KitError("--collect and --replace are about patients", hint=_HELP)
    if options != Options() and not again:
        raise KitError("--data, --declared-count and --epsilon are for --replace", hint=_HELP)
    if not reason and not collect:
        raise KitError("a withdrawal needs a reason", hint="give --reason, in words of your own")
    agent = Home.open(home)
    if not about_patients:
        _take_back(agent, study, reason, to_file, undo=undo, yes=yes, as_json=as_json)
        return
    names = _asked(agent, patient or [], patients, reason, with_collected=collected)
    if collect:
        _collect(agent, names, as_json=as_json)
        return
    _erase(agent, names, reason, options if again else None, to_file, yes=yes, as_json=as_json)


def _take_back(
    agent: "Home",
    study: str,
    reason: str,
    file: Path | None,
    *,
    undo: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Withdraw a study's blueprint or undo that; a full disk does not keep anybody from it."""
    from edge_agent import journal, stick, withdrawal

    if not (yes or undo):
        with agent.reserve.drawn_on():
            lines = withdrawal.preview(agent, study)
        _agree(lines, "Withdraw?")
    now = clock.utc_now()
    if file is not None:
        write = stick.undo if undo else stick.withdraw
        with agent.reserve.drawn_on():
            written = write(agent, study, file, reason=reason, now=now)
        door.emit(written, as_json=as_json)
        return
    act = withdrawal.undo if undo else withdrawal.withdraw
    with agent.reserve.drawn_on(), journal.command(agent, "withdraw"):
        status_now = act(agent, study, reason=reason, now=now)
    door.emit({"blueprint": status_now.digest, "state": status_now.state}, as_json=as_json)


def _asked(
    agent: "Home", ids: list[str], file: Path | None, reason: str, *, with_collected: bool
) -> tuple[str, ...]:
    """Return the pseudonyms of everybody who was asked about; ids go no further than here."""
    from edge_agent import batches, erasure

    if file is not None:
        try:
            data = read_limited(file, limit=_MAX_LIST_BYTES, what="list of patients")
            text = data.decode("utf-8-sig")  # as patients.csv: some editors begin with a mark
        except UnicodeDecodeError as error:
            raise KitError(f"`{file}` is not text in UTF-8", hint="one id a line") from error
        ids = [*ids, *(line.strip() for line in text.splitlines() if line.strip())]
    if len(ids) > batches.MAX_PATIENTS:
        raise KitError(
            f"{len(ids)} patients are more than one command takes",
            hint=f"give up to {batches.MAX_PATIENTS} at once",
        )
    with agent.reserve.drawn_on():
        names = set(erasure.asked_for(agent, ids, reason=reason))
        if with_collected:
            names |= set(batches.collected(agent))
    if not names:
        raise KitError("nobody is named, and nobody was collected", hint=_HELP)
    return tuple(sorted(names))


def _collect(agent: "Home", names: tuple[str, ...], *, as_json: bool) -> None:
    from edge_agent import batches

    with agent.reserve.drawn_on():
        waiting = batches.collect(agent, names, now=clock.utc_now())
    door.note("noted; no training takes them from now on; what they are in is still in play")
    door.emit(waiting, as_json=as_json)


def _erase(
    agent: "Home",
    names: tuple[str, ...],
    reason: str,
    wanted: "Options | None",
    file: Path | None,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    from edge_agent import erasure, journal, pending, replacement, stick

    if wanted is not None and file is not None:
        raise KitError(
            "--replace needs a line to the coordinator",
            hint="without one: `withdraw --to-file`, then `train --run NEW`, then `submit --run NEW"
            " --to-file`",
        )
    with agent.reserve.drawn_on():
        found = _proposed(agent, names, wanted, yes=yes)
    if found.is_agreed or yes:
        for line in found.lines if found.is_agreed else ():
            door.note(line)
    else:
        _agree(found.lines, "Erase this patient?" if len(names) == 1 else "Erase these patients?")
    batch = found.batch
    with journal.command(agent, "withdraw"):
        now = clock.utc_now()
        with agent.reserve.drawn_on():
            if file is None:
                begun = erasure.carry_out(agent, batch, reason=reason, now=now)
                batch, erased = begun.batch, begun.found
                result = door.to_table(erased)
            else:
                erased, written = stick.withdraw_patients(
                    agent, batch, file, reason=reason, now=now
                )
                result = door.to_table(erased)
                result |= {"written": door.to_table(written)} if written else {}
        if wanted is not None and not erased.runs_in_use:
            batch = _make_again(agent, batch)
            result["replacements"] = [pending.shown(each) for each in batch.replacements]
    door.emit(result, as_json=as_json)
    erasure.require_whole(erased)
    replacement.require_made(batch)


def _proposed(
    agent: "Home", names: tuple[str, ...], wanted: "Options | None", *, yes: bool
) -> "Proposal":
    """Return what there is to agree to; where no replacement can be made, offer to do without."""
    from edge_agent import replacement

    now = clock.utc_now()
    try:
        return replacement.proposal(agent, names, wanted, now=now)
    except replacement.NoReplacementError as error:
        if yes or not prompts.can_ask():
            raise
        door.note(f"no replacement: {error}")
        if error.hint:
            door.note(error.hint)
        if not prompts.confirm("Go on without a replacement?"):
            raise KitError("nothing was withdrawn") from error
        return replacement.proposal(agent, names, None, now=now)


def _make_again(agent: "Home", batch: "Batch") -> "Batch":
    from edge_agent import replacement

    bar = Progress("upload (KiB)", 0)
    return replacement.carry_on(
        agent,
        batch,
        now=clock.utc_now(),
        tell=door.note,
        sent=lambda done, total: bar.move(done >> 10, total >> 10),
    )


def _agree(lines: tuple[str, ...], question: str) -> None:
    """Say what is destroyed, then ask."""
    for line in lines:
        door.note(line)
    if not prompts.confirm(question):
        raise KitError("nothing was withdrawn")
