"""Sites and studies: who is enrolled and may act, what is open, and how each ends."""

import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from coordinator import (
    delegations,
    issuance,
    recipients,
    repository,
    staging,
    state,
)
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, NotFoundError, StateError
from coordinator.state import Transaction
from federation import dsse
from federation.auditlog.events import Event, Kind
from federation.delegation import Delegation
from federation.study import PAYLOAD_TYPE, Study
from kit import canonical, clock
from pki import certificates, keys

INVITED, REQUESTED, ACTIVE, REVOKED = "invited", "requested", "active", "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One hospital as the registry sees it."""

    id: str
    pseudonym: str
    state: str
    code: str | None
    last_contact: str | None
    certificate_expires: str | None
    signing_certificate_expires: str | None
    authority: str | None
    alarm: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """What closing a study did."""

    study: str
    digest: str
    recipient_keys_destroyed: int
    wait_for_intake: tuple[str, ...]


def revoke_site(coordinator: Coordinator, site: str) -> Site:
    """Shut a site out from its next call on; its blueprints are revoked one by one, by choice.

    Its recipient keys go at once, so that nothing it sealed and kept can be opened here again (A2).

    Raises:
        NotFoundError: no such site.
    """
    with coordinator.write() as tx:
        row = row_of(tx, site)
        if row.state != REVOKED:
            shut_out(tx, row)
        revoked = site_of(tx, row_of(tx, site))
    staging.drop_dead(coordinator)
    recipients.destroy_idle(coordinator)
    return revoked


def shut_out(tx: Transaction, row: sa.Row[Any]) -> None:
    """End a site, its recipient keys and its certificates, within a transaction."""
    tx.execute(sa.update(state.sites).where(state.sites.c.id == row.id).values(state=REVOKED))
    recipients.retire_site(tx, row.id)
    issuance.revoke_holder(tx, row.id)
    subject = row.signing_fingerprint or row.token_hash
    tx.record(Kind.SITE_REVOKED, subject, site=row.pseudonym)


def list_sites(coordinator: Coordinator) -> list[Site]:
    """Return every site, by id."""
    with coordinator.state.read() as tx:
        return [
            site_of(tx, row) for row in tx.all(sa.select(state.sites).order_by(state.sites.c.id))
        ]


def active_site(tx: Transaction, site: str) -> sa.Row[Any]:
    """Return the row of a site that may act.

    Raises:
        NotAllowedError: unknown, not confirmed or revoked.
    """
    row = tx.one(sa.select(state.sites).where(state.sites.c.id == site))
    if row is None or row.state != ACTIVE:
        raise NotAllowedError(
            f"site `{site}` is not enrolled or was revoked", hint="ask the coordinator"
        )
    return row


def touch(tx: Transaction, site: str) -> None:
    """Note when a site was last here."""
    tx.execute(
        sa.update(state.sites)
        .where(state.sites.c.id == site)
        .values(last_contact=clock.rfc3339(tx.now))
    )


def create_study(
    coordinator: Coordinator,
    study: Study,
    *,
    signer: keys.SigningKey,
    days: int | None = None,
) -> str:
    """Sign and open a study for every enrolled site; returns its digest.

    `signer` is the offline study key; for `days` this home may then sign the recipient keys.

    Raises:
        StateError: a study of this id exists, or it names an unknown architecture.
        FormatError: the manifest is off, or `signer` is another key.
    """
    manifest = study.to_bytes()
    Study.from_bytes(manifest)
    if study.federation != coordinator.config.federation:
        raise StateError("the study names another federation")
    tables = _tensor_tables(study)
    keyid = canonical.digest(keys.public_bytes(signer))
    with coordinator.write() as tx:
        if tx.one(sa.select(state.studies).where(state.studies.c.id == study.id)):
            raise StateError(
                f"study `{study.id}` exists already",
                hint="a manifest is final: choose another id; `coordinator study show"
                f" {study.id}` shows what this one says",
            )
        coordinator.save_study_secret(study.digest, secrets.token_bytes(32))
        tx.execute(
            sa.insert(state.studies).values(
                digest=study.digest,
                id=study.id,
                envelope=dsse.sign(manifest, PAYLOAD_TYPE, signer, keyid=keyid),
                manifest=manifest,
                tables=json.dumps(tables),
                open=True,
            )
        )
        issued = int(clock.parse_rfc3339(study.created).timestamp())
        tx.record(Kind.STUDY_CREATED, study.digest, round=study.round, issued=issued)
        delegations.issue(coordinator, tx, study, signer=signer, days=days)
        recipients.offer(coordinator, tx, study)
        repository.sign_targets(coordinator, tx, signer=signer, days=days)
    return study.digest


