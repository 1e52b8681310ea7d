"""Certificates that a site brings from an authority of its own (A14): from files, into the home."""

from datetime import datetime
from pathlib import Path

from edge_agent import contact, renewal
from edge_agent.exchange import Exchange
from edge_agent.home import Home
from edge_agent.renewal import Brought
from kit.errors import KitError


def pair(chain: Path | None, key: Path | None, *, what: str) -> Brought | None:
    """Return a certificate with its key, or None where neither file is given.

    Raises:
        KitError: only one of the two is given, or a file is missing.
    """
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise KitError(f"give the {what} certificate and its key together")
    for path in (chain, key):
        if not path.is_file():
            raise KitError(f"`{path}` does not exist")
    return Brought(chain=chain, key=key)


def check(home: Home, is_brought: bool) -> None:
    """Let a site bring files if it has an authority of its own, and no other.

    Raises:
        KitError: it is the other way round.
    """
    own = home.config.own_authority
    if own != is_brought:
        raise KitError(
            "this site's certificates come from its own authority"
            if own
            else "this site's certificates come from the federation's authority",
            hint="give the new files" if own else "run `edge-agent renew` without files",
        )


def renew(
    home: Home, *, tls: Brought | None, signing: Brought | None, reclaim: bool, now: datetime
) -> None:
    """Renew a site's certificates now, or put brought ones in place; then make a contact.

    Raises:
        KitError: a file is not for this site, or the coordinator refuses.
    """
    check(home, bool(tls or signing))
    own = home.config.own_authority
    if tls is not None:
        renewal.put_brought_tls(home, tls, now=now)
    with Exchange.open(home) as exchange:
        if signing is not None or not own:
            renewal.renew_signing(home, exchange, now, brought=signing)
        if reclaim:
            renewal.reclaim_tls(home, exchange, now)
        elif not own:
            renewal.renew_tls(home, exchange, now)
    with Exchange.open(home) as exchange:  # the first use of what is new
        contact.contact(home, exchange)
