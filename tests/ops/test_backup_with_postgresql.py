"""Backup, restore and moving in, where the state is in PostgreSQL: its operator dumps it first."""

import shutil

import pytest

from coordinator import audit, backup
from coordinator.errors import StateError
from kit.errors import KitError
from tests.fakes import site, states
from tests.fakes.records import publish
from tests.ops.test_backup import secrets_of, take

pytestmark = pytest.mark.postgresql


@pytest.fixture
def federation(tmp_path, tmp_path_factory):
    with states.KINDS.chosen(states.POSTGRESQL):
        yield site.copy("enrolled", tmp_path, tmp_path_factory.getbasetemp())


def log_of(federation):
    with federation.open() as coordinator:
        found = audit.verify(coordinator)
        return found.size, found.root


def test_a_dump_and_a_later_snapshot_make_a_home_that_sites_know(federation, tmp_path):
    with federation.serving():
        site.visit(federation.home("a"))
    dump = tmp_path / "state.dump"
    states.dump(federation.hub, dump)
    made = take(federation, tmp_path / "backups")
    assert not list(made.snapshot.glob("state*"))
    places = secrets_of(federation, tmp_path / "elsewhere")
    before = log_of(federation)
    shutil.rmtree(federation.hub)
    url = states.loaded(dump)
    restored = backup.restore(made.snapshot, federation.hub, **places, state_url=url)
    assert (restored.log_size, restored.log_root) == (made.log_size, made.log_root) == before
    assert f'state = "{url}"' in (federation.hub / "config.toml").read_text()
    with federation.serving():
        assert site.visit(federation.home("a")).trust.size == restored.log_size
    with federation.database() as database, pytest.raises(database.refusal, match="append-only"):
        database.execute("DELETE FROM log")  # the dump brought the refusal along


def test_a_dump_that_is_newer_than_the_files_restores_nothing(federation, tmp_path):
    states.dump(federation.hub, tmp_path / "before.dump")
    made = take(federation, tmp_path / "backups")
    publish(federation)
    states.dump(federation.hub, tmp_path / "after.dump")
    places = secrets_of(federation, tmp_path / "elsewhere")
    target = tmp_path / "new"
    late = states.loaded(tmp_path / "after.dump")
    with pytest.raises(StateError, match="entries, and") as refusal:
        backup.restore(made.snapshot, target, **places, state_url=late)
    assert "before this snapshot" in refusal.value.hint
    assert not target.exists()
    early = states.loaded(tmp_path / "before.dump")
    assert backup.restore(made.snapshot, target, **places, state_url=early).home == target


def test_a_state_moves_from_sqlite_and_sites_notice_nothing(tmp_path, tmp_path_factory):
    small = site.copy("enrolled", tmp_path, tmp_path_factory.getbasetemp())
    with small.serving():
        site.visit(small.home("a"))
    before = log_of(small)
    made = take(small, tmp_path / "backups")
    places = secrets_of(small, tmp_path / "elsewhere")
    with small.open() as coordinator, coordinator.state.read() as tx:
        rows = {table.name: tx.all(table.select()) for table in backup.state.metadata.sorted_tables}
    shutil.rmtree(small.hub)
    with states.KINDS.chosen(states.POSTGRESQL):
        url, taken = states.new_url(), states.new_url()
        with (
            site.found(tmp_path / "other", state=taken).open(),
            pytest.raises(KitError, match="not empty"),
        ):
            backup.restore(made.snapshot, small.hub, **places, state_url=taken)
        assert not small.hub.exists()
        backup.restore(made.snapshot, small.hub, **places, state_url=url)
        assert log_of(small) == before
        assert not list(small.hub.glob("state.sqlite*"))
        with small.open() as coordinator, coordinator.state.read() as tx:
            for table in backup.state.metadata.sorted_tables:
                assert sorted(map(str, tx.all(table.select()))) == sorted(
                    map(str, rows[table.name])
                )
        with small.serving():
            assert site.visit(small.home("a")).trust.size == before[0]
