"""Protobuf messages to typed answers and back: what the wire brings, and what a stick carries."""

from dataclasses import dataclass
from typing import Any

from edge_agent.trust import Entry, News, ReleaseNews, StatusNews, StudyNews
from protos import exchange_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolReply:
    """Certificates (PEM, leaf first) once a person confirmed the code."""

    confirmed: bool
    tls_chain: bytes
    signing_chain: bytes
    pseudonym: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What goes before a payload: the signed statement and what proves it."""

    study_digest: str
    envelope: bytes
    signing_chain: bytes
    wrapped_key: bytes
    outbound: bytes = b""
    officer: bytes = b""


def enrol_request(asked: Any) -> Any:
    """Return the message that asks for an enrolment, but for the token's secret."""
    return pb.EnrolRequest(
        tls_request=asked.tls_request,
        signing_request=asked.signing_request,
        witness_key=asked.witness_key,
        tls_chain=asked.tls_chain,
        signing_chain=asked.signing_chain,
    )


def enrol_reply(reply: Any) -> EnrolReply:
    """Return the answer to an enrolment."""
    return EnrolReply(
        confirmed=reply.confirmed,
        tls_chain=reply.tls_chain,
        signing_chain=reply.signing_chain,
        pseudonym=reply.pseudonym,
    )


def begin_request(announcement: Announcement) -> Any:
    """Return the message that opens an upload."""
    return pb.BeginRequest(
        study_digest=announcement.study_digest,
        envelope=announcement.envelope,
        signing_chain=announcement.signing_chain,
        wrapped_key=announcement.wrapped_key,
        outbound=announcement.outbound,
        officer=announcement.officer,
    )


def news(reply: Any) -> News:
    """Return the answer to a contact; nothing in it is verified yet."""
    return News(
        checkpoint=reply.checkpoint,
        consistency=tuple(reply.consistency),
        revocations=reply.revocations,
        certificate_revocations=reply.certificate_revocations,
        authority_revocations=reply.authority_revocations,
        signing_chain=reply.signing_chain,
        pseudonym_salt=reply.pseudonym_salt,
        studies=tuple(
            StudyNews(
                manifest=s.manifest,
                recipient_key=s.recipient_key,
                open=s.open,
                delegation=s.delegation,
            )
            for s in reply.studies
        ),
        blueprints=tuple(status(s) for s in reply.blueprints),
        releases=tuple(
            ReleaseNews(
                envelope=r.envelope,
                signing_chain=r.signing_chain,
                withdrawn=r.withdrawn,
                published=logged(r.published),
                withdrawal=tuple(logged(e) for e in r.withdrawal),
                earlier=tuple(logged(e) for e in r.earlier),
            )
            for r in (*reply.releases, *reply.bases)
        ),
        first_leaf=reply.first_leaf,
        leaves=tuple(reply.leaves),
        witnessed=tuple(reply.witnessed),
        repository=tuple((file.name, file.data) for file in reply.repository),
    )


def status(reply: Any) -> StatusNews:
    """Return what the coordinator says of one blueprint; nothing in it is verified yet."""
    return StatusNews(
        digest=reply.digest,
        study_digest=reply.study_digest,
        state=reply.state,
        reason=reply.reason,
        entries=tuple(logged(entry) for entry in reply.entries),
    )


def logged(entry: Any) -> Entry:
    """Return a log entry; nothing in it is verified yet."""
    return Entry(leaf=entry.leaf, receipt=entry.receipt)
