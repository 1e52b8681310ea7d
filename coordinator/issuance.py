"""Certificates on record: every leaf with its chain, which are revoked, and the signed list.

Invariants:

- The number of the revocation list only grows, and one number is one list: it is kept as issued.
- A revoked certificate stays on the list until it has expired.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from cryptography import x509

from coordinator import state
from coordinator.errors import NotFoundError
from coordinator.state import Transaction
from kit import canonical, clock
from pki import certificates, crl
from pki.certificates import Authority
from pki.crl import Reason, Revoked

if TYPE_CHECKING:
    from coordinator.context import Coordinator

TLS, SIGNING = "tls", "signing"
COORDINATOR = "-coordinator-"  # no site id: those begin with a letter or digit
_REISSUE_AFTER = timedelta(days=1)


def keep(tx: Transaction, chain: bytes, *, holder: str, usage: str, own: bool = True) -> str:
    """Put a leaf on record (`chain` is PEM, leaf first); returns its fingerprint.

    `own` says that the federation's CA issued it, so that its list is where it is revoked.
    """
    leaf = certificates.from_pem(chain)[0]
    fingerprint = certificates.fingerprint(leaf)
    table = state.certificates
    if tx.one(sa.select(table.c.position).where(table.c.fingerprint == fingerprint)) is None:
        last = tx.connection.scalar(sa.select(sa.func.max(table.c.position)))
        tx.execute(
            sa.insert(table).values(
                fingerprint=fingerprint,
                position=0 if last is None else last + 1,
                serial=f"{leaf.serial_number:x}",
                holder=holder,
                usage=usage,
                chain=chain,
                expires=clock.rfc3339(leaf.not_valid_after_utc),
                own=own,
            )
        )
    return fingerprint


def revoke(tx: Transaction, fingerprint: str, reason: Reason = Reason.superseded) -> None:
    """Put one leaf on the revocation list; one that is on it stays as it is."""
    table = state.certificates
    tx.execute(
        sa.update(table)
        .where(table.c.fingerprint == fingerprint, table.c.revoked.is_(None))
        .values(revoked=clock.rfc3339(tx.now), reason=reason.value)
    )


def revoke_holder(
    tx: Transaction, holder: str, reason: Reason = Reason.cessation_of_operation
) -> None:
    """Put every leaf of one holder on the revocation list."""
    table = state.certificates
    for row in tx.all(sa.select(table.c.fingerprint).where(table.c.holder == holder)):
        revoke(tx, row.fingerprint, reason)


def hold(tx: Transaction, holder: str) -> None:
    """Put every TLS leaf of a holder on hold: the first use of a newer one takes them out."""
    table = state.certificates
    tx.execute(
        sa.update(table)
        .where(table.c.holder == holder, table.c.usage == TLS)
        .values(
            revoked=sa.func.coalesce(table.c.revoked, clock.rfc3339(tx.now)),
            reason=Reason.certificate_hold.value,
        )
    )


def settle_tls(tx: Transaction, holder: str, previous: str) -> None:
    """Note the first use of a renewed TLS leaf: the one before it, and what is on hold, is out."""
    revoke(tx, previous)
    table = state.certificates
    tx.execute(
        sa.update(table)
        .where(table.c.holder == holder, table.c.reason == Reason.certificate_hold.value)
        .values(reason=Reason.key_compromise.value)
    )


def newest(tx: Transaction, holder: str, usage: str) -> sa.Row[Any] | None:
    """Return the row of the last leaf that a holder got for one usage, revoked ones included."""
    table = state.certificates
    query = sa.select(table).where(table.c.holder == holder, table.c.usage == usage)
    return tx.one(query.order_by(table.c.position.desc()).limit(1))


def is_revoked(tx: Transaction, fingerprint: str) -> bool:
    """Say whether a leaf on record is revoked."""
    table = state.certificates
    query = sa.select(table.c.revoked).where(table.c.fingerprint == fingerprint)
    return tx.connection.scalar(query) is not None


def is_superseded(tx: Transaction, fingerprint: str, *, holder: str) -> bool:
    """Say whether a holder's leaf is out of use only because another one replaced it."""
    table = state.certificates
    query = sa.select(table.c.reason).where(
        table.c.fingerprint == fingerprint, table.c.holder == holder
    )
    replaced = (Reason.superseded.value, Reason.certificate_hold.value)
    return tx.connection.scalar(query) in replaced


def chain_of(coordinator: "Coordinator", tx: Transaction, fingerprint: str) -> bytes:
    """Return the chain (PEM) that belongs to a leaf's fingerprint.

    Raises:
        NotFoundError: no such leaf is on record.
    """
    table = state.certificates
    row = tx.one(sa.select(table.c.chain).where(table.c.fingerprint == fingerprint))
    if row is not None:
        return bytes(row.chain)
    chain = coordinator.signing_chain  # the first one, of a home from before there were records
    if certificates.fingerprint(chain[0]) != fingerprint:
        raise NotFoundError(f"no certificate `{fingerprint[:16]}` is on record")
    return certificates.pem(*chain)


