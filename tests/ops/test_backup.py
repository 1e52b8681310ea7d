"""Backup, restore and moving to a new host, of both sides, with the real commands' services."""

import dataclasses
import shutil
import sqlite3

import pytest

from coordinator import backup, payloads
from coordinator.home import CONFIG, CoordinatorConfig
from edge_agent import backup as edge_backup
from edge_agent import runs as edge_runs
from edge_agent import withdrawal
from edge_agent.home import Home
from federation.accounting import DpEvent
from kit import clock, config, snapshot
from kit.errors import KitError
from kit.files import private_folder
from tests.fakes import site


def take(federation, out):
    with federation.open() as coordinator:
        return backup.back_up(coordinator, out, now=clock.utc_now())


def secrets_of(federation, folder):
    """The two folders of secrets as an operator keeps them elsewhere."""
    for name in backup.SECRET_FOLDERS:
        shutil.copytree(private_folder(federation.hub / name), folder / name)
    return {name: folder / name for name in backup.SECRET_FOLDERS}


def replace_hub(federation, made, places):
    """The old machine is gone; a home from the snapshot stands in its place."""
    shutil.rmtree(federation.hub)
    return backup.restore(made.snapshot, federation.hub, **places)


def test_a_restored_coordinator_goes_on_where_the_snapshot_was_taken(released, tmp_path):
    with released.serving():  # a snapshot needs no pause
        made = take(released, tmp_path / "backups")
    places = secrets_of(released, tmp_path / "elsewhere")
    before = site.build(released)
    restored = replace_hub(released, made, places)
    assert (restored.log_size, restored.log_root) == (made.log_size, made.log_root)
    assert restored.unreadable_blueprints == ()
    assert site.build(released).release == before.release  # bit for bit, on this machine
    with released.serving():
        world = site.visit(released.home("a"))
        assert {b.state for b in world.blueprints} == {"approved"}


@pytest.mark.sqlite
def test_a_snapshot_holds_no_key_and_nothing_that_was_deleted(released, tmp_path):
    made = take(released, tmp_path)
    names = {p.relative_to(made.snapshot).parts[0] for p in made.snapshot.rglob("*")}
    assert names == {
        "manifest.json",
        "state.sqlite",
        "config.toml",
        "certificates",
        "payloads",
        "releases",
        "repository",
    }
    secrets = [p.read_bytes() for n in backup.SECRET_FOLDERS for p in (released.hub / n).iterdir()]
    everything = b"".join(p.read_bytes() for p in made.snapshot.rglob("*") if p.is_file())
    assert len(secrets) > 10
    assert not [secret for secret in secrets if secret in everything]
    assert {p.stat().st_mode & 0o777 for p in made.snapshot.rglob("*") if p.is_file()} == {0o600}


@pytest.mark.sqlite
def test_a4_an_old_state_brings_back_no_shredded_key_and_is_refused_by_sites(released, tmp_path):
    made = take(released, tmp_path / "backups")
    gone = released.digest("c")
    with released.serving(), released.open() as coordinator:
        site.revocation_of(released, coordinator, "c")
        site.visit(released.home("a"))
    places = secrets_of(released, tmp_path / "elsewhere")  # the newest key store there is
    restored = replace_hub(released, made, places)
    assert restored.unreadable_blueprints == (gone,)
    with released.open() as coordinator:
        assert not payloads.keystore(coordinator).has(payloads.BLUEPRINT, gone)
        assert payloads.keystore(coordinator).has(payloads.BLUEPRINT, released.digest("a"))
    with released.serving():
        with pytest.raises(KitError, match="the site has seen"):
            site.visit(released.home("a"))
        site.visit(released.home("b"))  # it saw no more than the snapshot has


@pytest.mark.sqlite
@pytest.mark.parametrize("fault", ["altered", "missing", "added", "newer", "escaping"])
def test_a_damaged_or_newer_snapshot_restores_nothing(enrolled, tmp_path, fault):
    made = take(enrolled, tmp_path / "backups").snapshot
    places = secrets_of(enrolled, tmp_path / "elsewhere")
    whole = made.with_name("whole")
    shutil.copytree(made, whole)
    manifest = snapshot.Manifest.from_bytes((made / "manifest.json").read_bytes())
    if fault == "altered":
        with (made / "state.sqlite").open("r+b") as stream:
            stream.seek(5000)
            stream.write(b"x")
    elif fault == "missing":
        (made / "config.toml").unlink()
    elif fault == "added":
        (made / "keystore").mkdir()
        (made / "keystore" / "k").write_bytes(b"x")
    else:
        changes = {"newer": {"schema": 99}, "escaping": {"files": {"../x": "0" * 64}}}[fault]
        changed = dataclasses.replace(manifest, **changes)
        (made / "manifest.json").write_bytes(changed.to_bytes())
    target = tmp_path / "new"
    with pytest.raises(KitError):
        backup.restore(made, target, **places)
    assert not target.exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert backup.restore(whole, target, **places).log_size > 0
    with pytest.raises(KitError, match="not empty"):
        backup.restore(whole, target, **places)


def test_another_federations_keys_restore_nothing(enrolled, tmp_path):
    made = take(enrolled, tmp_path / "backups").snapshot
    own = secrets_of(enrolled, tmp_path / "own")
    (tmp_path / "other").mkdir()
    other = secrets_of(site.found(tmp_path / "other"), tmp_path / "others")
    with pytest.raises(KitError, match="no key in this home belongs"):
        backup.restore(made, tmp_path / "new", keys=other["keys"], keystore=own["keystore"])
    assert not (tmp_path / "new").exists()
    assert backup.restore(made, tmp_path / "new", **own).home.is_dir()


