"""Putting the coordinator's keys under a passphrase: not behind a running server's back."""

from collections.abc import Callable

from coordinator.state import SERVE_LOCK
from kit.files import exclusive
from pki import protecting
from pki.protecting import Place, Protected


def protect(place: Place, new: Callable[[], str]) -> Protected:
    """Seal every secret of the coordinator's home.

    Raises:
        KitError: a server runs on it, which could not open what it had read in clear; or as
            `pki.protecting.protect`.
    """
    busy = "a `coordinator serve` runs on this home"
    hint = "stop it, protect the keys, and give it the passphrase when it starts again"
    with exclusive(place.home / SERVE_LOCK, busy=busy, hint=hint):
        return protecting.protect(place, new)
