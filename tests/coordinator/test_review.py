import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from coordinator import logbook, payloads, reviews, state, submissions
from coordinator.errors import NotFoundError, StateError
from edge_agent import withdrawal
from federation.auditlog.events import Kind
from federation.blueprint.approval import Decision
from kit import clock
from kit.errors import FormatError
from pki import keys
from tests.fakes import runs, site
from tests.fakes.sealing import begin_fields, sealed

pytestmark = pytest.mark.both_states


def decide(federation, name, decision, *, key=None):
    with federation.open() as coordinator:
        return reviews.decide(
            coordinator,
            federation.digest(name),
            decision,
            reviewer_key=key or federation.reviewer(),
            reason="because",
        )


def log_of(federation):
    with federation.open() as coordinator:
        return Counter(event.kind for event in logbook.events(coordinator))


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_samples_are_rendered_on_request_and_stored_nowhere(pending):
    with pending.open() as coordinator:
        digest = pending.digest("a")
        before = files(coordinator.home.path)
        sheet = reviews.sample_sheet(coordinator, digest, per_class=2)
        assert sheet.startswith(b"\x89PNG\r\n\x1a\n")
        assert sheet == reviews.sample_sheet(coordinator, digest[:12], per_class=2)
        after = files(coordinator.home.path)
        journals = ("state.sqlite-wal", "state.sqlite-shm")
        changed = {path.name for path in before.keys() ^ after.keys()} | {
            path.name for path in before.keys() & after.keys() if before[path] != after[path]
        }
        assert changed <= {"state.sqlite", *journals}
        assert sheet[50:] not in b"".join(path.read_bytes() for path in after)


def test_a6_what_a_reviewer_sees_hangs_on_a_secret_that_no_site_has(pending, tmp_path):
    with pending.open() as coordinator:
        digest = pending.digest("a")
        study = pending.home("a").study(site.STUDY).digest
        sheet = reviews.sample_sheet(coordinator, digest, per_class=2)
        secret, key = coordinator.study_secret(study), f"study-{study}.secret"
        for other, same in ((secret, True), (bytes(len(secret)), False)):
            coordinator.home.key(key).unlink()
            coordinator.save_study_secret(study, other)
            seen = reviews.sample_sheet(coordinator, digest, per_class=2)
            assert (seen == sheet) is same
    for side in ("edge_agent", "protos"):  # nothing that a site runs or receives names it
        folder = Path(__file__).parents[2] / side
        assert not any("study_secret" in path.read_text() for path in folder.rglob("*.py"))


def test_a_review_says_what_is_known_in_plain_words(pending):
    with pending.open() as coordinator:
        found = {review.site: review for review in reviews.list_reviews(coordinator)}
    assert found["a"].outputs == site.LABELS["a"]
    assert found["a"].not_cross_checkable == site.LABELS["a"]  # nobody else has these classes
    assert "declared by the site, arithmetic rechecked" in found["a"].privacy
    assert "per image" in found["a"].privacy


def test_a7_a_class_of_two_sites_is_cross_checkable(pending):
    home = pending.home("c")
    with pending.serving():
        withdrawal.withdraw(home, site.STUDY, reason="again", now=clock.utc_now())
    runs.write_run(home, home.study(site.STUDY), ("round", "lobed"), name="both", seed=8)
    with pending.open() as coordinator:
        hold_as_pending(coordinator, home, run="both")
        found = {r.site: r for r in reviews.list_reviews(coordinator) if r.state != "revoked"}
    assert found["a"].not_cross_checkable == ("long",)
    assert found["c"].not_cross_checkable == ("lobed",)


def test_a_strangers_key_decides_nothing(pending):
    before = log_of(pending)
    for decision in Decision:
        with pytest.raises(FormatError, match="nobody on the study's list of reviewers"):
            decide(pending, "a", decision, key=keys.new_signing_key())
    assert pending.states()["a"] == "pending"
    assert log_of(pending) == before
    assert decide(pending, "a", Decision.APPROVE).state == "approved"


