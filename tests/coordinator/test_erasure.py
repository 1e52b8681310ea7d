"""A person's erasure and an immutable log go together."""

import dataclasses
import re

import pytest
import sqlalchemy as sa

from coordinator import (
    audit,
    enrolments,
    erasure,
    logbook,
    readmission,
    registry,
    reviews,
    revocation,
    state,
)
from coordinator.errors import NotFoundError
from edge_agent import withdrawal
from federation.auditlog.events import Event
from federation.blueprint import approval
from federation.blueprint.approval import Decision
from federation.study import Study
from kit.errors import KitError
from tests.fakes import site, states
from tests.fakes.records import publish, submit, take_in

pytestmark = pytest.mark.both_states

REASON = "Dr. Zebedee Quillfeather saw the pseudo-patient of bed 14"
READMISSION = "Prof. Ottoline Brackenbury vouches for the new machine"
READMISSION_MARKS = (b"ttoline", b"rackenbury", b"new machine")
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
        registry.revoke_site(coordinator, "c")
        key = pending.reviewer()
        readmission.readmit(coordinator, "c", reviewer_key=key, reason=READMISSION)
        before = audit.verify(coordinator)
        row = approvals(coordinator)[0]
        assert row.reason == REASON
        assert approval.commitment(row.reason, row.salt).encode() in b"".join(
            logbook.page(coordinator, 0)
        )
        with pending.open() as beside, beside.write() as tx:  # as a running server has it
            tx.put("seen", "now")
            for mark in (*MARKS, *READMISSION_MARKS):  # the positive control
                assert any(mark in data for data in states.live_files(pending.hub)), mark
        done = erasure.erase_reviewer(coordinator, "reviewer-1")
        for data in states.live_files(pending.hub):
            assert not any(mark in data for mark in (*MARKS, *READMISSION_MARKS))
        assert dataclasses.astuple(done) == ("reviewer-1", 2, 1, (site.STUDY,))
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
            assert not any(mark in data for mark in (*MARKS, *READMISSION_MARKS)), path
    with pending.open() as coordinator:  # the consent still stands: it is a signature, not words
        assert enrolments.issue_token(coordinator, "c").site == "c"


def test_the_words_behind_a_sites_own_orders_are_erased_and_the_orders_stand(pending):
    home, now = pending.home("b"), site.clock.utc_now()
    with pending.serving():
        withdrawal.withdraw(home, site.STUDY, reason=REASON, now=now)
    digest = pending.digest("b")
    for mark in MARKS:  # the positive control
        assert any(mark in data for data in contents(home.path)), mark
    orders = [p.read_bytes() for p in (home.path / "withdrawals").glob("*.dsse.json")]
    with pytest.raises(KitError, match="names 0 blueprints"):
        withdrawal.erase_words(home, "0" * 64)
    assert withdrawal.erase_words(home, digest[:12]).reasons_erased == 1
    for data in contents(home.path):
        assert not any(mark in data for mark in MARKS)
    assert withdrawal.erase_words(home, digest).reasons_erased == 0  # twice changes nothing
    assert orders == [p.read_bytes() for p in (home.path / "withdrawals").glob("*.dsse.json")]
    with pending.serving() as coordinator:
        assert {s.state for s in site.visit(home).blueprints} == {"revoked"}
        assert audit.verify(coordinator)


def contents(folder):
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def test_every_table_with_words_of_a_person_is_one_that_erasure_knows():
    """A new column of free text has to be thought about here."""
    free = {
        f"{table.name}.{column.name}"
        for table in state.metadata.sorted_tables
        for column in table.columns
        if "reason" in column.name or isinstance(column.type, sa.Text)
    }
    erased = {"approvals.reason", "readmissions.reason"}
    no_persons = {
        "blueprints.reason",  # the kit's own words, or those of a check
        "certificates.reason",  # RFC 5280's names
        "authorities.sites",
        "blueprints.support",  # numbers by class
        "studies.tables",
        "releases.card",  # numbers and class names
        "builds.result",  # likewise
        "build_events.details",  # likewise, and the kit's own words
        "review_aids.findings",  # likewise
        "review_aids.compared_with",  # digests
        "sketches.sketch",  # bits by class
    }
    assert free == erased | no_persons


def approvals(coordinator):
    with coordinator.state.read() as tx:
        return tx.all(state.approvals.select())
