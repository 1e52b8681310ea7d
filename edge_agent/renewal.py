"""Renewal of this site's certificates: each at two thirds of its life, without restarting anything.

A renewal may die anywhere. The next key waits beside the present one until its certificate is in
place, and the same key asks again: the coordinator answers with the same certificate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from edge_agent import acts
from edge_agent.exchange import Exchange
from edge_agent.home import Home
from federation.rekey import Rekey, Usage
from kit import canonical, clock
from kit.errors import KitError
from kit.files import read_limited, write_atomic
from pki import certificates, keys, lifetimes, verification
from pki.errors import IdentityError

_MAX_PEM_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """Which certificates this site holds now, and until when."""

    tls_certificate_expires: str
    signing_certificate_expires: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """A certificate from the site's own authority, with its key, as files."""

    chain: Path
    key: Path


def renew_due(home: Home, exchange: Exchange, now: datetime) -> None:
    """Renew what is past two thirds of its life; what the site's own authority issues is left.

    Raises:
        KitError: the coordinator refuses, or answers with another certificate than asked for.
    """
    if home.config.own_authority:
        return
    if now >= lifetimes.renewal_due(_chain(home.tls_chain)[0]):
        renew_tls(home, exchange, now)
    if now >= lifetimes.renewal_due(_chain(home.signing_chain)[0]):
        renew_signing(home, exchange, now)


def renew_tls(home: Home, exchange: Exchange, now: datetime) -> None:
    """Replace the TLS certificate; the old one works until the new one was used."""
    key = keys.successor_tls(home.key("tls.key"))
    request = certificates.request(key)
    acts.note(home, canonical.digest(request))
    _put_tls(home, exchange.renew(request), key, now)


def reclaim_tls(home: Home, exchange: Exchange, now: datetime) -> None:
    """Replace the TLS certificate on the word of the signing key.

    The first use of the new one takes every other TLS certificate of this site out of use.
    """
    key = keys.successor_tls(home.key("tls.key"))
    order = _order(home, Usage.TLS, certificates.request(key), now)
    _put_tls(home, exchange.rekey(order, _present(home)), key, now)


def _put_tls(home: Home, fresh: bytes, key: keys.TlsKey, now: datetime) -> None:
    chain, root = certificates.from_pem(fresh), certificates.from_der(home.pins.root_der)
    if verification.verify_tls_client(chain, root=root, now=now) != home.identity:
        raise KitError("the coordinator renewed the certificate for another site")
    keys.save(home.next_tls_key, key)
    write_atomic(home.tls_chain, fresh)
    home.settle_tls_key(chain[0].public_key())


def renew_signing(
    home: Home, exchange: Exchange, now: datetime, *, brought: Brought | None = None
) -> None:
    """Replace the signing key by one that the present key signs for (A1).

    What is sealed in the outbox is sealed again with the new key, at no cost, by the next `submit`.

    Raises:
        KitError: the coordinator refuses, or answers with another certificate than asked for.
    """
    fresh = exchange.rekey(signing_order(home, now, brought=brought), _present(home))
    key, found = keys.load_signing(home.next_signing_key), certificates.from_pem(fresh)
    if found[0].public_key() != key.public_key():
        raise KitError("the coordinator renewed the signing certificate for another key")
    if not home.config.own_authority:
        root = certificates.from_der(home.pins.root_der)
        if verification.verify_signing(found, root=root, now=now) != home.identity:
            raise KitError("the coordinator renewed the signing certificate for another site")
    write_atomic(home.signing_chain, fresh)
    home.settle_signing_key(found[0].public_key())


def signing_order(home: Home, now: datetime, *, brought: Brought | None = None) -> bytes:
    """Return the order for the next signing key, signed with the present one.

    That key is kept until its certificate comes; asking again asks for the same key.
    """
    if brought is not None:
        keys.save(home.next_signing_key, keys.load_signing(brought.key))
    if not home.next_signing_key.is_file():
        keys.save(home.next_signing_key, keys.successor_signing(home.key("signing.key")))
    request = certificates.request(keys.load_signing(home.next_signing_key))
    chain = brought.chain.read_bytes() if brought is not None else b""
    return _order(home, Usage.SIGNING, request, now, chain=chain)


def _order(home: Home, usage: Usage, request: bytes, now: datetime, *, chain: bytes = b"") -> bytes:
    present = _chain(home.signing_chain)
    order = Rekey(
        site=home.config.site,
        usage=usage,
        previous=certificates.fingerprint(present[0]),
        request=request,
        chain=chain,
        time=clock.rfc3339(now),
    )
    acts.note(home, canonical.digest(request))
    return order.sign(keys.load_signing(home.key("signing.key")), present[0])


