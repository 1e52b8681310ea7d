"""A person's erasure and an immutable log go together."""

import dataclasses
import re

import pytest

from coordinator import audit, erasure, logbook, registry, reviews, revocation
from coordinator.errors import NotFoundError
from edge_agent import withdrawal
from federation.auditlog.events import Event
from federation.blueprint import approval
from federation.blueprint.approval import Decision
from federation.study import Study
from tests.fakes import site
from tests.fakes.records import publish, submit, take_in

REASON = "Dr. Zebedee Quillfeather saw the pseudo-patient of bed 14"
MARKS = (b"ebedee", b"uillfeather", b"bed 14", b"pseudo-patient")


def decide(federation, name, decision=Decision.APPROVE):
    with federation.open() as coordinator:
        return reviews.decide(
            coordinator,
            federation.digest(name),
            decision,
            reviewer_key=federation.reviewer(),
            reason=REASON,
        )


@pytest.fixture
def pending(enrolled):
    """Three blueprints that wait for review."""
    for name in site.LABELS:
        take_in(enrolled, submit(enrolled, name))
    return enrolled


def everything_happened(federation):
    """Plant a person's words wherever a service takes some."""
    decide(federation, "a")
    decide(federation, "b")
    decide(federation, "c", Decision.REJECT)
    publish(federation)
    with federation.serving():
        withdrawal.withdraw(
            federation.home("b"), site.STUDY, reason=REASON, now=site.clock.utc_now()
        )
    with federation.open() as coordinator:
        revocation.revoke(
            coordinator, federation.digest("a"), reviewer_key=federation.reviewer(), reason=REASON
        )
        registry.revoke_site(coordinator, "c")
        registry.close_study(coordinator, site.STUDY)


def test_no_leaf_holds_a_name_or_a_word_that_a_person_wrote(pending):
    everything_happened(pending)
    with pending.open() as coordinator:
        leaves = logbook.page(coordinator, 0)
        kinds = {Event.from_leaf(leaf).kind for leaf in leaves}
    assert len(kinds) >= 15
    for leaf in leaves:
        assert not any(mark in leaf for mark in MARKS)
        assert b"reviewer-1" not in leaf  # the identifier of a person
        for name in site.LABELS:  # sites appear under pseudonyms only
            assert f'"{name}"'.encode() not in leaf
        words = re.findall(rb'"([^"]*)"', leaf)
        assert all(re.fullmatch(rb"[a-z0-9._:TZ-]*", word) for word in words)


def test_a_reason_is_erased_and_log_quorum_and_receipts_stand(pending):
    decide(pending, "a")
    with pending.open() as coordinator:
        before = audit.verify(coordinator)
        row = approvals(coordinator)[0]
        assert row.reason == REASON
        assert approval.commitment(row.reason, row.salt).encode() in b"".join(
            logbook.page(coordinator, 0)
        )
        with pending.open() as beside, beside.write() as tx:  # as a running server has it
            tx.put("seen", "now")
            assert any(MARKS[0] in p.read_bytes() for p in pending.hub.glob("state.sqlite*"))
        done = erasure.erase_reviewer(coordinator, "reviewer-1")
        for path in pending.hub.glob("state.sqlite*"):
            assert not any(mark in path.read_bytes() for mark in MARKS), path
        assert dataclasses.astuple(done) == ("reviewer-1", 1, 1, (site.STUDY,))
        row = approvals(coordinator)[0]
        assert (row.reason, row.salt) == ("", b"")
        after = audit.verify(coordinator)
        assert (after.size, after.root) == (before.size, before.root)
        with coordinator.state.read() as tx:  # the quorum still holds
            study = registry.find_study(tx, site.STUDY)
            reviews.require_quorum(tx, row.blueprint, Study.from_bytes(study.manifest))
        assert erasure.erase_reviewer(coordinator, "reviewer-1").reasons_erased == 0
        with pytest.raises(NotFoundError, match="no reviewer `nobody`"):
            erasure.erase_reviewer(coordinator, "nobody")
    for path in pending.hub.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(mark in data for mark in MARKS), path


def approvals(coordinator):
    from coordinator import state

    with coordinator.state.read() as tx:
        return tx.all(state.approvals.select())