def test_a_coordinator_moves_to_another_host_name_port_and_folder(pending, tmp_path):
    with pending.serving():
        site.visit(pending.home("a"))
    moved = pending.clone(tmp_path / "new-host")
    shutil.rmtree(pending.hub)
    settings = config.load(moved.hub / CONFIG, CoordinatorConfig)
    config.save(moved.hub / CONFIG, dataclasses.replace(settings, hosts="localhost"))
    home = moved.home("a")
    with moved.serving() as coordinator:
        with pytest.raises(KitError, match="cannot be reached"):
            site.visit(home)  # its configuration names 127.0.0.1, the certificate does not
        address = f"localhost:{coordinator.config.exchange_port}"
        config.save(home.config_path, dataclasses.replace(home.config, exchange_address=address))
        assert site.visit(home).blueprints[0].state == "pending"
        site.approve(moved, "a")
        assert site.visit(home).blueprints[0].state == "approved"


def charge(home, run, steps):
    event = DpEvent(sample_rate=0.05, noise_multiplier=4.0, steps=20)
    with edge_runs.open_ledger(home) as ledger:
        units = [f"patient-{n}" for n in range(40)]
        reservation = ledger.reserve(run, units, [event], clock.utc_now(), unit_kind="image")
        reservation.charge(steps)
        return ledger.head()


def test_a_sites_home_comes_back_whole_and_goes_on(released, tmp_path):
    home = released.home("a")
    head = charge(home, "extra", 3)
    with released.serving():
        site.visit(home)
        made = edge_backup.back_up(home, tmp_path / "backups", now=clock.utc_now())
        assert (made.ledger_head, made.ledger_counter) == head
        shutil.rmtree(home.path)
        restored = edge_backup.restore(made.snapshot, home.path)
        assert (restored.ledger_head, restored.ledger_counter) == head
        back = Home.open(home.path)
        with edge_runs.open_ledger(back) as ledger:
            ledger.verify()
            assert ledger.head() == head
        assert charge(back, "extra", 2)[1] > head[1]
        assert site.visit(back).blueprints[0].state == "approved"
        with pytest.raises(KitError, match="submitted before"):  # the same weights, sealed anew
            site.submit(back)
    assert not list((made.snapshot).glob("outbox*"))


def test_a8_an_old_copy_of_a_site_is_refused_at_its_next_submission(enrolled, tmp_path):
    home = enrolled.home("a")
    charge(home, "extra", 1)
    with enrolled.serving():
        made = edge_backup.back_up(home, tmp_path / "backups", now=clock.utc_now())
        for _ in range(3):
            charge(home, "extra", 2)
        assert site.submit(home).state == "received"
        site.wait_for(lambda: site.settled(enrolled))
        withdrawal.withdraw(home, site.STUDY, reason="again", now=clock.utc_now())
        shutil.rmtree(home.path)
        edge_backup.restore(made.snapshot, home.path)
        site.runs.write_run(home, home.study(site.STUDY), site.LABELS["a"], seed=9)
        with pytest.raises(KitError, match="ledger went backwards"):
            site.submit(home)


def test_a_sites_ledger_is_never_behind_its_run_in_a_snapshot(enrolled, tmp_path, monkeypatch):
    """A step that is charged and taken while a snapshot is made is charged in it."""
    home = enrolled.home("a")
    charge(home, "extra", 1)
    real, taken = snapshot._copy, []

    def step_meanwhile(source, target):
        real(source, target)
        if not taken:
            taken.append(charge(home, "extra", 1))

    monkeypatch.setattr(snapshot, "_copy", step_meanwhile)
    made = edge_backup.back_up(home, tmp_path / "backups", now=clock.utc_now())
    assert (made.ledger_head, made.ledger_counter) == taken[0]


def test_a_home_of_a_newer_kit_is_refused_and_one_without_a_version_opens(enrolled):
    home = enrolled.home("a")
    assert (home.path / "schema").read_text() == "1\n"
    (home.path / "schema").unlink()  # as homes were before they carried one
    assert Home.open(home.path)
    for version in ("2", "0", "x"):
        (home.path / "schema").write_text(version)
        with pytest.raises(KitError, match="schema version"):
            Home.open(home.path)


def test_what_was_deleted_from_a_database_is_not_in_its_copy(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with sqlite3.connect(home / "x.sqlite") as database:
        database.execute("PRAGMA secure_delete = OFF")
        database.execute("CREATE TABLE t (v)")
        database.execute("INSERT INTO t VALUES ('kept-value')")
        database.execute("INSERT INTO t VALUES (?)", ("deleted-value" * 500,))
    database.execute("DELETE FROM t WHERE v LIKE 'deleted%'")
    database.commit()
    database.close()
    assert b"deleted-value" in (home / "x.sqlite").read_bytes()
    contents = snapshot.Contents(files=(), databases_before=("x.sqlite",))
    options = {"kind": "test", "schema": 1, "now": clock.utc_now(), "facts": {}}
    made = snapshot.take(home, tmp_path, contents, **options)
    copy = (made / "x.sqlite").read_bytes()
    assert b"kept-value" in copy
    assert b"deleted-value" not in copy