def _present(home: Home) -> bytes:
    return certificates.pem(*_chain(home.signing_chain))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked for by post: a TLS request, an order for a signing key, or None of either."""

    tls_request: bytes | None
    signing_order: bytes | None


def ask_by_post(
    home: Home, now: datetime, *, early: bool = False, brought: Brought | None = None
) -> Asked:
    """Return what to ask for where the answer comes by post: what is due, or all if `early`.

    The keys are kept until the answer comes; asking again asks for the same ones. A site with an
    authority of its own asks for nothing but the signing certificate that it `brought`.
    """
    own = home.config.own_authority
    is_due = {
        name: not own and (early or now >= lifetimes.renewal_due(_chain(path)[0]))
        for name, path in (("tls", home.tls_chain), ("signing", home.signing_chain))
    }
    request = None
    if is_due["tls"]:
        if not home.next_tls_key.is_file():
            keys.save(home.next_tls_key, keys.successor_tls(home.key("tls.key")))
        request = certificates.request(keys.load_tls(home.next_tls_key))
        acts.note(home, canonical.digest(request))
    wants_signing = is_due["signing"] or brought is not None
    return Asked(
        tls_request=request,
        signing_order=signing_order(home, now, brought=brought) if wants_signing else None,
    )


def keep_posted(home: Home, *, tls_chain: bytes, signing_chain: bytes, issued: datetime) -> None:
    """Keep the certificates that came by post, if they are for keys that are here.

    A TLS certificate lives for days: it must hold when it was sent, and may be over on arrival. Of
    a site with an authority of its own only the signing certificate is taken that it asked for.

    Raises:
        IdentityError: they do not prove this site.
    """
    tls, signing = certificates.from_pem(tls_chain), certificates.from_pem(signing_chain)
    if not home.config.own_authority:
        root = certificates.from_der(home.pins.root_der)
        if (
            verification.verify_tls_client(tls, root=root, now=issued) != home.identity
            or verification.verify_signing(signing, root=root, now=issued) != home.identity
        ):
            raise IdentityError("the coordinator sent certificates of another site")
        if tls[0].public_key() in _held(keys.load_tls, home.key("tls.key"), home.next_tls_key):
            write_atomic(home.tls_chain, tls_chain)
            home.settle_tls_key(tls[0].public_key())
    present = () if home.config.own_authority else (home.key("signing.key"),)
    if signing[0].public_key() in _held(keys.load_signing, *present, home.next_signing_key):
        write_atomic(home.signing_chain, signing_chain)
        home.settle_signing_key(signing[0].public_key())


def _held(load: Callable[[Path], Any], *paths: Path) -> list[object]:
    return [load(path).public_key() for path in paths if path.is_file()]


def put_brought_tls(home: Home, brought: Brought, *, now: datetime) -> None:
    """Put a TLS certificate of the site's own authority in place.

    Raises:
        KitError: it is not for this site, for TLS clients, and for the key in the other file.
    """
    key = keys.load_tls(brought.key)
    chain = certificates.read_pem(brought.chain)
    who = verification.claimed_identity(chain[0])
    if who != home.identity or chain[0].public_key() != key.public_key():
        raise KitError(f"`{brought.chain}` is not for `{home.identity.uri}` and that key")
    if now > chain[0].not_valid_after_utc:
        raise KitError(f"`{brought.chain}` has expired")
    keys.save(home.next_tls_key, key)
    write_atomic(home.tls_chain, certificates.pem(*chain))
    home.settle_tls_key(key.public_key())


def standing(home: Home) -> Renewed:
    """Return until when this site's certificates hold."""
    tls, signing = _chain(home.tls_chain)[0], _chain(home.signing_chain)[0]
    return Renewed(
        tls_certificate_expires=clock.rfc3339(tls.not_valid_after_utc),
        signing_certificate_expires=clock.rfc3339(signing.not_valid_after_utc),
    )


def lifetimes_of(home: Home) -> list[lifetimes.Lifetime]:
    """Return everything at this site that runs out, for `lifetimes.warnings`."""
    tls, signing = _chain(home.tls_chain), _chain(home.signing_chain)
    own = home.config.own_authority
    by_hand = "have your authority issue another, then run `edge-agent renew`"
    root = certificates.from_der(home.pins.root_der)
    found = [
        _lifetime("the TLS certificate", tls[0], by_hand if own else "run `edge-agent status`"),
        _lifetime("the signing certificate", signing[0], by_hand if own else _RENEW),
        _lifetime("the federation's root certificate", root, "the coordinator must found anew"),
    ]
    for certificate in {c for chain in (tls, signing) for c in chain[1:]}:
        remedy = "the operator of that authority must renew it"
        found.append(_lifetime("the certificate of this site's issuing CA", certificate, remedy))
    if own:
        return found
    renewing = [lifetimes.renewal_due(tls[0]), lifetimes.renewal_due(signing[0])]
    return [
        lifetimes.Lifetime(
            name=item.name, expires=item.expires, remedy=item.remedy, renews_from=due
        )
        for item, due in zip(found[:2], renewing, strict=True)
    ] + found[2:]


_RENEW = "run `edge-agent renew`; once it has expired only a quorum of reviewers lets the site back"


def _lifetime(name: str, certificate: x509.Certificate, remedy: str) -> lifetimes.Lifetime:
    return lifetimes.Lifetime(name=name, expires=certificate.not_valid_after_utc, remedy=remedy)


def _chain(path: Path) -> tuple[x509.Certificate, ...]:
    return certificates.from_pem(read_limited(path, limit=_MAX_PEM_BYTES, what="certificate"))
