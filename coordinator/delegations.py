"""Delegations: the keys in this home that the offline study key lets sign recipient keys (A16).

One per open study, replaced by `study extend`, gone when the study closes. The private key lies in
`keys/` under a name made from its public half, so that a crash between file and row leaves the
delegation on record with its own key.
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from coordinator import state
from coordinator.context import Coordinator
from coordinator.state import Transaction
from federation import delegation as rules
from federation import dsse
from federation.auditlog.events import Kind
from federation.delegation import Delegation
from federation.study import RECIPIENT_KEY_TYPE, RecipientKey, Study
from kit import canonical, clock
from kit.errors import FormatError
from kit.files import os_errors
from pki import keys

_PATTERN = "delegate-*.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Until when this home may sign the recipient keys of a study; None: it cannot."""

    study: str
    created: datetime
    expires: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegate:
    """The key to which a study's recipient keys were delegated."""

    key: keys.SigningKey = field(repr=False)

    def sign(self, document: RecipientKey) -> bytes:
        """Return a signed recipient key."""
        keyid = canonical.digest(keys.public_bytes(self.key))
        return dsse.sign(document.to_bytes(), RECIPIENT_KEY_TYPE, self.key, keyid=keyid)


def issue(
    coordinator: Coordinator,
    tx: Transaction,
    study: Study,
    *,
    signer: keys.SigningKey,
    days: int | None = None,
) -> Delegation:
    """Make a key, have the study key `signer` delegate to it, and put that on record and log.

    It ends after `days`, or `federation.delegation.DEFAULT_DAYS`.

    Raises:
        FormatError: `signer` is not the study key, or the days are out of bounds.
    """
    if keys.public_bytes(signer) != coordinator.study_public:
        raise FormatError("a delegation is signed by the study key")
    key = keys.new_signing_key()
    days = rules.DEFAULT_DAYS if days is None else days
    made = Delegation.of(study, keys.public_bytes(key), now=tx.now, days=days)
    keys.save(_file(coordinator, made), key)
    table = state.delegations
    tx.execute(sa.delete(table).where(table.c.study_digest == study.digest))
    tx.execute(sa.insert(table).values(study_digest=study.digest, envelope=made.sign(signer)))
    until = int(clock.parse_rfc3339(made.expires).timestamp())
    tx.record(Kind.RECIPIENTS_DELEGATED, made.digest, study=study.digest, until=until)
    return made


def delegate(coordinator: Coordinator, tx: Transaction, study_digest: str) -> Delegate | None:
    """Return who signs a study's recipient keys here; None if nobody can.

    One that has ended signs on: sites take nothing by it, and say why.
    """
    table = state.delegations
    row = tx.one(sa.select(table).where(table.c.study_digest == study_digest))
    path = None if row is None else _file(coordinator, _parse(row))
    return None if path is None or not path.is_file() else Delegate(key=keys.load_signing(path))


def end(tx: Transaction, study_digest: str) -> None:
    """Take a study's delegation off the record; `tidy` removes its key."""
    table = state.delegations
    tx.execute(sa.delete(table).where(table.c.study_digest == study_digest))


def tidy(coordinator: Coordinator) -> None:
    """Remove every delegate's key that no delegation on record names."""
    with coordinator.write() as tx:  # whoever makes one holds the write lock
        kept = {_file(coordinator, _parse(row)) for row in tx.all(sa.select(state.delegations))}
        for path in set(coordinator.home.key("").parent.glob(f"keys/{_PATTERN}")) - kept:
            with os_errors(path):
                path.unlink(missing_ok=True)


def standings(coordinator: Coordinator, tx: Transaction) -> list[Standing]:
    """Return how long each open study's delegation lasts, by study id."""
    kept = {row.study_digest: _parse(row) for row in tx.all(sa.select(state.delegations))}
    found = []
    for row in tx.all(sa.select(state.studies).where(state.studies.c.open)):
        right = kept.get(row.digest)
        if right is not None and not _file(coordinator, right).is_file():
            right = None  # restored with an older folder of keys
        created = Study.from_bytes(row.manifest).created
        found.append(
            Standing(
                study=row.id,
                created=clock.parse_rfc3339(created),
                expires=None if right is None else clock.parse_rfc3339(right.expires),
            )
        )
    return sorted(found, key=lambda standing: standing.study)


def digests(tx: Transaction) -> dict[str, str]:
    """Return study digest -> digest of its delegation, as the log names it."""
    rows = tx.all(sa.select(state.delegations))
    return {row.study_digest: _parse(row).digest for row in rows}


def _parse(row: sa.Row[Any]) -> Delegation:
    return Delegation.from_bytes(dsse.parse(row.envelope, rules.PAYLOAD_TYPE).payload)


def _file(coordinator: Coordinator, delegation: Delegation) -> Path:
    public = canonical.digest(bytes.fromhex(delegation.public_key))
    return coordinator.home.key(f"delegate-{public[:32]}.key")
