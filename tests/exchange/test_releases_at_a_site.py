import dataclasses
import shutil
from datetime import timedelta

import pytest

from coordinator import releases, revocation
from edge_agent import contact, inspection, installed
from edge_agent.errors import TrustError
from federation.auditlog import merkle
from kit import clock
from kit.errors import KitError
from tests.fakes import site, states


def fetch(home):
    return installed.fetch(home, site.STUDY, got=lambda *_: None)


def load(home, *, ahead=timedelta(0)):
    return installed.load(home, site.STUDY, now=clock.utc_now() + ahead)


def revoke(federation, coordinator, name):
    return revocation.revoke(
        coordinator, federation.digest(name), reviewer_key=federation.reviewer(), reason="gone"
    )


def test_a_release_is_fetched_once_and_verified_at_every_load(released):
    home = released.home("a")
    with released.serving() as coordinator:
        [release] = releases.list_releases(coordinator)
        first = fetch(home)
        assert (first.release, first.labels) == (release.digest, site.CLASSES)
        assert first.bytes_downloaded == first.model.stat().st_size
        assert fetch(home).bytes_downloaded == 0
    assert load(home).release.digest == release.digest


def test_a_download_goes_on_where_it_was_cut_off(released):
    home = released.home("a")
    with released.serving():
        whole = fetch(home)
        model = whole.model.read_bytes()
        part = whole.model.with_name("model.onnx.part")
        whole.model.unlink()
        part.write_bytes(model[:1000])
        assert fetch(home).bytes_downloaded == len(model) - 1000
        assert whole.model.read_bytes() == model
        whole.model.unlink()
        part.write_bytes(b"x" + model[1:1000])  # another file's beginning
        with pytest.raises(KitError, match="not the signed one") as refusal:
            fetch(home)
        assert "same command again" in refusal.value.hint
        assert fetch(home).bytes_downloaded == len(model)
        whole.model.unlink()
        part.write_bytes(model + b"more")
        assert fetch(home).bytes_downloaded == len(model)


def test_an_altered_model_does_not_load_and_fetch_repairs_it(released):
    home = released.home("a")
    with released.serving():
        model = fetch(home).model
        good = model.read_bytes()
        assert load(home).model == good
        model.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(KitError, match="was altered") as refusal:
            load(home)
        assert "who wrote to this machine" in refusal.value.hint
        fetch(home)
        assert load(home).model == good


def test_an_altered_statement_does_not_load(released):
    home = released.home("a")
    with released.serving():
        folder = fetch(home).model.parent
    envelope = folder / installed.ENVELOPE
    good = envelope.read_bytes()
    place = good.index(b'"sig":"') + 20
    envelope.write_bytes(good[:place] + b"AAAA" + good[place + 4 :])
    with pytest.raises(KitError, match="signature"):
        load(home)
    envelope.write_bytes(good)
    assert load(home)


def test_what_the_server_sends_must_be_what_was_signed(released):
    home = released.home("a")
    with released.serving() as coordinator:
        [release] = releases.list_releases(coordinator)
        file = site.release_file(coordinator, release.digest)
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(KitError, match="not the signed one"):
            fetch(home)
        with pytest.raises(KitError, match="no release of study"):
            load(home)
        file.write_bytes(good + b"longer")
        with pytest.raises(KitError, match="not the signed one"):
            fetch(home)
        file.write_bytes(good)
        assert fetch(home).bytes_downloaded == len(good)


def test_a_withdrawn_release_refuses_to_load_and_the_rebuilt_one_replaces_it(released):
    home = released.home("a")
    with released.serving() as coordinator:
        old = fetch(home)
        assert load(home)
        revoke(released, coordinator, "c")
        site.visit(home)
        with pytest.raises(KitError, match="is withdrawn") as refusal:
            load(home)
        assert "edge-agent fetch" in refusal.value.hint
        with pytest.raises(KitError, match="every release of study `shapes` is withdrawn"):
            fetch(home)
        assert not old.model.exists()
        rebuilt = site.build(released)
        new = fetch(home)
        assert new.release == rebuilt.release != old.release
        assert new.labels == ("round", "long", "dark", "pale")
        assert load(home).release.digest == new.release


def test_a_study_without_a_release_says_so(approved):
    with approved.serving():
        with pytest.raises(KitError, match="no release yet in study `shapes`"):
            fetch(approved.home("a"))
        with pytest.raises(KitError, match="study `other` is not known here"):
            installed.fetch(approved.home("a"), "other", got=lambda *_: None)
        site.build(approved)
        assert fetch(approved.home("a")).release


