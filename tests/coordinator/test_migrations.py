"""Every schema that was ever on the main branch keeps opening; a newer one is refused."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from coordinator.context import Coordinator
from coordinator.home import Home
from coordinator.state import SCHEMA_VERSION, SERVE_LOCK, Location, State, metadata, schema
from kit import clock
from kit.errors import KitError
from kit.files import exclusive
from tests.fakes import site, states

VECTORS = Path(__file__).parents[1] / "vectors" / "state"
VERSIONS = range(1, SCHEMA_VERSION + 1)
IN_META = range(1, 8)  # up to 7 the version stood in the table `meta`


def old_state(path, version):
    """A database as version `version` of the schema made it, with one row that must survive."""
    with sqlite3.connect(path) as db:
        db.executescript((VECTORS / f"schema-{version}.sql").read_text())
        if version in IN_META:
            db.execute("INSERT INTO meta VALUES ('schema', ?)", (str(version),))
        else:
            db.execute("INSERT INTO alembic_version VALUES (?)", (str(version),))
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
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    old_state(Location(old).file, version)
    State.create(Location(new)).close()
    state = State.open(Location(old))
    with state.read() as tx:
        assert (schema.version(tx), tx.get("revocations")) == (SCHEMA_VERSION, "7")
        assert tx.get("schema") is None  # so that an older kit knows that it does not know it
    state.close()
    assert shape(Location(old).file) == shape(Location(new).file)


@pytest.mark.both_states
def test_the_migrations_end_where_the_tables_are(tmp_path):
    assert ScriptDirectory(schema.SCRIPTS).get_heads() == [str(SCHEMA_VERSION)]
    with site.found(tmp_path).open() as coordinator, coordinator.state.read() as tx:
        context = MigrationContext.configure(tx.connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        metadata_of_more = sa.MetaData()
        for table in metadata.sorted_tables:
            table.to_metadata(metadata_of_more)
        sa.Table("more", metadata_of_more, sa.Column("x", sa.Integer))
        assert compare_metadata(context, metadata_of_more)  # the positive control


def set_schema(federation, version):
    with federation.database() as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))


def version_of(federation):
    with federation.database() as database:
        return database.execute("SELECT version_num FROM alembic_version").fetchall()


@pytest.mark.both_states
@pytest.mark.parametrize("version", [str(SCHEMA_VERSION + 1), "0", "two", ""])
def test_a_schema_that_this_kit_does_not_know_is_refused_and_left_as_it_is(tmp_path, version):
    federation = site.found(tmp_path)
    with federation.open() as coordinator:
        assert coordinator.now()
    set_schema(federation, version)
    with pytest.raises(KitError, match="schema version") as refusal, federation.open():
        pass
    assert "version of the kit" in refusal.value.hint
    assert version_of(federation) == [(version,)]


COLOUR = """
from alembic import op

revision, down_revision = "{new}", "{head}"


def upgrade():
    op.execute("ALTER TABLE sites ADD COLUMN colour VARCHAR")
    {more}
"""


@pytest.mark.both_states
def test_a_migration_waits_until_no_server_uses_the_state_and_is_whole_or_nothing(
    tmp_path, monkeypatch
):
    federation = site.found(tmp_path)
    scripts = tmp_path / "migrations"
    (scripts / "versions").mkdir(parents=True)
    for path in schema.SCRIPTS.rglob("*.py"):
        (scripts / path.relative_to(schema.SCRIPTS)).write_bytes(path.read_bytes())
    step = scripts / "versions" / "next.py"
    names = {"new": SCHEMA_VERSION + 1, "head": SCHEMA_VERSION}
    step.write_text(COLOUR.format(**names, more='op.execute("DROP TABLE no_such")'))
    monkeypatch.setattr(schema, "SCRIPTS", scripts)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    with pytest.raises((KitError, sa.exc.ProgrammingError), match="no_such"), federation.open():
        pass
    assert not has_colour(federation)
    step.write_text(COLOUR.format(**names, more=""))
    with (
        exclusive(federation.hub / SERVE_LOCK, busy="-"),
        pytest.raises(KitError, match="coordinator serve"),
        federation.open(),
    ):
        pass
    assert not has_colour(federation)
    with Coordinator.open(federation.hub) as coordinator, coordinator.write() as tx:
        assert schema.version(tx) == SCHEMA_VERSION + 1
        tx.put("seen", clock.rfc3339(tx.now))
    assert has_colour(federation)


def has_colour(federation):
    state = State(Home(federation.hub).state)
    with state.read() as tx:
        columns = sa.inspect(tx.connection).get_columns("sites")
    state.close()
    return "colour" in {column["name"] for column in columns}


@pytest.mark.postgresql
def test_a_database_that_holds_something_is_no_place_for_a_state(tmp_path):
    with states.KINDS.chosen(states.POSTGRESQL):
        url = states.new_url()
        federation = site.found(tmp_path / "one", state=url)
        with federation.open() as coordinator, coordinator.write() as tx:
            size = tx.log_size()
        with pytest.raises(KitError, match="is not empty") as refusal:
            site.found(tmp_path / "two", state=url)
        assert "createdb" in refusal.value.hint
        assert not (tmp_path / "two" / "hub").exists()
        with federation.open() as coordinator, coordinator.write() as tx:
            assert tx.log_size() == size