def listed(
    coordinator: "Coordinator", tx: Transaction, chain: Sequence[x509.Certificate]
) -> crl.RevocationList:
    """Return what is revoked of a presented chain, for the coordinator's own checks."""
    serials = {f"{certificate.serial_number:x}" for certificate in chain}
    found = tx.all(
        sa.select(state.certificates).where(
            state.certificates.c.serial.in_(serials), state.certificates.c.revoked.is_not(None)
        )
    )
    return crl.RevocationList(
        issuer=coordinator.issuing.certificate.subject,
        number=int(tx.get("crl_number") or 0),
        entries={int(row.serial, 16): _entry(row) for row in found},
    )


def revoke_issuing(
    coordinator: "Coordinator", tx: Transaction, root: Authority, *, replaced_by: Authority
) -> bytes:
    """Have the root list every certificate of issuing keys but the new one; returns the DER.

    What they signed before, at a time that the log gives, stays valid: the entries are orderly. The
    list holds as long as the root, which is not at hand to sign it again.
    """
    retired = {coordinator.issuing_certificate}
    for row in tx.all(sa.select(state.certificates.c.chain).where(state.certificates.c.own)):
        retired.update(certificates.from_pem(row.chain)[1:])
    kept = authority_list(tx)
    entries = dict(crl.RevocationList.read(kept).entries) if kept else {}
    for each in retired:
        is_ours = each.issuer == root.certificate.subject
        if is_ours and each.public_key() != replaced_by.key.public_key():
            entries.setdefault(
                each.serial_number,
                Revoked(serial=each.serial_number, since=tx.now, reason=Reason.superseded),
            )
    number = int(tx.get("authority_crl_number") or 0) + 1
    until = root.certificate.not_valid_after_utc
    made = crl.issue(root, entries.values(), number=number, now=tx.now, until=until)
    tx.put("authority_crl_number", str(number))
    tx.put("authority_crl", canonical.b64encode(made))
    return made


def authority_list(tx: Transaction) -> bytes:
    """Return the root's list of revoked issuing CAs (DER); empty while there is none."""
    return canonical.b64decode(tx.get("authority_crl") or "", limit=2 * crl.MAX_CRL_BYTES)


def revocation_list(coordinator: "Coordinator") -> bytes:
    """Return the signed list (DER): the one that is kept, or a new one if that must change."""
    with coordinator.state.read() as tx:
        kept = _kept_list(coordinator, tx, coordinator.now())
    if kept is not None:
        return kept
    with coordinator.write() as tx:
        return _kept_list(coordinator, tx, tx.now) or _new_list(coordinator, tx)


def _kept_list(coordinator: "Coordinator", tx: Transaction, now: datetime) -> bytes | None:
    issued, kept = tx.get("crl_issued"), tx.get("crl")
    if (
        not kept
        or not issued
        or not timedelta() <= now - clock.parse_rfc3339(issued) < _REISSUE_AFTER
    ):
        return None
    if tx.get("crl_content") != _content(coordinator, _alive(tx, now)):
        return None
    return canonical.b64decode(kept, limit=2 * crl.MAX_CRL_BYTES)


def _new_list(coordinator: "Coordinator", tx: Transaction) -> bytes:
    entries, number = _alive(tx, tx.now), int(tx.get("crl_number") or 0) + 1
    made = crl.issue(coordinator.issuing, entries, number=number, now=tx.now)
    tx.put("crl_number", str(number))
    tx.put("crl_content", _content(coordinator, entries))
    tx.put("crl_issued", clock.rfc3339(tx.now))
    tx.put("crl", canonical.b64encode(made))
    return made


def _content(coordinator: "Coordinator", entries: Iterable[Revoked]) -> str:
    issuer = certificates.fingerprint(coordinator.issuing.certificate)
    rows = [
        [f"{item.serial:x}", clock.rfc3339(item.since), item.reason.value]
        for item in sorted(entries, key=lambda entry: entry.serial)
    ]
    return canonical.digest(canonical.encode([issuer, rows]))


def _alive(tx: Transaction, now: datetime) -> list[Revoked]:
    """Return the revoked leaves of the federation's own CA that have not expired."""
    table = state.certificates
    query = sa.select(table).where(
        table.c.revoked.is_not(None), table.c.own, table.c.expires > clock.rfc3339(now)
    )
    return [_entry(row) for row in tx.all(query)]


def _entry(row: sa.Row[Any]) -> Revoked:
    return Revoked(
        serial=int(row.serial, 16),
        since=clock.parse_rfc3339(row.revoked),
        reason=Reason(row.reason),
    )
