"""The `coordinator` command: a thin door over the typed services."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from coordinator.cli import (
    audit,
    authorities,
    bases,
    builds,
    certificates,
    founding,
    keys,
    recipients,
    repository,
    reviews,
    serving,
    sites,
    sticks,
    studies,
    upkeep,
)
from coordinator.cli.options import PROGRAM
from kit import door, passphrases

app = typer.Typer(
    name=PROGRAM,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Coordinate a federation of hospitals: study, review, build, release, revoke.",
)


@app.callback()
def sources(
    ctx: typer.Context,
    passphrase_file: Annotated[
        list[Path] | None,
        typer.Option(
            envvar="COORDINATOR_PASSPHRASE_FILE",
            help="Where the keys' passphrase is read (`/dev/fd/3` works); may be repeated.",
        ),
    ] = None,
    pin_file: Annotated[
        Path | None,
        typer.Option(
            envvar="COORDINATOR_PIN_FILE",
            help="Where the PIN of a PKCS#11 token with the offline keys is read.",
        ),
    ] = None,
) -> None:
    """Say where passphrases come from, before any command."""
    from pki import unlocking

    ctx.obj = passphrases.Sources(tuple(passphrase_file or ()), "coordinator.passphrase")
    pins = passphrases.Sources((pin_file,) if pin_file else (), "coordinator.pin", "--pin-file")
    unlocking.use(ctx.obj, pins=pins)


COMMANDS: dict[str, Callable[..., None]] = {
    "init": founding.init,
    "serve": serving.serve,
    "token": sites.token,
    "list": reviews.list_blueprints,
    "show": reviews.show,
    "inspect": reviews.inspect,
    "approve": reviews.approve,
    "reject": reviews.reject,
    "build": builds.build,
    "import": sticks.import_file,
    "export": sticks.export,
    "releases": builds.releases,
    "evaluations": builds.evaluations,
    "revoke": reviews.revoke,
    "evidence": audit.evidence,
    "backup": upkeep.backup,
    "restore": upkeep.restore,
}
GROUPS = {
    "study": studies.app,
    "base": bases.app,
    "builds": builds.app,
    "sites": sites.app,
    "certificates": certificates.app,
    "authority": authorities.app,
    "audit": audit.app,
    "keys": keys.app,
    "recipients": recipients.app,
    "repository": repository.app,
}
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
