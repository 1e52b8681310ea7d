"""Signed papers about a blueprint: kept as they came, and named in the log by their digest.

Outbound approvals and the officers' keys, withdrawal orders: what an auditor asks for when the log
says that somebody signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from cryptography import x509

from coordinator import callers, state
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError
from coordinator.state import Transaction
from federation import dsse
from federation.blueprint.outbound import PAYLOAD_TYPE, Officer, Outbound
from federation.blueprint.statement import Statement
from federation.release.statement import RESTORATION_TYPE, WITHDRAWAL_TYPE, Withdrawal
from federation.study import Study
from kit import canonical
from kit.errors import FormatError, KitError
from pki import certificates, identity, keys


class Paper(StrEnum):
    """What a paper is."""

    OUTBOUND = "outbound"
    OFFICER = "officer"
    WITHDRAWAL = "withdrawal"
    RESTORATION = "restoration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The papers that came with a statement; empty where the study demands none."""

    outbound: bytes = b""
    officer: bytes = b""


NOTHING: Given = Given()


def check_outbound(
    coordinator: Coordinator,
    statement: Statement,
    study: Study,
    chain: Sequence[x509.Certificate],
    given: Given,
) -> None:
    """Check that a second person at the site let a blueprint leave, where the study demands it.

    Raises:
        NotAllowedError: the study demands it, and nothing came.
        FormatError: what came is not that, or the site does not vouch for the key.
        IdentityError: a signature or certificate does not hold.
    """
    if not study.safeguards.outbound_approval:
        if given != NOTHING:
            raise FormatError("this study asks for no outbound approval")
        return
    if not given.outbound or not given.officer:
        raise NotAllowedError(
            "this study wants a second person's signature at the site on what leaves",
            hint="an officer looks and signs: `edge-agent inspect --sign KEY`",
        )
    site = identity.Identity.parse(statement.context.sender)
    key = Officer.verify(
        given.officer,
        chain,
        site=site,
        root=callers.root_of(coordinator, site.name),
        now=coordinator.now(),
    )
    Outbound.verify(given.outbound, officers=[key], blueprint=statement.digest, study=study.digest)


def keep_given(
    tx: Transaction, blueprint: str, given: Given, chain: Sequence[x509.Certificate]
) -> None:
    """Keep what came with a statement."""
    if given != NOTHING:
        keep(tx, blueprint, Paper.OUTBOUND, given.outbound, chain=b"")
        keep(tx, blueprint, Paper.OFFICER, given.officer, chain=certificates.pem(*chain))


def keep(tx: Transaction, blueprint: str, kind: Paper, envelope: bytes, *, chain: bytes) -> None:
    """Keep one paper, once."""
    digest = canonical.digest(envelope)
    table = state.papers
    if tx.one(sa.select(table.c.digest).where(table.c.digest == digest)) is None:
        tx.execute(
            sa.insert(table).values(
                digest=digest, blueprint=blueprint, kind=kind, envelope=envelope, chain=chain
            )
        )


def of(tx: Transaction, blueprint: str, kind: Paper) -> list[sa.Row[Any]]:
    """Return a blueprint's papers of one kind."""
    table = state.papers
    return tx.all(sa.select(table).where(table.c.blueprint == blueprint, table.c.kind == kind))


def has(tx: Transaction, envelope: bytes) -> bool:
    """Say whether a paper was kept before: it counted then, whatever it did, and once is enough."""
    table = state.papers
    digest = canonical.digest(envelope)
    return tx.one(sa.select(table.c.digest).where(table.c.digest == digest)) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """An order of a site that was kept; `time` is by the site's own clock."""

    time: str
    is_undo: bool


def last_word(tx: Transaction, blueprint: str, site: str) -> Word | None:
    """Return the last order that a site signed about a blueprint, whatever it did."""
    words = [
        Word(time=_time_of(row.envelope), is_undo=kind is Paper.RESTORATION)
        for kind in (Paper.WITHDRAWAL, Paper.RESTORATION)
        for row in of(tx, blueprint, kind)
        if _is_from(tx, row.envelope, site)
    ]
    return max(words, key=lambda word: (word.time, word.is_undo), default=None)


def is_signed_order(row: sa.Row[Any]) -> bool:
    """Say whether a kept paper is an order about its blueprint, signed by the key kept with it."""
    kinds = {Paper.WITHDRAWAL: WITHDRAWAL_TYPE, Paper.RESTORATION: RESTORATION_TYPE}
    try:
        parsed = dsse.parse(row.envelope, kinds[Paper(row.kind)])
        leaf = certificates.from_pem(row.chain)[0]
        key = keys.verifying_key(keys.public_bytes(leaf.public_key()))  # type: ignore[arg-type]
        order = Withdrawal.from_bytes(dsse.verify(parsed, key))
    except (KeyError, KitError):
        return False
    return parsed.keyid == certificates.fingerprint(leaf) and order.blueprint == row.blueprint


def was_withdrawn(tx: Transaction, blueprint: str, site: str) -> bool:
    """Say whether a site took a blueprint back before it arrived here."""
    found = of(tx, blueprint, Paper.WITHDRAWAL)
    return any(_is_from(tx, row.envelope, site) for row in found)


def _is_from(tx: Transaction, envelope: bytes, site: str) -> bool:
    table = state.certificates
    signer = canonical.decode(envelope)["signatures"][0]["keyid"]
    held = (table.c.fingerprint == signer) & (table.c.holder == site)
    return tx.one(sa.select(table.c.fingerprint).where(held)) is not None


def _time_of(envelope: bytes) -> str:
    kind = canonical.decode(envelope)["payloadType"]
    return Withdrawal.from_bytes(dsse.parse(envelope, kind).payload).time


def logged(tx: Transaction, blueprint: str) -> dict[str, str]:
    """Return what the log says of a received blueprint's approval: the record and whose key."""
    details = {}
    for row in of(tx, blueprint, Paper.OUTBOUND):
        details = {"outbound": row.digest, "officer": dsse.parse(row.envelope, PAYLOAD_TYPE).keyid}
    return details


def forget(tx: Transaction, blueprint: str) -> None:
    """Drop the papers of an upload that was given up."""
    tx.execute(sa.delete(state.papers).where(state.papers.c.blueprint == blueprint))