def test_state_and_log_change_together(pending):
    before = log_of(pending)
    decide(pending, "a", Decision.APPROVE)
    after = log_of(pending)
    assert after - before == Counter([Kind.APPROVAL_RECORDED, Kind.BLUEPRINT_APPROVED])
    with pytest.raises(StateError, match="is approved, not pending"):
        decide(pending, "a", Decision.APPROVE)
    with pytest.raises(StateError, match="is approved, not pending"):
        decide(pending, "a", Decision.REJECT)
    assert log_of(pending) == after


def test_a_rejection_shreds_the_payload(pending):
    with pending.open() as coordinator:
        digest = pending.digest("b")
        assert reviews.sample_sheet(coordinator, digest, per_class=2)
    decide(pending, "b", Decision.REJECT)
    assert pending.states() == {"a": "pending", "b": "rejected", "c": "pending"}
    with pending.open() as coordinator:
        assert not site.payload_file(coordinator, digest).exists()
        assert not payloads.keystore(coordinator).has(payloads.BLUEPRINT, digest)
        with pytest.raises(NotFoundError, match="not in the key store"):
            reviews.sample_sheet(coordinator, digest)
        assert reviews.sample_sheet(coordinator, pending.digest("a"), per_class=2)


def test_a_key_that_was_destroyed_makes_a_kept_payload_unreadable(pending, tmp_path):
    with pending.open() as coordinator:
        digest = pending.digest("b")
        kept = shutil.copy(site.payload_file(coordinator, digest), tmp_path / "backup")
        decide(pending, "b", Decision.REJECT)
        shutil.copy(kept, site.payload_file(coordinator, digest))
        with pytest.raises(NotFoundError, match="not in the key store"):
            reviews.sample_sheet(coordinator, digest)


def test_two_of_three_reviewers_approve_and_one_rejects(tmp_path):
    three = {name: keys.new_signing_key() for name in ("ana", "bo", "cy")}
    listed = tuple(f"{n}={keys.public_bytes(k).hex()}" for n, k in three.items())
    federation = site.found(tmp_path)
    with federation.open() as coordinator:
        study = site.create_study(coordinator, quorum=2, reviewers=listed)
        assert (study.quorum, [r.name for r in study.reviewers]) == (2, list(three))
    with federation.serving() as coordinator:
        for name in ("a", "b"):
            home = site.enrol(coordinator, federation, name)
            runs.write_run(home, study, site.LABELS[name])
            hold_as_pending(coordinator, home)
    assert decide(federation, "a", Decision.APPROVE, key=three["ana"]).state == "pending"
    with pytest.raises(StateError, match="reviewer `ana` decided to approve"):
        decide(federation, "a", Decision.APPROVE, key=three["ana"])
    assert decide(federation, "a", Decision.APPROVE, key=three["bo"]).state == "approved"
    assert decide(federation, "b", Decision.APPROVE, key=three["cy"]).state == "pending"
    assert decide(federation, "b", Decision.REJECT, key=three["ana"]).state == "rejected"


def hold_as_pending(coordinator, home, *, run=site.STUDY):
    """Announce a blueprint and call it pending: rules over records need no payload."""
    blueprint = sealed(home, run=run)
    submissions.begin(coordinator, home.config.site, **begin_fields(home, blueprint))
    with coordinator.write() as tx:
        tx.execute(
            sa.update(state.blueprints)
            .where(state.blueprints.c.digest == blueprint.statement.digest)
            .values(state="pending", received="2026-01-01T00:00:00Z")
        )


def test_a_prefix_names_one_blueprint_or_none(pending):
    with pending.open() as coordinator:
        digest = pending.digest("a")
        assert reviews.show(coordinator, digest[:6]).digest == digest
        for wrong, reason in (
            (digest[:5], "is not a digest"),
            ("zzzzzz", "is not a digest"),
            ("f" * 63 + "0", "no blueprint begins"),
        ):
            with pytest.raises(NotFoundError, match=reason):
                reviews.show(coordinator, wrong)


def test_the_reasons_words_stay_outside_the_log(pending):
    decide(pending, "a", Decision.APPROVE)
    with pending.open() as coordinator:
        leaves = [dataclasses.asdict(event) for event in logbook.events(coordinator)]
    record = next(leaf for leaf in leaves if leaf["kind"] == Kind.APPROVAL_RECORDED)
    assert "because" not in str(leaves)
    assert len(record["details"]["reason"]) == 64
