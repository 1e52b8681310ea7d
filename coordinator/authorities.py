"""Certificate authorities of the sites themselves, and which site ids each may speak for (A14).

The federation's own CA speaks for every site that has no other; a registered one for the ids in its
row, and for those only. The table is asked on every call and for every statement.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from coordinator import issuance, state
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, NotFoundError, StateError
from coordinator.state import Transaction
from federation.auditlog.events import Kind
from kit import canonical, clock
from pki import certificates
from pki.crl import RevocationList
from pki.errors import IdentityError
from pki.identity import Identity

MAX_AUTHORITY_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """A root of trust: `sites` are the ids it may speak for, None for all without another."""

    name: str | None
    root: x509.Certificate
    sites: frozenset[str] | None
    revocations: RevocationList | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A registered CA as the operator lists it."""

    name: str
    fingerprint: str
    sites: tuple[str, ...]
    expires: str
    revocation_list: int | None


def add(coordinator: Coordinator, name: str, pem: bytes, sites: Iterable[str]) -> Authority:
    """Register the self-signed root of a CA for some site ids; once more to change the ids.

    Raises:
        StateError: the name is another CA's, or an id is another CA's or enrolled with another.
        IdentityError: the file is not one CA certificate.
    """
    ids = frozenset(canonical.name(site, what="site id") for site in sites)
    canonical.name(name, what="authority")
    root = _root(pem)
    fingerprint = certificates.fingerprint(root)
    with coordinator.write() as tx:
        for row in tx.all(sa.select(state.authorities)):
            same = certificates.fingerprint(certificates.from_pem(row.certificate)[0])
            if row.name == name and same != fingerprint:
                raise StateError(f"authority `{name}` is another certificate")
            taken = ids & set(json.loads(row.sites))
            if row.name != name and taken:
                raise StateError(f"site `{min(taken)}` belongs to authority `{row.name}`")
        for site in sorted(ids):
            _check_unenrolled(tx, site, name)
        table = state.authorities
        present = tx.one(sa.select(table.c.crl, table.c.crl_number).where(table.c.name == name))
        tx.execute(sa.delete(table).where(table.c.name == name))
        tx.execute(
            sa.insert(table).values(
                name=name,
                certificate=certificates.pem(root),
                sites=json.dumps(sorted(ids)),
                crl=present.crl if present else None,
                crl_number=present.crl_number if present else None,
            )
        )
        tx.record(Kind.AUTHORITY_ADDED, fingerprint, sites=len(ids))
        return _authority(tx.all(sa.select(table).where(table.c.name == name))[0])


def _check_unenrolled(tx: Transaction, site: str, name: str) -> None:
    row = tx.one(sa.select(state.sites).where(state.sites.c.id == site))
    if row is not None and row.state in ("requested", "active") and row.authority != name:
        raise StateError(
            f"site `{site}` is enrolled with another authority",
            hint=f"run `coordinator sites revoke {site}` first",
        )


def remove(coordinator: Coordinator, name: str) -> Authority:
    """Take a CA off the table: its sites are out from their next call on.

    Raises:
        NotFoundError: no such CA.
    """
    with coordinator.write() as tx:
        row = _row(tx, name)
        tx.execute(sa.delete(state.authorities).where(state.authorities.c.name == name))
        gone = _authority(row)
        tx.record(Kind.AUTHORITY_REMOVED, gone.fingerprint)
    return gone


def list_authorities(coordinator: Coordinator) -> list[Authority]:
    """Return every registered CA, by name."""
    with coordinator.state.read() as tx:
        rows = tx.all(sa.select(state.authorities).order_by(state.authorities.c.name))
    return [_authority(row) for row in rows]


def put_list(coordinator: Coordinator, name: str, der: bytes) -> Authority:
    """Keep a CA's newer revocation list; its certificates are checked against it at every call.

    Raises:
        NotFoundError: no such CA.
        IdentityError: the list is not this CA's, is stale, or older than the one that is here.
    """
    with coordinator.write() as tx:
        row = _row(tx, name)
        found = RevocationList.verify(der, certificates.from_pem(row.certificate)[0], now=tx.now)
        if row.crl_number is not None and found.number < row.crl_number:
            raise IdentityError("the revocation list is older than the one that is here")
        tx.execute(
            sa.update(state.authorities)
            .where(state.authorities.c.name == name)
            .values(crl=der, crl_number=found.number)
        )
        return _authority(_row(tx, name))


