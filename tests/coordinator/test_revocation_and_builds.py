import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from coordinator import audit, builds, logbook, payloads, plans, releases, reviews, revocation
from coordinator.errors import NotFoundError, StateError
from federation.auditlog.events import Kind
from kit import config
from kit.errors import KitError
from pki import keys
from tests.fakes import site

pytestmark = pytest.mark.both_states


def revoke(federation, name, *, ahead=timedelta(0)):
    with federation.open(ahead=ahead) as coordinator:
        return revocation.revoke(
            coordinator, federation.digest(name), reviewer_key=federation.reviewer(), reason="gone"
        )


def set_grace(federation, hours):
    path = federation.hub / "config.toml"
    text = path.read_text().replace(
        "revocation_grace_hours = 0", f"revocation_grace_hours = {hours}"
    )
    path.write_text(text)


def recipient_kid(coordinator, digest):
    with coordinator.state.read() as tx:
        return reviews.find(tx, digest).kid


def has_keys(coordinator, digest, kid):
    store = payloads.keystore(coordinator)
    return store.has(payloads.BLUEPRINT, digest), store.has(payloads.RECIPIENT, kid)


def weights_of(coordinator, digest):
    """Restore a blueprint's weights as a thief of the disk would."""
    from coordinator import registry
    from federation.blueprint.statement import Statement

    with coordinator.state.read() as tx:
        row = reviews.find(tx, digest)
        study = registry.find_study(tx, row.study_digest)
    statement = Statement.from_bytes(row.statement)
    return payloads.open_weights(coordinator, statement, reviews.tensor_table(study, statement))


def test_a_release_is_itself_when_it_is_built_again(released):
    with released.open() as coordinator:
        [before] = releases.list_releases(coordinator)
        entries = len(logbook.events(coordinator))
    again = site.build(released)
    assert (again.release, again.shards_generated) == (before.digest, 0)
    shutil.rmtree(released.hub / "shards")
    fresh = site.build(released)
    assert (fresh.release, fresh.shards_generated) == (before.digest, fresh.shards)
    assert again.plan == fresh.plan
    with released.open() as coordinator:
        assert releases.list_releases(coordinator) == [before]
        assert len(logbook.events(coordinator)) == entries


def test_a_build_without_an_approved_blueprint_says_what_to_do(pending):
    with pytest.raises(StateError, match="has no approved blueprint") as refusal:
        site.build(pending)
    assert "coordinator approve" in refusal.value.hint
    with pytest.raises(NotFoundError, match="no study `nothing`"), pending.open() as coordinator:
        builds.build(coordinator, "nothing", report=lambda *_: None)


def test_the_plan_does_not_know_who_came_first(approved):
    with approved.open() as coordinator:
        inputs = plans.propose(coordinator, site.STUDY).inputs
    assert [i.weights_sha256 for i in inputs] == sorted(i.weights_sha256 for i in inputs)
    assert {i.blueprint for i in inputs} == {approved.digest(name) for name in site.LABELS}


