"""Every schema that was ever on the main branch keeps opening; a newer one is refused."""

import sqlite3
from pathlib import Path

import pytest

from coordinator import migrations
from coordinator.context import Coordinator
from coordinator.state import SCHEMA_VERSION, SERVE_LOCK, State
from kit import clock
from kit.errors import KitError
from kit.files import exclusive
from tests.fakes import site

VECTORS = Path(__file__).parents[1] / "vectors" / "state"
VERSIONS = range(1, SCHEMA_VERSION + 1)


def old_state(path, version):
    """A database as version `version` of the schema made it, with one row that must survive."""
    with sqlite3.connect(path) as db:
        db.executescript((VECTORS / f"schema-{version}.sql").read_text())
        db.execute("INSERT INTO meta VALUES ('schema', ?)", (str(version),))
        db.execute("INSERT INTO meta VALUES ('revocations', '7')")
    db.close()


def shape(path):
    """Tables, columns, keys, indices and triggers, as the database itself names them."""
    with sqlite3.connect(path) as db:
        names = db.execute("SELECT type, name, tbl_name FROM sqlite_master").fetchall()
        found = {"names": sorted(names)}
        for kind, name, _ in names:
            if kind == "table":
                columns = db.execute(f"PRAGMA table_info('{name}')").fetchall()
                found[name] = sorted(column[1:] for column in columns)
    db.close()
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_state_of_every_older_schema_becomes_the_one_that_is_made_today(tmp_path, version):
    old_state(tmp_path / "old.sqlite", version)
    State.create(tmp_path / "new.sqlite").close()
    state = State.open(tmp_path / "old.sqlite")
    with state.read() as tx:
        assert (tx.get("schema"), tx.get("revocations")) == (str(SCHEMA_VERSION), "7")
    state.close()
    assert shape(tmp_path / "old.sqlite") == shape(tmp_path / "new.sqlite")


def set_schema(home, version):
    with site.Federation(home.parent).open() as coordinator, coordinator.write() as tx:
        tx.put("schema", version)


@pytest.mark.parametrize("version", [str(SCHEMA_VERSION + 1), "0", "two", ""])
def test_a_schema_that_this_kit_does_not_know_is_refused_and_left_as_it_is(tmp_path, version):
    federation = site.found(tmp_path)
    set_schema(federation.hub, version)
    before = federation.hub.joinpath("state.sqlite").read_bytes()
    with pytest.raises(KitError, match="schema version") as refusal, federation.open():
        pass
    assert "version of the kit" in refusal.value.hint
    assert federation.hub.joinpath("state.sqlite").read_bytes() == before


def test_a_migration_waits_until_no_server_uses_the_state_and_is_whole_or_nothing(
    tmp_path, monkeypatch
):
    federation = site.found(tmp_path)
    steps = (*migrations.STEPS, ("ALTER TABLE sites ADD COLUMN colour VARCHAR",))
    monkeypatch.setattr(migrations, "STEPS", (*steps[:-1], (*steps[-1], "DROP TABLE no_such")))
    monkeypatch.setattr("coordinator.state.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    with pytest.raises(KitError, match="cannot be used"), federation.open():
        pass
    assert "colour" not in str(shape(federation.hub / "state.sqlite"))
    monkeypatch.setattr(migrations, "STEPS", steps)
    with (
        exclusive(federation.hub / SERVE_LOCK, busy="-"),
        pytest.raises(KitError, match="coordinator serve"),
        federation.open(),
    ):
        pass
    assert "colour" not in str(shape(federation.hub / "state.sqlite"))
    with Coordinator.open(federation.hub) as coordinator, coordinator.write() as tx:
        assert tx.get("schema") == str(SCHEMA_VERSION + 1)
        tx.put("seen", clock.rfc3339(tx.now))
    assert "colour" in str(shape(federation.hub / "state.sqlite"))
