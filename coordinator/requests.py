"""Messages to service calls: one reading of each, whichever door it came through.

A field that a message gains is read here once, so that no door forgets it.
"""

from datetime import timedelta
from typing import Any

from coordinator import contact as contacts
from coordinator import logbook, papers, rekeying, revocation, site_metrics, submissions
from coordinator.contact import News
from coordinator.context import Coordinator
from coordinator.logbook import Entry
from coordinator.submissions import Progress
from federation.rekey import MAX_AGE
from pki import certificates


def contact(coordinator: Coordinator, site: str, request: Any) -> News:
    """Answer `ContactRequest`; raises as `coordinator.contact.contact`."""
    size, first, versions = request.known_size, request.first_leaf, dict(request.repository)
    return contacts.contact(coordinator, site, size, first, versions)


def cosign(
    coordinator: Coordinator, site: str, request: Any, *, oldest: timedelta = logbook.CLOCK_SLACK
) -> None:
    """Take `CosignRequest`; raises as `coordinator.logbook.take_cosignature`."""
    logbook.take_cosignature(coordinator, site, request.size, request.signature, oldest=oldest)


def renew(coordinator: Coordinator, site: str, request: Any) -> bytes:
    """Take `RenewRequest`; raises as `coordinator.rekeying.renew`."""
    return rekeying.renew(coordinator, site, request.tls_request)


def rekey(
    coordinator: Coordinator, site: str, request: Any, *, oldest: timedelta = MAX_AGE
) -> bytes:
    """Take `RekeyRequest`; raises as `coordinator.rekeying.rekey`."""
    order, chain = request.order, request.signing_chain
    return rekeying.rekey(coordinator, site, order, chain, oldest=oldest)


def begin(coordinator: Coordinator, site: str, request: Any) -> Progress:
    """Take `BeginRequest`; raises as `coordinator.submissions.begin`."""
    return submissions.begin(
        coordinator,
        site,
        study_digest=request.study_digest,
        envelope=request.envelope,
        signing_chain=request.signing_chain,
        wrapped_key=request.wrapped_key,
        given=papers.Given(outbound=request.outbound, officer=request.officer),
    )


def report(coordinator: Coordinator, site: str, request: Any) -> Entry:
    """Take `ReportRequest`; raises as `coordinator.site_metrics.take`."""
    chain = certificates.from_pem(request.signing_chain)
    return site_metrics.take(coordinator, site, request.envelope, chain)


def withdraw(coordinator: Coordinator, site: str, request: Any) -> str:
    """Take `WithdrawRequest`; raises as `coordinator.revocation.withdraw`."""
    chain = certificates.from_pem(request.signing_chain)
    return revocation.withdraw(coordinator, site, request.envelope, chain)
