"""A2: a kept envelope opens nothing once what it was sealed for has ended."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from coordinator import (
    audit,
    logbook,
    payloads,
    recipients,
    registry,
    reviews,
    revocation,
    submissions,
)
from coordinator.errors import NotAllowedError, NotFoundError, StateError
from coordinator.state import recipient_keys
from edge_agent import inspection
from edge_agent import runs as agent_runs
from federation.auditlog.events import Kind
from federation.blueprint.approval import Decision
from federation.blueprint.errors import RefusalError
from kit import clock
from kit.errors import KitError
from tests.fakes import runs, site
from tests.fakes.sealing import append, begin_fields, sealed

pytestmark = pytest.mark.both_states


def offered(coordinator, name):
    query = sa.select(recipient_keys.c.kid).where(recipient_keys.c.site == name)
    with coordinator.state.read() as tx:
        return [row.kid for row in tx.all(query)]


def has_seed(coordinator, kid):
    return payloads.keystore(coordinator).has(payloads.RECIPIENT, kid)


def destroyed(coordinator):
    return {e.subject for e in logbook.events(coordinator) if e.kind is Kind.KEY_DESTROYED}


def opens(coordinator, blueprint):
    """Whether whoever holds this coordinator's disk can open a copy that a thief kept."""
    try:
        payloads.content_key(coordinator, blueprint.wrapped_key, blueprint.statement)
    except NotFoundError:
        return False
    return True


def upload(coordinator, home, blueprint, name="a"):
    submissions.begin(coordinator, name, **begin_fields(home, blueprint))
    data = blueprint.ciphertext
    append(coordinator, name, blueprint.statement.digest, 0, data[:1000])
    return submissions.commit(coordinator, name, blueprint.statement.digest)


def test_a2_a_rejected_blueprint_leaves_no_key_that_opens_a_kept_copy(pending):
    with pending.open() as coordinator:
        [kid], [other] = offered(coordinator, "a"), offered(coordinator, "b")
        kept = sealed(pending.home("a"))
        assert opens(coordinator, kept)
        reviews.decide(
            coordinator,
            pending.digest("a"),
            Decision.REJECT,
            reviewer_key=pending.reviewer(),
            reason="one image",
        )
        assert not opens(coordinator, kept)
        assert not has_seed(coordinator, kid)
        assert has_seed(coordinator, other)
        assert kid in destroyed(coordinator)
        [fresh] = offered(coordinator, "a")
        assert fresh != kid
        assert has_seed(coordinator, fresh)


def test_a2_a_refused_blueprint_leaves_none_either_and_the_next_is_sealed_anew(enrolled):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator:
        [kid] = offered(coordinator, "a")
        kept = sealed(home)
        tensors = runs.random_tensors(
            runs.networks.architecture_for(home.study(site.STUDY), "tiny"),
            home.study(site.STUDY),
            site.CLASSES,
            seed=3,
        )
        study = home.study(site.STUDY)
        runs.write_run(home, study, site.LABELS["a"], name="hidden", tensors=tensors)
        assert opens(coordinator, kept)
        site.submit(home, "hidden")
        site.wait_for(lambda: enrolled.states()["a"] == "refused")
        site.wait_for(lambda: not has_seed(coordinator, kid))
        assert not opens(coordinator, kept)
        with pytest.raises(RefusalError, match="step 8"):
            submissions.begin(coordinator, "a", **begin_fields(home, kept))
        assert site.submit(home).state == "received"


