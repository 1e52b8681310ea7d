"""What an older home lacks besides its tables: made once, when this version first opens it."""

import os

import sqlalchemy as sa

from coordinator import issuance, state
from coordinator.state import State, Transaction
from federation.auditlog import pseudonyms
from federation.auditlog.events import Kind
from kit import canonical, clock

_SALT = "pseudonym_salt"


def complete(home: State) -> None:
    """Put every certificate of an older home on record, and salt the pseudonyms of its sites."""
    with home.read() as tx:
        is_complete = tx.get(_SALT) is not None
    if is_complete:
        return
    with home.write(clock.utc_now()) as tx:
        if tx.get(_SALT) is None:
            _adopt(tx)
            salt_pseudonyms(tx)


def salt_pseudonyms(tx: Transaction) -> None:
    """Choose the salt of this federation's pseudonyms, and commit to it in the log."""
    salt = os.urandom(pseudonyms.SALT_BYTES)
    tx.put(_SALT, salt.hex())
    tx.record(Kind.PSEUDONYMS_SALTED, canonical.digest(salt))


def salt_of(tx: Transaction) -> bytes:
    """Return the salt of this federation's pseudonyms."""
    return bytes.fromhex(tx.get(_SALT) or "")


def _adopt(tx: Transaction) -> None:
    for row in tx.all(sa.select(state.sites).where(state.sites.c.tls_chain.is_not(None))):
        issuance.keep(tx, row.tls_chain, holder=row.id, usage=issuance.TLS)
        issuance.keep(tx, row.signing_chain, holder=row.id, usage=issuance.SIGNING)
        if row.state == "revoked":
            issuance.revoke_holder(tx, row.id)
