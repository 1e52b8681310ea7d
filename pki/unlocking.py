"""The sealing keys that this process has opened: asked for once, kept in memory until it ends.

A command line names its sources of passphrases once, by `use`; every key that is read or written
afterwards is opened and sealed with them.
"""

import resource
import threading
from collections.abc import Iterator
from typing import Protocol

from pki.errors import IdentityError, WrongPassphraseError
from pki.protection import Protection


class Source(Protocol):
    """Where passphrases come from (`kit.passphrases.Sources`)."""

    def candidates(self, what: str) -> Iterator[str]:
        """Yield what may open `what`."""

    def hint(self) -> str:
        """Say how to give a passphrase."""


class _Nobody:
    def candidates(self, _what: str) -> Iterator[str]:
        yield from ()

    def hint(self) -> str:
        return "this program was given no way to ask for it"


_lock = threading.Lock()
_source: Source = _Nobody()
_pins: Source = _Nobody()
_opened: dict[str, bytes] = {}


def use(source: Source | None, *, pins: Source | None = None) -> None:
    """Take passphrases and PINs from these from now on, and forget every key opened before."""
    global _source, _pins
    with _lock:
        _source, _pins = source or _Nobody(), pins or _Nobody()
        _opened.clear()


def pin(what: str) -> str:
    """Return the first PIN on offer: a wrong one counts, so no second is ever tried.

    Raises:
        IdentityError: there is none on offer.
    """
    for candidate in _pins.candidates(what):
        return candidate
    raise IdentityError(f"{what} is missing", hint=_pins.hint())


def sealing_key(protection: Protection, what: str) -> bytes:
    """Return the sealing key of a protection, asking only the first time; sensitive.

    Raises:
        WrongPassphraseError: no passphrase on offer fits.
        IdentityError: there is none on offer.
    """
    with _lock:
        if protection.id not in _opened:
            _, _opened[protection.id] = _find(protection, what)
        return _opened[protection.id]


def remember(protection: Protection, key: bytes) -> None:
    """Keep the sealing key of a protection that was made in this process."""
    with _lock:
        _opened[protection.id] = key


def passphrase(protection: Protection, what: str) -> str:
    """Return the passphrase that opens a protection; asks every time. Raises as `sealing_key`."""
    with _lock:
        found, _opened[protection.id] = _find(protection, what)
        return found


def _find(protection: Protection, what: str) -> tuple[str, bytes]:
    was_tried = False
    for candidate in _source.candidates(what):
        try:
            key = protection.open(candidate)
        except WrongPassphraseError:
            was_tried = True
        else:
            _forbid_core_dumps()
            return candidate, key
    if was_tried:
        raise WrongPassphraseError(
            f"wrong passphrase for {what}, or its protection was altered",
            hint="nothing was changed; try again",
        )
    raise IdentityError(f"no passphrase was given for {what}", hint=_source.hint())


def _forbid_core_dumps() -> None:
    """Keep opened keys out of core files; swap and a debugger remain."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