def extend_study(
    coordinator: Coordinator,
    name: str,
    *,
    signer: keys.SigningKey,
    days: int | None = None,
) -> Delegation:
    """Let a new key of this home sign a study's recipient keys for `days`; the old one ends.

    Raises:
        NotFoundError: no such study.
        StateError: it is closed.
        FormatError: `signer` is not the study key.
    """
    with coordinator.write() as tx:
        row = find_study(tx, name)
        if not row.open:
            raise StateError(f"study `{row.id}` is closed: no site seals to it any more")
        study = Study.from_bytes(row.manifest)
        made = delegations.issue(coordinator, tx, study, signer=signer, days=days)
        recipients.offer(coordinator, tx, study)
        repository.sign_targets(coordinator, tx, signer=signer, days=days)
    delegations.tidy(coordinator)
    return made


def _tensor_tables(study: Study) -> dict[str, object]:
    """Return preset -> {table, embedding}: what torch-free checks compare payloads with."""
    from federation.learning.generator import architecture as registry

    tables: dict[str, object] = {}
    for entry in study.architectures:
        architecture = registry.architecture_for(study, entry.preset)
        tables[entry.preset] = {
            "table": registry.expected_tensors(architecture),
            "embedding": registry.class_embedding_name(architecture),
        }
    return tables


def close_study(coordinator: Coordinator, name: str) -> Closed:
    """Close a study: no site submits to it any more, and its recipient keys end (A2).

    What was received before is still taken in, reviewed and built from.

    Raises:
        NotFoundError: no such study.
        StateError: it is closed already.
    """
    with coordinator.write() as tx:
        row = find_study(tx, name)
        if not row.open:
            raise StateError(f"study `{row.id}` is closed already")
        tx.execute(
            sa.update(state.studies).where(state.studies.c.digest == row.digest).values(open=False)
        )
        recipients.retire_study(tx, row.digest)
        delegations.end(tx, row.digest)
        tx.record(Kind.STUDY_CLOSED, row.digest)
        table = state.blueprints
        waiting = tx.all(
            sa.select(table.c.digest).where(
                table.c.study_digest == row.digest, table.c.state == "received"
            )
        )
    delegations.tidy(coordinator)
    staging.drop_dead(coordinator)
    destroyed = recipients.destroy_idle(coordinator)
    return Closed(
        study=row.id,
        digest=row.digest,
        recipient_keys_destroyed=destroyed,
        wait_for_intake=tuple(entry.digest for entry in waiting),
    )


def find_study(tx: Transaction, name: str) -> sa.Row[Any]:
    """Return the row of a study by id or digest.

    Raises:
        NotFoundError: there is none.
    """
    row = tx.one(
        sa.select(state.studies).where(
            (state.studies.c.id == name) | (state.studies.c.digest == name)
        )
    )
    if row is None:
        raise NotFoundError(
            f"no study `{canonical.printable(name)}`", hint="see `coordinator study list`"
        )
    return row


def list_studies(coordinator: Coordinator) -> list[tuple[Study, bool]]:
    """Return every study and whether it is open."""
    with coordinator.state.read() as tx:
        rows = tx.all(sa.select(state.studies).order_by(state.studies.c.id))
    return [(Study.from_bytes(row.manifest), row.open) for row in rows]


def row_of(tx: Transaction, site: str) -> sa.Row[Any]:
    """Return the row of a site, whatever its state.

    Raises:
        NotFoundError: no such site.
    """
    row = tx.one(sa.select(state.sites).where(state.sites.c.id == site))
    if row is None:
        raise NotFoundError(
            f"no site `{canonical.printable(site)}`", hint="see `coordinator sites list`"
        )
    return row


def site_of(tx: Transaction, row: sa.Row[Any]) -> Site:
    """Return a row as a typed site."""
    return Site(
        id=row.id,
        pseudonym=row.pseudonym,
        state=row.state,
        code=row.code,
        last_contact=row.last_contact,
        certificate_expires=_expiry(row.tls_chain),
        signing_certificate_expires=_expiry(row.signing_chain),
        authority=row.authority,
        alarm=_alarm(tx, row),
    )


def _alarm(tx: Transaction, row: sa.Row[Any]) -> str | None:
    """Return what somebody must look into before this site is invited again (A13)."""
    query = sa.select(state.log.c.leaf).where(state.log.c.subject == row.token_hash)
    for entry in tx.all(query):
        event = Event.from_leaf(entry.leaf)
        if event.kind is Kind.TOKEN_REUSED:
            return f"its enrolment token was used by two, on {event.time}"
    return None


def change(tx: Transaction, site: str, **values: Any) -> None:
    """Set columns of a site's row."""
    tx.execute(sa.update(state.sites).where(state.sites.c.id == site).values(**values))


def _expiry(chain: bytes | None) -> str | None:
    if not chain:
        return None
    moment: datetime = certificates.from_pem(chain)[0].not_valid_after_utc
    return clock.rfc3339(moment)
