"""A3: revocation is no weapon: every site hears of it while whoever made it can undo it."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from coordinator import audit, logbook, releases, restoration, reviews, revocation, state
from coordinator.errors import StateError
from edge_agent import contact, inspection, withdrawal
from edge_agent.exchange import Exchange
from federation.auditlog.events import Kind
from federation.release.statement import RESTORATION_TYPE, Withdrawal, sign
from kit import clock
from kit.errors import KitError
from pki import certificates, keys
from tests.fakes import site


@pytest.fixture
def graceful(released):
    """The released federation, with two days between a revocation and the shredding."""
    path = released.hub / "config.toml"
    text = path.read_text()
    assert "revocation_grace_hours = 0" in text
    path.write_text(text.replace("revocation_grace_hours = 0", "revocation_grace_hours = 48"))
    return released


def revoke(federation, coordinator, name="c"):
    key = federation.reviewer()
    digest = federation.digest(name)
    return revocation.revoke(coordinator, digest, reviewer_key=key, reason="a stolen session")


def restore(federation, coordinator, name="c", key=None):
    key = key or federation.reviewer()
    digest = federation.digest(name)
    return restoration.restore(coordinator, digest, reviewer_key=key, reason="it was no one of us")


def status(home):
    return inspection.status(home, now=clock.utc_now())


def test_a3_every_site_is_alarmed_and_a_quorum_undoes_a_revocation(graceful, capsys):
    mine, other = graceful.home("c"), graceful.home("a")
    digest = graceful.digest("c")
    with graceful.serving() as coordinator:
        [before] = releases.list_releases(coordinator)
        assert status(other).alarms == ()
        revoke(graceful, coordinator)
        [alarm] = status(other).alarms
        assert digest[:16] in alarm
        assert "a quorum of reviewers" in alarm
        assert f"alarm: {alarm}" in capsys.readouterr().err
        assert status(mine).alarms == (f"your {alarm}",)
        with pytest.raises(KitError, match="nobody on the study's list"):
            restore(graceful, coordinator, key=keys.new_signing_key())
        done = restore(graceful, coordinator)
        assert (done.done, done.state, done.releases) == (True, "approved", (before.digest,))
        with pytest.raises(StateError, match="is approved, not revoked"):
            restore(graceful, coordinator)
        for home in (mine, other):
            standing = status(home)
            assert standing.alarms == ()
            assert [r["withdrawn"] for r in standing.releases] == [False]
        assert [b["state"] for b in status(mine).blueprints] == ["approved"]
        assert audit.verify(coordinator)
        kinds = [e.kind for e in logbook.events(coordinator) if e.subject == digest]
    assert kinds[-4:] == [
        Kind.BLUEPRINT_REVOKED,
        Kind.APPROVAL_RECORDED,
        Kind.BLUEPRINT_RESTORED,
        Kind.BLUEPRINT_APPROVED,
    ]
    again = site.build(graceful)
    assert (again.release, again.shards_generated) == (before.digest, 0)


def test_a3_what_was_undone_can_be_revoked_again_and_old_signatures_do_not_count(graceful):
    with graceful.open() as coordinator:
        for _ in range(2):
            assert revoke(graceful, coordinator).done
            assert restore(graceful, coordinator).done
        digest = graceful.digest("c")
        with coordinator.state.read() as tx:
            rows = tx.all(sa.select(state.approvals).where(_of(digest)))
        assert sorted(row.decision for row in rows)[0] == "approve"
        assert len(rows) == 5
        assert graceful.states()["c"] == "approved"
        assert revoke(graceful, coordinator).done
        assert audit.verify(coordinator)


def _of(digest):
    return state.approvals.c.blueprint == digest


def test_a3_after_the_grace_period_nothing_is_left_to_undo(graceful):
    with graceful.open() as coordinator:
        revoke(graceful, coordinator)
    with graceful.open(ahead=timedelta(hours=49)) as coordinator:
        with pytest.raises(StateError, match="grace period"):
            restore(graceful, coordinator)
        revocation.destroy_due(coordinator)
        with pytest.raises(StateError, match="grace period"):
            restore(graceful, coordinator)
    with graceful.open(ahead=timedelta(hours=47)) as coordinator:
        assert graceful.states()["c"] == "revoked"
        assert reviews.show(coordinator, graceful.digest("a")).state == "approved"


def test_a3_a_site_undoes_its_own_withdrawal_and_nobody_else_does(graceful):
    home, other = graceful.home("c"), graceful.home("a")
    now = clock.utc_now()
    with graceful.serving() as coordinator:
        withdrawal.withdraw(home, site.STUDY, reason="asked", now=now)
        [alarm] = status(other).alarms
        assert "its site" in alarm
        with pytest.raises(StateError, match="its site withdrew it"):
            restore(graceful, coordinator)
        with Exchange.open(other) as exchange, pytest.raises(KitError, match="no such blueprint"):
            exchange.withdraw(*order(other, graceful.digest("c"), home))
        done = withdrawal.undo(home, site.STUDY, reason="a mistake", now=clock.utc_now())
        assert done.state == "approved"
        assert status(other).alarms == ()
        assert audit.verify(coordinator)
        with pytest.raises(KitError, match="nothing of this site is revoked"):
            withdrawal.undo(home, site.STUDY, reason="again", now=clock.utc_now())
        revoke(graceful, coordinator)
        with pytest.raises(KitError, match="a quorum of reviewers revoked it"):
            withdrawal.undo(home, site.STUDY, reason="not mine", now=clock.utc_now())
        assert graceful.states()["c"] == "revoked"


def order(signer, digest, owner):
    """An undo of another site's withdrawal, as `signer` would write it."""
    chain = certificates.from_pem(signer.signing_chain.read_bytes())
    paper = Withdrawal(
        blueprint=digest,
        study_digest=owner.study(site.STUDY).digest,
        reason_commitment="0" * 64,
        time=clock.rfc3339(clock.utc_now()),
    )
    key = keys.load_signing(signer.key("signing.key"))
    return sign(paper.to_bytes(), RESTORATION_TYPE, key, chain[0]), certificates.pem(*chain)


def test_a3_a_blueprint_leaves_the_list_only_by_a_logged_undo(graceful):
    """A coordinator that drops a revocation without an entry for it is caught at any site."""
    home = graceful.home("a")
    with graceful.serving() as coordinator:
        revoke(graceful, coordinator)
        site.visit(home)
        table = state.blueprints
        with coordinator.write() as tx:
            tx.execute(
                sa.update(table)
                .where(table.c.digest == graceful.digest("c"))
                .values(state="approved")
            )
            releases.change_revocations(tx)
        with pytest.raises(KitError, match="missing from the revocation list"):
            site.visit(home)
        with coordinator.write() as tx:
            tx.execute(
                sa.update(table)
                .where(table.c.digest == graceful.digest("c"))
                .values(state="revoked")
            )
            releases.change_revocations(tx)
        assert contact.alarms(site.visit(home).log, now=clock.utc_now())