def test_a2_an_upload_that_expired_is_dropped_with_its_key(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        [kid] = offered(coordinator, "a")
        blueprint = sealed(home)
        assert upload(coordinator, home, blueprint).durable == 1000
        part = coordinator.home.staging(blueprint.statement.digest)
        expires = clock.parse_rfc3339(blueprint.statement.expires)
        coordinator.ahead = expires - clock.utc_now() - timedelta(minutes=1)
        revocation.destroy_due(coordinator)
        assert part.is_file()
        assert opens(coordinator, blueprint)
        coordinator.ahead += timedelta(minutes=2)
        revocation.destroy_due(coordinator)
        assert not part.exists()
        assert not opens(coordinator, blueprint)
        assert offered(coordinator, "a") not in ([], [kid])


def test_a2_closing_a_study_ends_its_keys_its_uploads_and_the_outboxes(pending):
    """What was received stays; what another study or site holds is not touched."""
    home = pending.home("b")
    runs.write_run(home, home.study(site.STUDY), site.LABELS["b"], name="late", seed=9)
    with pending.serving() as coordinator:
        other = site.create_study(coordinator, name="other")
        [mine] = [k for k in offered(coordinator, "a") if k not in destroyed(coordinator)][:1]
        open_kids = {
            row.kid for row in _rows(coordinator, recipient_keys.c.study_digest == other.digest)
        }
        site.visit(home)
        assert list(home.outbox.iterdir())
        kept = sealed(home)
        assert opens(coordinator, kept)
        done = registry.close_study(coordinator, site.STUDY)
        assert (done.recipient_keys_destroyed, done.wait_for_intake) == (3, ())
        assert not opens(coordinator, kept)
        assert not has_seed(coordinator, mine) or mine in open_kids
        assert all(has_seed(coordinator, kid) for kid in open_kids)
        with pytest.raises(StateError, match="closed already"):
            registry.close_study(coordinator, site.STUDY)
        with pytest.raises(NotAllowedError, match="no recipient key"):
            submissions.begin(coordinator, "b", **begin_fields(home, kept))
        with pytest.raises(KitError, match="study `shapes` is closed") as refusal:
            site.submit(home, "late")
        assert "edge-agent status" in refusal.value.hint
        standing = inspection.status(home, now=clock.utc_now())
        assert {s["id"]: s["open"] for s in standing.studies} == {"other": True, "shapes": False}
        assert not list(home.outbox.iterdir())
        assert pending.states()["b"] == "pending"
        site.approve(pending, "b")
        kinds = [e.kind for e in logbook.events(coordinator) if e.subject == done.digest]
        assert kinds == [Kind.STUDY_CREATED, Kind.STUDY_CLOSED]
    assert site.build(pending).labels == site.LABELS["b"]


def _rows(coordinator, where):
    with coordinator.state.read() as tx:
        return tx.all(sa.select(recipient_keys.c.kid).where(where))


def test_a2_a_seed_waits_for_what_was_received_before_the_close(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        [kid], [other] = offered(coordinator, "a"), offered(coordinator, "b")
        blueprint = sealed(home)
        digest = blueprint.statement.digest
        submissions.begin(coordinator, "a", **begin_fields(home, blueprint))
        append(coordinator, "a", digest, 0, blueprint.ciphertext)
        assert submissions.commit(coordinator, "a", digest).state == "received"
        done = registry.close_study(coordinator, site.STUDY)
        assert (done.recipient_keys_destroyed, done.wait_for_intake) == (2, (digest,))
        assert has_seed(coordinator, kid)
        assert not has_seed(coordinator, other)
    with enrolled.serving() as coordinator:
        site.wait_for(lambda: enrolled.states()["a"] == "pending")
        site.wait_for(lambda: not has_seed(coordinator, kid))
        assert recipients.destroy_idle(coordinator) == 0


def test_a2_a_site_shut_out_in_mid_upload_leaves_neither_bytes_nor_key(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        blueprint = sealed(home)
        upload(coordinator, home, blueprint)
        assert opens(coordinator, blueprint)
        registry.revoke_site(coordinator, "a")
        assert not opens(coordinator, blueprint)
        assert not coordinator.home.staging(blueprint.statement.digest).exists()
        assert opens(coordinator, sealed(enrolled.home("b")))


def test_a2_a_revocation_names_what_it_cannot_reach(pending):
    with pending.open() as coordinator:
        digest = pending.digest("a")
        falls = revocation.preview(coordinator, digest).not_reached
        done = revocation.revoke(
            coordinator, digest, reviewer_key=pending.reviewer(), reason="asked"
        )
        assert done.not_reached == falls
        assert any("backups of the key store" in line for line in falls)


def test_a_coordinator_whose_key_store_is_gone_goes_on_with_new_keys(pending):
    """What can no longer be opened is named, and each site sends it again at no cost."""
    with pending.open() as coordinator:
        before = {name: offered(coordinator, name) for name in site.LABELS}
        size = len(logbook.events(coordinator))
        nothing = recipients.replace_lost(coordinator)  # the positive control: all is here
        assert (nothing.replaced, nothing.lost_blueprints) == ((), ())
        assert len(logbook.events(coordinator)) == size
        for file in pending.hub.joinpath("keystore").iterdir():
            file.unlink()
        found = recipients.replace_lost(coordinator)
        assert found.replaced == tuple(f"{site.STUDY}/{name}" for name in site.LABELS)
        assert found.lost_blueprints == tuple(sorted(map(pending.digest, site.LABELS)))
        for name, [kid] in before.items():
            assert kid in destroyed(coordinator)
            [fresh] = offered(coordinator, name)
            assert fresh != kid
            assert has_seed(coordinator, fresh)
        again = recipients.replace_lost(coordinator)
        assert (again.replaced, len(again.lost_blueprints)) == ((), 3)
        for digest in found.lost_blueprints:
            assert reviews.report_lost(coordinator, digest).state == "refused"
        assert recipients.replace_lost(coordinator).lost_blueprints == ()
        assert audit.verify(coordinator)
    home = pending.home("a")
    spent = ledger_of(home)
    with pending.serving():
        site.visit(home)
        assert site.submit(home).state == "received"
        site.wait_for(lambda: site.settled(pending))
    assert pending.states()["a"] == "pending"
    assert ledger_of(home) == spent


def test_a_received_payload_that_nobody_can_open_counts_as_lost(enrolled):
    with enrolled.open() as coordinator:
        home = enrolled.home("a")
        blueprint = sealed(home)
        submissions.begin(coordinator, "a", **begin_fields(home, blueprint))
        append(coordinator, "a", blueprint.statement.digest, 0, blueprint.ciphertext)
        submissions.commit(coordinator, "a", blueprint.statement.digest)
        with pytest.raises(StateError, match="is here and whole"):
            reviews.report_lost(coordinator, blueprint.statement.digest)
        for file in enrolled.hub.joinpath("keystore").iterdir():
            file.unlink()
        lost = recipients.replace_lost(coordinator).lost_blueprints
        assert lost == (blueprint.statement.digest,)
        assert reviews.report_lost(coordinator, blueprint.statement.digest).state == "refused"


def ledger_of(home):
    with agent_runs.open_ledger(home) as ledger:
        return ledger.head()
