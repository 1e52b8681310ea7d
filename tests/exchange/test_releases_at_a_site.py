import dataclasses
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from coordinator import releases, revocation
from edge_agent import contact, inference, inspection, installed
from edge_agent.errors import TrustError
from federation.auditlog import merkle
from federation.release import bom
from federation.release.statement import FILE_NAMES, Role
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
        left_out = (Role.INITIAL_WEIGHTS, Role.SYNTHETIC_SET)
        names = [FILE_NAMES[role] for role in Role if role not in left_out]
        files = [first.model.with_name(name) for name in names]
        assert first.bytes_downloaded == sum(file.stat().st_size for file in files)
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


def test_golden_images_that_fail_keep_a_release_from_being_installed_and_from_starting(
    released, monkeypatch
):
    home = released.home("a")
    with released.serving():
        with monkeypatch.context() as patch:
            patch.setattr(inference, "_run", a_little_off(inference._run))
            with pytest.raises(KitError, match="computes this model otherwise") as refusal:
                fetch(home)
            assert "edge-agent doctor" in refusal.value.hint
            with pytest.raises(KitError, match="no release of study"):
                load(home)
        folder = fetch(home).model.parent
        assert open_release(home).provider == inference.CPU
    monkeypatch.setattr(inference, "_run", a_little_off(inference._run))
    with pytest.raises(KitError, match="computes this model otherwise"):
        open_release(home)
    monkeypatch.undo()
    images = folder / installed.GOLDEN
    good = images.read_bytes()
    images.write_bytes(good.replace(b"0.", b"1.", 1))
    with pytest.raises(KitError, match=r"golden images of release .* were altered"):
        load(home)
    images.write_bytes(good)
    assert open_release(home)


def a_little_off(run):
    """A runtime whose arithmetic is a little different: what a wrong provider looks like."""

    def wrong(session, images):
        found = run(session, images)
        shift = np.zeros_like(found)
        shift[:, 0], shift[:, 1] = 0.002, -0.002
        return found + shift

    return wrong


def open_release(home):
    found = load(home)
    contract = found.contract(home.study(site.STUDY))
    return inference.open_model(found.model, contract=contract, golden=found.golden)


def test_what_lies_beside_a_model_is_what_its_statement_signed(released):
    home = released.home("a")
    with released.serving() as coordinator:
        [published] = releases.list_releases(coordinator)
        folder = fetch(home).model.parent
        bill = folder / FILE_NAMES[Role.ML_BOM]
        expected = sorted(released.digest(name) for name in ("a", "b", "c"))
        assert list(bom.ancestors_in(bill.read_bytes())) == expected
        bill.unlink()
        served = coordinator.stores.releases.path(
            releases.stored_name(published.digest, Role.ML_BOM)
        )
        good = served.read_bytes()
        served.write_bytes(good.replace(b"epsilon", b"epsilom"))
        with pytest.raises(KitError, match="not the signed one"):
            fetch(home)
        served.write_bytes(good)
        assert fetch(home).bytes_downloaded == len(good)


def test_outsiders_verify_what_a_site_installed_with_stock_tools(released):
    """CycloneDX's own validator, and `model_signing` as anybody installs it."""
    with released.serving():
        folder = fetch(released.home("a")).model.parent
    bill = (folder / FILE_NAMES[Role.ML_BOM]).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    root = released.hub / "certificates" / "root.pem"
    model, signature = folder / "model.onnx", folder / FILE_NAMES[Role.MODEL_SIGNATURE]

    def verified():
        stock = Path(sys.executable).with_name("model_signing")
        words = ["--signature", signature, "--certificate_chain", root]
        command = [stock, "verify", "certificate", model, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode == 0 and "succeeded" in done.stdout

    assert verified()
    good = model.read_bytes()
    model.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert not verified()


def test_a_release_of_before_golden_images_still_starts(released):
    home = released.home("a")
    with released.serving():
        fetch(home)
        found = load(home)
    old = dataclasses.replace(found.release, artefacts=found.release.artefacts[:1])
    assert installed._golden(home, old) is None
    contract = found.contract(home.study(site.STUDY))
    assert inference.open_model(found.model, contract=contract, golden=None)
    assert found.golden is not None


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
        assert fetch(home).bytes_downloaded > len(good)
        assert load(home).model == good


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
