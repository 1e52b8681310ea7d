"""A3: a signature says what somebody wants now: an old one neither adds up nor comes back."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from coordinator import audit, restoration, reviews, revocation, state
from coordinator.errors import StateError
from edge_agent import submission, withdrawal
from federation.release.statement import RESTORATION_TYPE, WITHDRAWAL_TYPE, sign
from kit import canonical, clock
from kit.errors import FormatError
from pki import keys
from tests.fakes import runs, site

STUDY = "two"


@pytest.fixture(scope="module")
def second():
    """The key of the study's second reviewer."""
    return keys.new_signing_key()


@pytest.fixture
def two(enrolled, second, monkeypatch):
    """A blueprint of `a` that waits for a quorum of two, with three days to undo a revocation."""
    path = enrolled.hub / "config.toml"
    text = path.read_text()
    assert "revocation_grace_hours = 0" in text
    path.write_text(text.replace("revocation_grace_hours = 0", "revocation_grace_hours = 72"))
    names = {"reviewer-1": enrolled.reviewer(), "reviewer-2": second}
    people = tuple(f"{name}={keys.public_bytes(key).hex()}" for name, key in names.items())
    with enrolled.serving() as coordinator:
        study = site.create_study(coordinator, name=STUDY, quorum=2, reviewers=people)
        site.visit(enrolled.home("a"))
        runs.write_run(enrolled.home("a"), study, site.LABELS["a"], name=STUDY)
        site.submit(enrolled.home("a"), STUDY)
        site.wait_for(lambda: site.settled(enrolled))
    return enrolled


def revoke(federation, coordinator, key):
    digest = federation.digest("a")
    return revocation.revoke(coordinator, digest, reviewer_key=key, reason="a suspicion").done


def restore(federation, coordinator, key):
    digest = federation.digest("a")
    return restoration.restore(coordinator, digest, reviewer_key=key, reason="it was none").done


def order(federation, kind=WITHDRAWAL_TYPE, *, ahead=timedelta(0)):
    """An order of site `a` about its blueprint, signed at its own time, with its chain."""
    home = federation.home("a")
    envelope = withdrawal.signed_order(
        home,
        federation.digest("a"),
        home.study(STUDY).digest,
        reason="asked",
        now=clock.utc_now() + ahead,
        kind=kind,
    )
    return envelope, submission.signing_chain(home)


def send(coordinator, word):
    return revocation.withdraw(coordinator, "a", *word)


def test_a3_a_reviewers_record_counts_for_thirty_days_and_is_signed_anew(two, second):
    first = two.reviewer()
    with two.open() as coordinator:
        assert not revoke(two, coordinator, first)
        with pytest.raises(StateError, match="decided to revoke this blueprint before"):
            revoke(two, coordinator, first)
    with two.open(ahead=timedelta(days=31)) as coordinator:
        assert not revoke(two, coordinator, second)  # alone by now
        assert two.states()["a"] == "pending"
        assert revoke(two, coordinator, first)
        assert two.states()["a"] == "revoked"
        assert audit.verify(coordinator)


def test_a3_an_expired_record_of_an_undo_does_not_count_either(two, second):
    path = two.hub / "config.toml"
    text = path.read_text()
    path.write_text(text.replace("revocation_grace_hours = 72", "revocation_grace_hours = 1440"))
    with two.open() as coordinator:
        assert [revoke(two, coordinator, key) for key in (two.reviewer(), second)] == [False, True]
        assert not restore(two, coordinator, two.reviewer())
    with two.open(ahead=timedelta(days=31)) as coordinator:
        assert not restore(two, coordinator, second)
        assert two.states()["a"] == "revoked"
        assert restore(two, coordinator, two.reviewer())
        assert two.states()["a"] == "pending"


def test_a3_half_a_quorum_ends_with_a_sites_undo(two, second):
    with two.open() as coordinator:
        assert not revoke(two, coordinator, two.reviewer())
        send(coordinator, order(two))
        assert two.states()["a"] == "revoked"
        send(coordinator, order(two, RESTORATION_TYPE))
        assert two.states()["a"] == "pending"
        assert not revoke(two, coordinator, second)
        assert two.states()["a"] == "pending"
        [shown] = [r for r in reviews.list_reviews(coordinator) if r.site == "a"]
        assert [said.split(":")[0] for said in shown.decisions] == ["reviewer-2"]
        assert revoke(two, coordinator, two.reviewer())
        assert audit.verify(coordinator)


def test_a3_an_order_that_did_nothing_does_nothing_later(two, second):
    """A replay by whoever kept it: over a stolen session, or from an old stick."""
    reviewers = (two.reviewer(), second)
    with two.open() as coordinator:
        early = order(two, RESTORATION_TYPE)
        with pytest.raises(StateError, match="is pending, not revoked"):
            send(coordinator, early)
        send(coordinator, order(two, ahead=timedelta(seconds=1)))
        send(coordinator, early)  # counted once
        assert two.states()["a"] == "revoked"
        send(coordinator, order(two, RESTORATION_TYPE, ahead=timedelta(seconds=2)))
        assert two.states()["a"] == "pending"
        assert [revoke(two, coordinator, key) for key in reviewers] == [False, True]
        while_revoked = order(two, ahead=timedelta(seconds=3))
        send(coordinator, while_revoked)
        with pytest.raises(StateError, match="its site withdrew it as well"):
            restore(two, coordinator, second)
        with pytest.raises(StateError, match="a quorum of reviewers revoked it"):
            send(coordinator, order(two, RESTORATION_TYPE, ahead=timedelta(seconds=4)))
        assert [restore(two, coordinator, key) for key in reviewers] == [False, True]
        send(coordinator, while_revoked)
        assert two.states()["a"] == "pending"
        send(coordinator, order(two, ahead=timedelta(seconds=5)))
        assert two.states()["a"] == "revoked"
        assert audit.verify(coordinator)
        table = state.papers
        with coordinator.write() as tx:  # an order that the site never signed
            payload = revocation.ordered(early[0]).to_bytes()
            forged = sign(payload, RESTORATION_TYPE, second, early[1][0])
            values = {"envelope": forged, "digest": canonical.digest(forged)}
            kept = table.c.digest == canonical.digest(early[0])
            assert tx.execute(sa.update(table).where(kept).values(values)).rowcount == 1
        with pytest.raises(StateError, match=r"restoration of .* is not the one on the log"):
            audit.verify(coordinator)


def test_a3_the_last_word_that_a_site_signed_counts(two):
    """By its own clock, in whichever order they come, and none from the future."""
    with two.open() as coordinator:
        held = order(two)
        held_undo = order(two, RESTORATION_TYPE, ahead=timedelta(seconds=1))
        with pytest.raises(FormatError, match="yet to come"):
            send(coordinator, order(two, RESTORATION_TYPE, ahead=timedelta(minutes=20)))
        send(coordinator, order(two, ahead=timedelta(seconds=2)))
        with pytest.raises(StateError, match=r"the withdrawal of .* counts"):
            send(coordinator, held_undo)
        assert two.states()["a"] == "revoked"
        send(coordinator, order(two, RESTORATION_TYPE, ahead=timedelta(seconds=3)))
        with pytest.raises(StateError, match=r"the undoing of .* counts"):
            send(coordinator, held)
        assert two.states()["a"] == "pending"
        send(coordinator, order(two, ahead=timedelta(seconds=4)))
        assert two.states()["a"] == "revoked"