def roots(coordinator: Coordinator) -> bytes:
    """Return every root (PEM) that a client's chain may lead to: the gate at the handshake."""
    with coordinator.state.read() as tx:
        rows = tx.all(sa.select(state.authorities.c.certificate))
    return certificates.pem(coordinator.root) + b"".join(row.certificate for row in rows)


def anchor(coordinator: Coordinator, tx: Transaction, name: str | None) -> Anchor:
    """Return one root of trust; None names the federation's own.

    Raises:
        NotAllowedError: the CA was taken off the table.
    """
    if name is None:
        return Anchor(name=None, root=coordinator.root, sites=None, revocations=None)
    row = tx.one(sa.select(state.authorities).where(state.authorities.c.name == name))
    if row is None:
        raise NotAllowedError("the authority of this site is not registered any more")
    return _anchor(row)


def prove(
    coordinator: Coordinator,
    tx: Transaction,
    chain: Sequence[x509.Certificate],
    verify: Callable[..., Identity],
) -> tuple[Identity, str | None]:
    """Return whom a chain proves and by which authority; `verify` is a rule of `pki.verification`.

    Raises:
        IdentityError: it leads to no root of the table.
        NotAllowedError: its authority may not speak for this site (A14).
    """
    own = Anchor(name=None, root=coordinator.root, sites=None, revocations=None)
    candidates = [own, *(_anchor(row) for row in tx.all(sa.select(state.authorities)))]
    refusal: IdentityError | None = None
    for item in candidates:
        try:
            verify(chain, root=item.root, now=coordinator.now())
        except IdentityError as error:
            refusal = refusal or error
            continue
        who = verify(chain, root=item.root, now=coordinator.now(), revocations=item.revocations)
        if item.sites is not None and who.name not in item.sites:
            raise NotAllowedError("this authority may not speak for the site that it names")
        return who, item.name
    raise refusal or IdentityError("certificate is not trusted for this use")


def revocations(
    coordinator: Coordinator,
    tx: Transaction,
    origin: Anchor,
    chain: Sequence[x509.Certificate],
) -> RevocationList | None:
    """Return what is revoked among a site's certificates, by the CA that it enrolled with."""
    if origin.name is None:
        return issuance.listed(coordinator, tx, chain)
    return origin.revocations


def _row(tx: Transaction, name: str) -> sa.Row[Any]:
    row = tx.one(sa.select(state.authorities).where(state.authorities.c.name == name))
    if row is None:
        raise NotFoundError(
            f"no authority `{canonical.printable(name)}`", hint="see `coordinator authority list`"
        )
    return row


def _root(pem: bytes) -> x509.Certificate:
    if len(pem) > MAX_AUTHORITY_BYTES:
        raise IdentityError("the file is too large for one CA certificate")
    found = certificates.from_pem(pem)
    if len(found) != 1 or found[0].issuer != found[0].subject:
        raise IdentityError(
            "the file is not one self-signed CA certificate",
            hint="give the CA's root; its issuing certificates travel with the sites' chains",
        )
    try:
        constraints = found[0].extensions.get_extension_for_class(x509.BasicConstraints)
        found[0].verify_directly_issued_by(found[0])
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError) as error:
        raise IdentityError("the file is not one self-signed CA certificate") from error
    if not constraints.value.ca:
        raise IdentityError("the certificate is not a CA's")
    return found[0]


def _anchor(row: sa.Row[Any]) -> Anchor:
    return Anchor(
        name=row.name,
        root=certificates.from_pem(row.certificate)[0],
        sites=frozenset(json.loads(row.sites)),
        revocations=RevocationList.read(row.crl) if row.crl else None,
    )


def _authority(row: sa.Row[Any]) -> Authority:
    root = certificates.from_pem(row.certificate)[0]
    return Authority(
        name=row.name,
        fingerprint=certificates.fingerprint(root),
        sites=tuple(json.loads(row.sites)),
        expires=clock.rfc3339(root.not_valid_after_utc),
        revocation_list=row.crl_number,
    )
