"""Reading the whole log for this site's own name: what is there that the site did not do (A1).

Pure rules over the log's leaves, which the caller has checked against the signed root: no entry can
be hidden from them. A site's names are its pseudonym, derived from the salt that the log commits
to, and any under which its own enrolment stands.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_agent.acts import Acts
from edge_agent.errors import TrustError
from federation.auditlog import pseudonyms
from federation.auditlog.events import Event, Kind, read_leaf
from kit import canonical
from pki.identity import Identity

# What is explained once this site enrolled again by its own hand, later in the log.
_BEFORE_ENROLMENT = (
    Kind.TOKEN_ISSUED,
    Kind.TOKEN_REUSED,
    Kind.SITE_REVOKED,
    Kind.READMISSION_RECORDED,
)
_WORDS = {
    Kind.TOKEN_ISSUED: "somebody was invited under this site's name",
    Kind.TOKEN_REUSED: "this site's enrolment token was used by somebody else as well",
    Kind.SITE_REQUESTED: "somebody asked for an enrolment under this site's name",
    Kind.SITE_CONFIRMED: "certificates in this site's name were issued for keys that are not here",
    Kind.SITE_REVOKED: "this site was shut out",
    Kind.READMISSION_RECORDED: "a reviewer agreed to another enrolment under this site's name",
    Kind.WITNESS_REGISTERED: "another witness key was registered under this site's name",
    Kind.CERTIFICATE_RENEWED: "a TLS certificate of this site was renewed for a key not made here",
    Kind.SIGNING_KEY_RENEWED: "this site's signing key was replaced by one not made here",
    Kind.BLUEPRINT_RECEIVED: "a blueprint was submitted in this site's name, but not from here",
    Kind.BLUEPRINT_REVOKED: "a blueprint was withdrawn in this site's name, but not from here",
    Kind.METRICS_REPORTED: "metrics were sent in this site's name, but not from here",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One log entry about this site that it did not cause."""

    entry: int
    time: str
    event: str
    subject: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """By what a site knows itself in the log; `witness` is its public witness key."""

    identity: Identity
    witness: bytes
    salt: bytes
    acts: Acts


def alarms(leaves: Sequence[bytes], own: Own) -> list[Alarm]:
    """Return every entry from `own.acts.since` on that names this site and is not its doing.

    Raises:
        TrustError: the salt of the pseudonyms is not the one that the log commits to.
        FormatError: a leaf is not one.
    """
    names = _names(leaves, own)
    found, enrolled = [], -1
    for index, leaf in _naming(leaves, names):
        event = read_leaf(leaf)
        if event is None:
            found.append(_unknown(index, leaf))
            continue
        if event.kind is Kind.SITE_REQUESTED and event.subject in own.acts.digests:
            enrolled = index
        if index >= own.acts.since and not _is_own_doing(event, names, own):
            found.append(_alarm(index, event))
    return [a for a in found if a.entry > enrolled or a.event not in _BEFORE_ENROLMENT]


def _names(leaves: Sequence[bytes], own: Own) -> frozenset[str]:
    """Return the pseudonyms that stand for this site."""
    names = {pseudonyms.pseudonym(own.salt, own.identity.uri)}
    salted, registered = str(Kind.PSEUDONYMS_SALTED).encode(), own.witness.hex().encode()
    commitment = None
    for leaf in leaves:
        if commitment is None and salted in leaf:
            event = read_leaf(leaf)
            if event is not None and event.kind is Kind.PSEUDONYMS_SALTED:
                commitment = event.subject  # the first one counts, and it is there for good
        if registered in leaf:
            event = read_leaf(leaf)
            if event is not None and event.kind is Kind.WITNESS_REGISTERED:
                names.add(str(event.details.get("site", "")))
    if commitment is not None and canonical.digest(own.salt) != commitment:
        raise TrustError(
            "the coordinator gives this site another salt of pseudonyms than its log commits to",
            hint="entries about this site could be hidden so; ask the coordinator's auditor",
        )
    return frozenset(names - {""})


def _naming(leaves: Sequence[bytes], names: frozenset[str]) -> Iterator[tuple[int, bytes]]:
    marks = [name.encode() for name in names]
    for index, leaf in enumerate(leaves):
        if any(mark in leaf for mark in marks):
            yield index, leaf


def _is_own_doing(event: Event, names: frozenset[str], own: Own) -> bool:
    done, details = own.acts.digests, event.details
    if event.kind in (Kind.TOKEN_ISSUED, Kind.SITE_REQUESTED, Kind.WITNESS_REGISTERED):
        return event.subject in done
    if event.kind in (Kind.SITE_CONFIRMED, Kind.CERTIFICATE_RENEWED, Kind.SIGNING_KEY_RENEWED):
        return details.get("request") in done
    if event.kind in (Kind.BLUEPRINT_RECEIVED, Kind.METRICS_REPORTED) and event.actor in names:
        return event.subject in done
    if event.kind is Kind.BLUEPRINT_REVOKED and event.actor in names:
        return details.get("order") in done
    return event.kind not in _WORDS or (event.actor != "coordinator" and event.actor not in names)


def _alarm(index: int, event: Event) -> Alarm:
    return Alarm(
        entry=index,
        time=event.time,
        event=str(event.kind),
        subject=event.subject,
        words=_WORDS[event.kind],
    )


def _unknown(index: int, leaf: bytes) -> Alarm:
    table = canonical.decode(leaf)
    return Alarm(
        entry=index,
        time=str(table["time"]),
        event=canonical.printable(table["kind"]),
        subject=canonical.printable(table.get("subject", "")),
        words="an entry about this site that this version of the kit cannot read",
    )