def test_an_expired_certificate_stops_fetching_but_not_what_is_installed(released):
    home = released.home("a")
    with released.serving():
        fetch(home)
    assert load(home, ahead=timedelta(days=400)).release.labels == site.CLASSES


def test_a_clock_that_was_wound_back_revives_nothing(released):
    home = released.home("a")
    with released.serving():
        fetch(home)
    with pytest.raises(KitError, match=r"clock is .* behind the newest time"):
        load(home, ahead=timedelta(hours=-2))
    assert load(home, ahead=timedelta(minutes=-30))


def edit_log(federation, change):
    """Change the log as an insider with the database would: triggers dropped, hashes made anew."""
    with federation.database() as database:
        database.allow_edits("log", "log_nodes")
        change(database)
        database.execute("DELETE FROM log_nodes")
        kept = {}
        leaves = database.execute("SELECT position, leaf FROM log ORDER BY position").fetchall()
        for position, leaf in leaves:
            kept[0, position] = merkle.leaf_hash(leaf)
            row = (kept[0, position], position)
            database.execute("UPDATE log SET hash = ? WHERE position = ?", row)
            for node in merkle.completed(position, row[0], lambda *place: kept[place]):
                kept[node[:2]] = node[2]
                database.execute("INSERT INTO log_nodes VALUES (?, ?, ?)", node)


def older(database):
    [(leaf,)] = database.execute("SELECT leaf FROM log WHERE position = 1").fetchall()
    database.execute(
        "UPDATE log SET leaf = ? WHERE position = 1", (leaf.replace(b"2026", b"2025"),)
    )


def test_a_rewritten_log_passes_its_own_check_but_not_a_sites(released):
    from coordinator import audit

    home = released.home("a")
    with released.serving():
        assert inspection.audit(home, offline=False).consistent
    edit_log(released, older)
    with released.serving() as coordinator:
        assert audit.verify(coordinator).size  # rebuilt and re-signed: nothing to see from inside
        with pytest.raises(TrustError, match="contradicts what this site saw") as refusal:
            inspection.audit(home, offline=False)
        assert "keep this home" in refusal.value.hint
    assert inspection.audit(home, offline=True).consistent is None


def test_a_log_that_was_rolled_back_is_noticed(released, tmp_path):
    home = released.home("a")
    kept = tmp_path / "yesterday"
    shutil.copytree(released.hub, kept)
    states.copied(kept)
    with released.serving() as coordinator:
        revoke(released, coordinator, "c")
        seen = site.visit(home).trust.size
    shutil.rmtree(released.hub)
    shutil.move(kept, released.hub)
    with released.serving(), pytest.raises(KitError, match=f"the site has seen {seen}"):
        site.visit(home)
    assert contact.known(home).size == seen


def test_receipts_verify_offline_and_an_edited_one_does_not(released):
    home = released.home("a")
    with released.serving():
        site.visit(home)
    sound = inspection.audit(home, offline=True)
    assert sound.receipts >= 4  # received, pending, approval, approved, and the release
    leaf = next(home.receipts.glob("*blueprint.approved*.leaf.json"))
    good = leaf.read_bytes()
    leaf.write_bytes(good.replace(b"2026", b"2025"))
    with pytest.raises(KitError, match="inclusion proof"):
        inspection.audit(home, offline=True)
    leaf.write_bytes(good)
    proof = leaf.with_name(leaf.name.removesuffix(".leaf.json") + ".tlog-proof")
    kept = proof.read_bytes()
    proof.unlink()
    with pytest.raises(KitError, match="does not exist"):
        inspection.audit(home, offline=True)
    proof.write_bytes(kept)
    assert inspection.audit(home, offline=True) == sound


def test_a_state_that_the_log_does_not_record_is_not_believed(pending):
    home = pending.home("a")
    with pending.serving() as coordinator:
        assert site.visit(home)
        import sqlalchemy as sa

        from coordinator import state

        with coordinator.write() as tx:
            tx.execute(sa.update(state.blueprints).values(state="approved"))
        with pytest.raises(
            TrustError, match="says `approved` of a blueprint, but its log does not"
        ):
            site.visit(home)


def test_a_standing_tells_where_things_are(released):
    home = released.home("a")
    with released.serving():
        standing = inspection.status(home, now=clock.utc_now())
    assert standing.site == "a"
    assert [b["state"] for b in standing.blueprints] == ["approved"]
    assert [r["withdrawn"] for r in standing.releases] == [False]
    shown = inspection.inspect(home, site.STUDY, now=clock.utc_now())
    assert dataclasses.asdict(shown)["outputs"] == site.LABELS["a"]
    assert "differentially private if this code ran unmodified" in shown.privacy
