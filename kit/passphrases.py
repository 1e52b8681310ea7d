"""Where passphrases come from: files the operator names, a systemd credential, a terminal.

A passphrase is never an argument or an environment variable: others could read those.
"""

import getpass
import os
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kit.errors import KitError
from kit.files import read_limited
from kit.prompts import can_ask

MAX_PASSPHRASE_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Sources:
    """What to try in turn: `files` (`/dev/fd/3` is one), the credential, and whoever sits there."""

    files: tuple[Path, ...]
    credential: str
    option: str = "--passphrase-file"
    _read: dict[Path, str] = field(default_factory=dict)  # a descriptor can be read once only

    def candidates(self, what: str) -> Iterator[str]:
        """Yield passphrases that may open `what`, the terminal's last.

        Raises:
            KitError: a file is missing, readable by others, or holds no passphrase.
        """
        yield from self._given()
        if can_ask():
            yield ask(f"passphrase of {what}: ")

    def new(self, what: str) -> str:
        """Return a passphrase for what has none yet: the first on offer, or asked for twice.

        Raises:
            KitError: nobody offers one; or as `candidates`.
        """
        for given in self._given():
            return given
        return ask_new(what, hint=self.hint())

    def hint(self) -> str:
        """Say how to give a passphrase."""
        return (
            f"give {self.option} FILE before the command, or the systemd credential"
            f" `{self.credential}`, or run at a terminal"
        )

    def _given(self) -> Iterator[str]:
        for path in self._paths():
            if path not in self._read:
                self._read[path] = read(path)
            yield self._read[path]

    def _paths(self) -> Iterator[Path]:
        yield from self.files
        folder = os.environ.get("CREDENTIALS_DIRECTORY")  # systemd.exec(5), LoadCredential=
        if folder and (Path(folder) / self.credential).is_file():
            yield Path(folder) / self.credential


def read(path: Path) -> str:
    """Read a passphrase from a file or descriptor; one line end at its end does not count.

    Raises:
        KitError: the file is missing, can be read by others, or holds no passphrase.
    """
    data = read_limited(path, limit=MAX_PASSPHRASE_BYTES, what="passphrase file")
    is_given = not path.is_relative_to(os.environ.get("CREDENTIALS_DIRECTORY") or os.devnull)
    if is_given and path.is_file() and path.stat().st_mode & 0o077:
        raise KitError(
            f"passphrase file `{path}` can be read by others",
            hint=f"run `chmod 600 {path}` and check who could",
        )
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise KitError(f"passphrase file `{path}` is not UTF-8 text") from error
    return _normal(text, what=f"passphrase file `{path}`")


def ask(prompt: str) -> str:
    """Ask at the terminal, without echo.

    Raises:
        KitError: nothing was typed.
    """
    try:
        return _normal(getpass.getpass(prompt, stream=sys.stderr), what="the passphrase")
    except EOFError as error:
        raise KitError("no passphrase was given") from error


def chosen(what: str, file: Path | None) -> str:
    """Return a new passphrase for what has another: from a file, or asked for twice.

    Raises:
        KitError: as `read` and `ask_new`.
    """
    return read(file) if file else ask_new(what, hint="give --new-passphrase-file FILE")


def ask_new(what: str, *, hint: str) -> str:
    """Ask for a new passphrase, twice; `hint` says what to do where nobody sits.

    Raises:
        KitError: nobody sits there, or the two differ.
    """
    if not can_ask():
        raise KitError(f"the new passphrase of {what} is missing", hint=hint)
    first = ask(f"new passphrase of {what}: ")
    if ask("the same again: ") != first:
        raise KitError("the two passphrases differ", hint="nothing was changed; try again")
    return first


def _normal(text: str, *, what: str) -> str:
    if not text or "\n" in text or "\0" in text:
        raise KitError(f"{what} is empty or has several lines")
    return unicodedata.normalize("NFC", text)  # keyboards differ in how they write an umlaut
