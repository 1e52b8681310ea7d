"""Re-send: a payload that was lost is sent again, and the privacy ledger does not notice."""

import shutil

import pytest

from coordinator import payloads, reviews, revocation
from coordinator.errors import StateError
from edge_agent import copies, outbox, submission, withdrawal
from edge_agent import runs as agent_runs
from federation.blueprint.approval import Decision
from kit import clock
from kit.errors import KitError
from tests.fakes import runs, site


def lose_weights(home, run=site.STUDY):
    """Delete what was learnt from patients, as a careful site does once it is sent."""
    shutil.rmtree(home.run(run))


def ledger_counter(home):
    with agent_runs.open_ledger(home) as ledger:
        return ledger.head()


def lose_payload(federation, coordinator, name):
    digest = federation.digest(name)
    site.payload_file(coordinator, digest).unlink()
    payloads.keystore(coordinator).destroy(payloads.BLUEPRINT, digest)
    return digest


def test_resend_a_payload_lost_at_the_coordinator_comes_again_without_charge(pending):
    home = pending.home("a")
    before = ledger_counter(home)
    weights = submission.outgoing(home, site.STUDY).weights.read_bytes()
    lose_weights(home)
    with pending.serving() as coordinator:
        digest = lose_payload(pending, coordinator, "a")
        with pytest.raises(StateError, match="is here and whole"):
            reviews.report_lost(coordinator, pending.digest("b"))
        lost = reviews.report_lost(coordinator, digest)
        assert (lost.state, lost.reason) == ("refused", reviews.LOST)
        with pytest.raises(StateError, match="not in play"):
            reviews.report_lost(coordinator, digest)
        again = site.submit(home)  # sealed to the key that replaced the first, from the own copy
        assert again.blueprint != digest
        site.wait_for(lambda: reviews.show(coordinator, again.blueprint).state == "pending")
        assert reviews.show(coordinator, again.blueprint).weights_sha256 == lost.weights_sha256
        assert ledger_counter(home) == before
        with copies.put_away(home):
            assert submission.outgoing(home, site.STUDY).weights.read_bytes() == weights
        assert not list((home.path / "copies").rglob(copies.RESTORED))
        assert site.submit(home).bytes_sent == 0


def test_resend_an_upload_that_never_arrived_is_sealed_from_the_copy_after_a_new_key(enrolled):
    home = enrolled.home("a")
    item = submission.cleared(home, site.STUDY)
    first = submission.sealed(home, site.STUDY, item, clock.utc_now()).name
    lose_weights(home)
    with enrolled.serving() as coordinator:
        from coordinator import recipients

        with coordinator.write() as tx:
            recipients.rotate(coordinator, tx, item.study.digest, "a")
        assert recipients.destroy_idle(coordinator) == 1
        done = site.submit(home)
        assert (done.state, done.blueprint != first) == ("received", True)
    assert [path.name for path in (home.path / "copies").iterdir()] == [done.blueprint]


def test_resend_the_copy_is_sealed_to_this_site_and_opens_only_whole(enrolled):
    home = enrolled.home("a")
    item = submission.cleared(home, site.STUDY)
    digest = submission.sealed(home, site.STUDY, item, clock.utc_now()).name
    sealed = home.path / "copies" / digest / outbox.CIPHERTEXT
    data = sealed.read_bytes()
    weights = item.weights.read_bytes()
    assert weights[1000:1100] not in data
    kept = copies.find(home, site.STUDY)
    assert (kept.weights.read_bytes(), kept.outputs, kept.gate, kept.privacy) == (
        weights,
        item.outputs,
        item.gate,
        item.privacy,
    )
    sealed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(KitError, match="is not the signed one"):
        copies.find(home, site.STUDY)
    sealed.write_bytes(data)
    assert copies.find(home, "other") is None
    assert copies.find(home, site.STUDY).weights.read_bytes() == weights


@pytest.mark.parametrize("how", ["withdrawn", "revoked", "rejected"])
def test_resend_what_was_taken_back_leaves_no_copy(pending, how):
    """A2: a backup of the folder opens nothing once the copy's secret is gone."""
    home, other = pending.home("a"), pending.home("b")
    digest = pending.digest("a")
    backup = pending.folder / "backup"
    shutil.copytree(home.path / "copies", backup)
    assert copies.find(home, site.STUDY) is not None
    with pending.serving() as coordinator:
        key = pending.reviewer()
        if how == "withdrawn":
            withdrawal.withdraw(home, site.STUDY, reason="asked", now=clock.utc_now())
        elif how == "revoked":
            revocation.revoke(coordinator, digest, reviewer_key=key, reason="asked")
        else:
            reviews.decide(coordinator, digest, Decision.REJECT, reviewer_key=key, reason="no")
        site.visit(home)
        site.visit(other)
    assert copies.find(home, site.STUDY) is None
    assert not home.key(f"copy-{digest}.key").exists()
    shutil.copytree(backup, home.path / "copies", dirs_exist_ok=True)
    with pytest.raises(KitError):
        copies.find(home, site.STUDY)
    assert copies.find(other, site.STUDY) is not None


def test_resend_one_copy_per_run(enrolled):
    home = enrolled.home("a")
    first = submission.cleared(home, site.STUDY)
    submission.sealed(home, site.STUDY, first, clock.utc_now())
    runs.write_run(home, first.study, site.LABELS["a"], name=site.STUDY, seed=40)
    second = submission.cleared(home, site.STUDY)
    digest = submission.sealed(home, site.STUDY, second, clock.utc_now()).name
    assert copies.find(home, site.STUDY).weights.read_bytes() == second.weights.read_bytes()
    assert [path.name for path in (home.path / "copies").iterdir()] == [digest]
    assert [path.name for path in home.key("").glob("copy-*")] == [f"copy-{digest}.key"]
