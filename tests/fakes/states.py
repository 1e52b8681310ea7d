"""The database of a test's federations: SQLite or PostgreSQL, and an insider's hands in it.

`site.found` and `site.copy` ask `new_url` and `copied`, so a test runs on either without knowing.
"""

import shutil
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import replace

import sqlalchemy as sa

from coordinator.home import CONFIG, CoordinatorConfig, Home
from kit import config
from tests.fakes import postgres

SQLITE, POSTGRESQL = "sqlite", "postgresql"


class Kinds:
    """Which kind of database new federations have now, and the one server of this session."""

    def __init__(self):
        self.now = SQLITE
        self._server, self._running = None, None
        self._made = []

    @property
    def server(self):
        """The server, started when first asked for; skips where there is none."""
        if self._server is None:
            self._running = postgres.running()
            self._server = self._running.__enter__()
        return self._server

    def create(self, template="template0"):
        return self.made(self.server.create(template))

    def made(self, name):
        self._made.append(name)
        return name

    @contextmanager
    def chosen(self, kind):
        """Use one kind for a block."""
        if kind == POSTGRESQL:
            assert self.server
        before, self.now = self.now, kind
        try:
            yield
        finally:
            self.now = before

    @contextmanager
    def dropped(self):
        """Drop at the end of a block the databases that were made in it."""
        before = set(self._made)
        yield
        for name in set(self._made) - before:
            self.server.drop(name)
            self._made.remove(name)

    def keep_newest(self):
        """Let the last database stay: a stage is for the whole session."""
        if self.now == POSTGRESQL:
            self._made.pop()

    def stop(self):
        if self._running is not None:
            self._running.__exit__(None, None, None)


KINDS = Kinds()


def new_url():
    """Return where a new federation keeps its state: a fresh database, or none."""
    return KINDS.server.url(KINDS.create()) if KINDS.now == POSTGRESQL else ""


def copied(hub):
    """Give the copy of a hub a database of its own, equal to that of the original."""
    settings = config.load(hub / CONFIG, CoordinatorConfig)
    if settings.state:
        url = KINDS.server.url(KINDS.create(_name(settings.state)))
        config.save(hub / CONFIG, replace(settings, state=url))


def _name(url):
    return sa.make_url(url).database


class Insider:
    """Somebody with the database: SQL with `?` for values, committed statement by statement."""

    def __init__(self, connection, *, blob, marks):
        self._connection, self._blob, self._marks = connection, blob, marks

    def execute(self, statement, values=()):
        """Run SQL; `BLOB` stands for one byte, and `?` for a value."""
        text = statement.replace("BLOB", self._blob).replace("?", self._marks)
        return self._connection.execute(text, values or None if self._marks == "%s" else values)

    @property
    def refusal(self):
        """The error by which the database itself refuses."""
        if self._marks == "?":
            return sqlite3.IntegrityError
        import psycopg

        return psycopg.errors.RaiseException

    def allow_edits(self, *tables):
        """Drop the triggers that refuse them."""
        where = "" if self._marks == "?" else " ON {}"
        for table in tables:
            for verb in ("update", "delete"):
                self.execute(f"DROP TRIGGER {table}_no_{verb}" + where.format(table))


@contextmanager
def insider(hub):
    """Open the database of a hub without the program."""
    place = Home(hub).state
    if place.is_file:
        with closing(sqlite3.connect(place.file, isolation_level=None, timeout=30)) as database:
            yield Insider(database, blob="x'00'", marks="?")
    else:
        with KINDS.server.connect(_name(place.url)) as database:
            yield Insider(database, blob=r"'\x00'::bytea", marks="%s")


def live_files(hub):
    """Return the bytes of every file that the database of a hub works on."""
    place = Home(hub).state
    if place.is_file:
        return [path.read_bytes() for path in hub.glob(f"{place.file.name}*")]
    return KINDS.server.live_files(_name(place.url))


def table_files(hub):
    """Return the bytes of the files with a hub's own rows, live, dead and in the journal."""
    place = Home(hub).state
    return live_files(hub) if place.is_file else KINDS.server.table_files(_name(place.url))


def dump(hub, path):
    """Dump a hub's PostgreSQL database into a file."""
    KINDS.server.dump(_name(Home(hub).state.url), path)


def loaded(path):
    """Return the URL of a new database with what was dumped."""
    return KINDS.server.url(KINDS.made(KINDS.server.load(path)))


def keep(hub):
    """Return a copy of a hub's database as it is now, for `put_back`."""
    place = Home(hub).state
    if not place.is_file:
        return KINDS.create(_name(place.url))
    with closing(sqlite3.connect(place.file)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    kept = hub.parent / f"kept-{len(list(hub.parent.glob('kept-*')))}.sqlite"
    shutil.copy(place.file, kept)
    return kept


def put_back(hub, kept):
    """Replace a hub's database by a kept copy."""
    place = Home(hub).state
    if place.is_file:
        for journal in hub.glob(f"{place.file.name}-*"):
            journal.unlink()
        shutil.copy(kept, place.file)
        return
    KINDS.server.drop(_name(place.url))
    with KINDS.server.connect() as server:
        server.execute(f"CREATE DATABASE {_name(place.url)} TEMPLATE {kept}")
