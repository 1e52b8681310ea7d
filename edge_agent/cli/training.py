"""`edge-agent train` and `inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.options import Data, HomeDir, Json, Run, StudyName
from kit import clock, door, prompts
from kit.errors import KitError


def train(
    home: HomeDir,
    study: StudyName,
    data: Data,
    labels: Annotated[
        str, typer.Option(help="The classes this site declares, by commas, before data are read.")
    ],
    declared_count: Annotated[
        int | None,
        typer.Option(help="A round lower bound of the units here; public in effect."),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="What this run may cost each unit at most; the study's by default."),
    ] = None,
    run: Run = "",
    preset: Annotated[str, typer.Option(help="A generator preset the study allows.")] = "",
    steps: Annotated[
        int | None, typer.Option(help="Training steps, instead of the preset's.")
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(
            help="Chance of every unit to sit out, 0 to 0.5: whom the gate compares with. Private."
        ),
    ] = 0.1,
    base: Annotated[
        str,
        typer.Option(help="Start from a public base: first digits of a fetched one, or its file."),
    ] = "",
    without_privacy: Annotated[
        bool,
        typer.Option("--without-privacy", help="Only where the study allows personal data."),
    ] = False,
    accept_expected_loss: Annotated[
        bool,
        typer.Option("--accept-expected-loss", help="Train what is expected to be mostly noise."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a generator on this site's images; offline, resumable by the same command.

    On several GPUs: torchrun --standalone --nproc-per-node=GPUS --no-python edge-agent train …
    """
    from edge_agent import runs
    from edge_agent.home import Home
    from edge_agent.training import crew, loop

    if crew.is_hand():  # this process has no home, no images and no ledger of its own
        loop.help_training(home)
        return

    request = runs.Request(
        study=study,
        data=data,
        labels=tuple(label.strip() for label in labels.split(",") if label.strip()),
        declared_count=declared_count,
        epsilon=epsilon,
        run=run or study,
        preset=preset,
        without_privacy=without_privacy,
        steps=steps,
        held_out=held_out,
        base=base,
        accept_expected_loss=accept_expected_loss,
    )
    agent = Home.open(home)
    with crew.led(agent.path) as those:
        result = runs.train(agent, request, now=clock.utc_now(), tell=door.note, crew=those)
    door.emit(result, as_json=as_json, text=result.to_text())


def inspect(
    home: HomeDir,
    study: StudyName,
    run: Run = "",
    sign: Annotated[
        Path | None,
        typer.Option("--sign", help="An officer's private key: let exactly this leave."),
    ] = None,
    digest: Annotated[
        str, typer.Option(help="With --sign: the statement's first digits, instead of typing them.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Show exactly what would leave for a finished run; a second person signs it here."""
    from edge_agent import inspection, runs
    from edge_agent.home import Home

    agent, now = Home.open(home), clock.utc_now()
    name = runs.named(agent, study, run)
    shown = inspection.inspect(agent, name, now=now)
    if sign is not None and shown.statement is not None:
        if not digest:
            door.note(shown.to_text())
            door.note(f"what would be signed: {shown.statement}")
            digest = prompts.answer("its first eight digits", instead="--digest DIGITS")
        inspection.sign_outbound(agent, name, sign, digest, now=now)
        shown = inspection.inspect(agent, name, now=now)
    elif sign is not None:
        raise KitError(f"nothing to sign: {shown.outbound_approval}")
    door.emit(shown, as_json=as_json, text=shown.to_text())