def test_an_altered_shard_is_not_built_from(approved):
    site.build(approved)
    shard = next((approved.hub / "shards").rglob("*.sealed"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(KitError, match="does not decrypt as a whole"):
        site.build(approved)
    shard.write_bytes(data)
    assert site.build(approved).release


def test_nothing_of_a_blueprint_revoked_in_mid_build_is_published(approved):
    def revoke_late(what, done, _total):
        if what == "export" and done == 0:
            revoke(approved, "c")

    with approved.open() as coordinator:
        with pytest.raises(StateError, match="is not approved any more") as refusal:
            builds.build(coordinator, site.STUDY, report=revoke_late)
        assert "run the build again" in refusal.value.hint
        assert releases.list_releases(coordinator) == []
        assert not list((approved.hub / "releases").glob("*"))
    assert "lobed" not in site.build(approved).labels


def test_revocation_withdraws_the_release_and_shreds_key_payload_and_shards(released):
    with released.open() as coordinator:
        digest = released.digest("c")
        kid = recipient_kid(coordinator, digest)
        [release] = releases.list_releases(coordinator)
        assert weights_of(coordinator, digest)
        assert has_keys(coordinator, digest, kid) == (True, True)
        assert coordinator.stores.releases.has(releases.require_file(coordinator, release.digest))
        done = revoke(released, "c")
        assert (done.done, done.withdrawn_releases) == (True, (release.digest,))
        assert has_keys(coordinator, digest, kid) == (False, False)
        home = coordinator.home
        for path in (
            site.payload_file(coordinator, digest),
            home.received(digest),
            site.shards_folder(coordinator, digest),
        ):
            assert not path.exists()
        with pytest.raises(NotFoundError, match="not in the key store"):
            weights_of(coordinator, digest)
        assert not site.release_file(coordinator, release.digest).exists()
        with pytest.raises(StateError, match="is withdrawn"):
            releases.require_file(coordinator, release.digest)
        assert weights_of(coordinator, released.digest("a"))  # the others are untouched
        kinds = [event.kind for event in logbook.events(coordinator)]
    assert kinds[-7:] == [
        Kind.APPROVAL_RECORDED,
        Kind.BLUEPRINT_REVOKED,
        Kind.RELEASE_WITHDRAWN,
        Kind.REVOCATIONS_CHANGED,
        Kind.RECIPIENT_ISSUED,  # what the site seals to from now on
        Kind.KEY_DESTROYED,  # the blueprint's own
        Kind.KEY_DESTROYED,  # the recipient key it had come under
    ]
    rebuilt = site.build(released)
    assert rebuilt.labels == ("round", "long", "dark", "pale")
    assert rebuilt.release != release.digest


def test_kept_files_do_not_bring_back_what_was_shredded(released, tmp_path):
    """A backup of everything but the key store restores nothing (A4)."""
    shutil.copytree(released.hub / "payloads", tmp_path / "payloads")
    shutil.copytree(released.hub / "shards", tmp_path / "shards")
    digest = released.digest("c")
    with released.open() as coordinator:
        before = weights_of(coordinator, digest)
    revoke(released, "c")
    shutil.copytree(tmp_path / "payloads", released.hub / "payloads", dirs_exist_ok=True)
    shutil.copytree(tmp_path / "shards", released.hub / "shards", dirs_exist_ok=True)
    with released.open() as coordinator:
        assert site.payload_file(coordinator, digest).is_file()
        with pytest.raises(NotFoundError, match="not in the key store"):
            weights_of(coordinator, digest)
        assert before.keys() == weights_of(coordinator, released.digest("a")).keys()


def test_keys_stay_for_the_grace_period_and_no_longer(released):
    set_grace(released, 48)
    with released.open() as coordinator:
        digest = released.digest("c")
        kid = recipient_kid(coordinator, digest)
    done = revoke(released, "c")
    with released.open() as coordinator:
        assert done.destroy_after > config_now(coordinator)
        assert reviews.show(coordinator, digest).state == "revoked"  # out of use at once
        assert has_keys(coordinator, digest, kid) == (True, True)
        with pytest.raises(StateError, match="is withdrawn"):
            releases.require_file(coordinator, done.withdrawn_releases[0])
    with released.open(ahead=timedelta(hours=47)) as coordinator:
        assert revocation.destroy_due(coordinator) == 0
        assert has_keys(coordinator, digest, kid) == (True, True)
    with released.open(ahead=timedelta(hours=49)) as coordinator:
        assert revocation.destroy_due(coordinator) == 1
        assert has_keys(coordinator, digest, kid) == (False, False)
        assert revocation.destroy_due(coordinator) == 0


def config_now(coordinator):
    from kit import clock

    return clock.rfc3339(coordinator.now())


def test_revoking_takes_a_quorum_and_happens_once(released):
    with released.open() as coordinator:
        digest = released.digest("c")
        with pytest.raises(KitError, match="nobody on the study's list"):
            revocation.revoke(
                coordinator, digest, reviewer_key=keys.new_signing_key(), reason="gone"
            )
        assert revocation.preview(coordinator, digest).done is False
    assert released.states()["c"] == "approved"
    assert revoke(released, "c").done
    with pytest.raises(StateError, match="is revoked; there is nothing to revoke"):
        revoke(released, "c")


def test_the_log_is_append_only_and_an_edited_leaf_is_found(released):
    with released.open() as coordinator:
        sound = audit.verify(coordinator)
        assert sound.size == len(logbook.events(coordinator))
    change = "UPDATE log SET leaf = ? WHERE position = 2"
    with released.database() as database:
        with pytest.raises(database.refusal, match="append-only"):
            database.execute("UPDATE log SET leaf = BLOB WHERE position = 2")
        with pytest.raises(database.refusal, match="append-only"):
            database.execute("DELETE FROM log WHERE position = 2")
        database.allow_edits("log")
        [(leaf,)] = database.execute("SELECT leaf FROM log WHERE position = 2").fetchall()
        forged = leaf.replace(b"2026", b"2025")
        assert forged != leaf
        database.execute(change, (forged,))
        with released.open() as coordinator, pytest.raises(KitError, match="entry 2 was altered"):
            audit.verify(coordinator)
        database.execute(change, (leaf,))
    with released.open() as coordinator:
        assert audit.verify(coordinator).root == sound.root


@pytest.mark.sqlite
def test_a_damaged_state_is_one_clear_line(pending, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(pending.hub, copy)
    for journal in copy.glob("state.sqlite-*"):
        journal.unlink()
    (copy / "state.sqlite").write_bytes(b"this is no database at all, not even a little" * 50)
    with pytest.raises(KitError, match="state cannot be used: file is not a database"):
        _list(copy)
    assert len(_list(pending.hub)) == 3


def _list(path: Path):
    from coordinator.context import Coordinator

    with Coordinator.open(path) as coordinator:
        return reviews.list_reviews(coordinator)


def test_a_setting_that_is_none_is_refused(pending):
    from coordinator.home import CoordinatorConfig

    path = pending.hub / "config.toml"
    good = path.read_text()
    path.write_text(good + 'colour = "blue"\n')
    with pytest.raises(KitError, match="unknown key `colour`"):
        config.load(path, CoordinatorConfig)
    path.write_text(good)
    assert config.load(path, CoordinatorConfig).federation == site.FEDERATION
