"""Protobuf messages from typed answers: what the gRPC door sends, and what a stick carries."""

from typing import Any

from coordinator.contact import News, ReleaseOffer
from coordinator.enrolments import EnrolmentReply
from coordinator.logbook import Entry
from coordinator.submissions import Status
from protos import exchange_pb2 as pb


def enrol_reply(reply: EnrolmentReply) -> Any:
    """Return the message of an answer to an enrolment."""
    return pb.EnrolReply(
        confirmed=reply.confirmed,
        tls_chain=reply.tls_chain,
        signing_chain=reply.signing_chain,
        pseudonym=reply.pseudonym,
    )


def contact_reply(news: News) -> Any:
    """Return the message of an answer to a contact."""
    return pb.ContactReply(
        checkpoint=news.checkpoint,
        consistency=news.consistency,
        revocations=news.revocations,
        certificate_revocations=news.certificate_revocations,
        authority_revocations=news.authority_revocations,
        signing_chain=news.signing_chain,
        pseudonym_salt=news.pseudonym_salt,
        studies=[
            pb.StudyEntry(
                manifest=s.manifest,
                recipient_key=s.recipient_key,
                open=s.open,
                delegation=s.delegation,
            )
            for s in news.studies
        ],
        blueprints=[status(s) for s in news.blueprints],
        releases=[_release(offer) for offer in news.releases],
        bases=[_release(offer) for offer in news.bases],
        first_leaf=news.first_leaf,
        leaves=news.leaves,
        witnessed=news.witnessed,
        repository=[pb.RepositoryFile(name=name, data=data) for name, data in news.repository],
    )


def _release(offer: ReleaseOffer) -> Any:
    return pb.ReleaseEntry(
        envelope=offer.envelope,
        signing_chain=offer.signing_chain,
        withdrawn=offer.withdrawn,
        published=entry(offer.published),
        withdrawal=[entry(each) for each in offer.withdrawal],
        earlier=[entry(each) for each in offer.earlier],
    )


def status(found: Status) -> Any:
    """Return the message of one blueprint's state and receipts."""
    return pb.BlueprintStatus(
        digest=found.digest,
        study_digest=found.study_digest,
        state=found.state,
        reason=found.reason,
        entries=[entry(each) for each in found.entries],
    )


def entry(found: Entry) -> Any:
    """Return the message of a log entry with its receipt."""
    return pb.LogEntry(leaf=found.leaf, receipt=found.receipt)
