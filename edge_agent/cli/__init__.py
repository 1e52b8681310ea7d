"""The `edge-agent` command: a thin door over this side's rooms."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from edge_agent.cli import (
    audit,
    endorsing,
    exchange,
    joining,
    keys,
    models,
    serving,
    training,
    upkeep,
    withdrawing,
)
from edge_agent.cli.options import PROGRAM
from kit import door, passphrases

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a private generator on a hospital's images, submit it, and use what comes back.",
)


@app.callback()
def sources(
    ctx: typer.Context,
    passphrase_file: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="EDGE_AGENT_PASSPHRASE_FILE",
            help="Where the keys' passphrase is read (`/dev/fd/3` works); may be repeated.",
        ),
    ] = None,
    pin_file: Annotated[
        Path | None,
        typer.Option(envvar="EDGE_AGENT_PIN_FILE", help="Where a PKCS#11 token's PIN is read."),
    ] = None,
) -> None:
    """Say where passphrases come from, before any command."""
    from pki import unlocking

    ctx.obj = passphrases.Sources(tuple(passphrase_file or ()), "edge-agent.passphrase")
    pins = passphrases.Sources((pin_file,) if pin_file else (), "edge-agent.pin", "--pin-file")
    unlocking.use(ctx.obj, pins=pins)


COMMANDS: dict[str, Callable[..., None]] = {
    "enroll": joining.enroll,
    "train": training.train,
    "inspect": training.inspect,
    "submit": exchange.submit,
    "status": exchange.status,
    "renew": joining.renew,
    "fetch": exchange.fetch,
    "predict": models.predict,
    "evaluate": models.evaluate,
    "adapt": models.adapt,
    "serve": serving.serve,
    "withdraw": withdrawing.withdraw,
    "backup": upkeep.backup,
    "restore": upkeep.restore,
    "endorse": endorsing.endorse,
    "doctor": upkeep.doctor,
}
GROUPS = {"releases": serving.app, "audit": audit.app, "keys": keys.app}
for name, command in COMMANDS.items():
    app.command(name)(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def main() -> NoReturn:
    """Run the command line on the words that it was started with."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy cores: waiting threads must not spin
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # lines of the library's own, not for people
    sys.exit(run())


def run(words: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    return door.command_line(
        PROGRAM,
        lambda: app(words, prog_name=PROGRAM, standalone_mode=False),
        aborted=typer.Abort,
        usage=typer.exceptions.TyperException,
        before=("--passphrase-file", "--pin-file"),
    )
