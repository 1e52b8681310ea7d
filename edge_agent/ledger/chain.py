"""The ledger's file: entries in a hash chain, and which unit took part in which run.

Rows are only ever appended, under one writer's lock; what other processes appended is folded in
before every look. What an entry means is for `entries`, what may be appended for `account`.
"""

import hashlib
import hmac
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from edge_agent.ledger.entries import LedgerRun, apply, cohort_digest, first_link, next_link
from kit import canonical
from kit.errors import FormatError, KitError
from kit.files import os_errors

SCHEMA_VERSION = 1
WAIT_FOR_LOCK_S = 30.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (id BLOB NOT NULL, key_check BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS entries (
    counter INTEGER PRIMARY KEY, body BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS members (
    unit BLOB NOT NULL, run TEXT NOT NULL, PRIMARY KEY (unit, run)) WITHOUT ROWID;
"""
_APPEND_ONLY = (
    "CREATE TRIGGER IF NOT EXISTS {table}_{verb} BEFORE {verb} ON {table} "
    "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
)


class Chain:
    """The entries at `path`, verified; ask and append within `reading` and `writing`.

    Attributes:
        runs: every run's account, oldest first.
        counter: how many entries there are.
        hash: the last link, 32 bytes.
    """

    def __init__(self, path: Path, secret: bytes) -> None:
        """Open or create the file, and verify it.

        Raises:
            KitError: the file is no ledger, was changed, or belongs to another secret.
        """
        self._path, self._secret = path, secret
        self.runs: dict[str, LedgerRun] = {}
        self.counter, self.hash = 0, b""
        with os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self._sql_errors():
            self._db = sqlite3.connect(path, timeout=WAIT_FOR_LOCK_S, isolation_level=None)
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the writer's lock; what was appended is on the disk afterwards, or nothing is."""
        with self._sql_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._catch_up()
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._forget()
                raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See one state of the file."""
        with self._sql_errors():
            self._db.execute("BEGIN")
            try:
                self._catch_up()
                yield
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def append(self, entry: dict[str, Any]) -> None:
        """Append one entry."""
        body = canonical.encode(entry)
        row = (self.counter + 1, body, next_link(self.hash, body))
        self._db.execute("INSERT INTO entries VALUES (?, ?, ?)", row)
        self._fold(*row)

    def append_run(self, entry: dict[str, Any], names: list[bytes]) -> None:
        """Append a run's first entry, and who takes part in it."""
        self.append(entry)
        rows = ((name, entry["run"]) for name in names)
        self._db.executemany("INSERT INTO members VALUES (?, ?)", rows)

    def runs_of(self, names: list[bytes]) -> dict[bytes, frozenset[str]]:
        """Return the runs that each unit took part in, which may be none."""
        self._db.execute("DELETE FROM temp.asked")
        self._db.executemany("INSERT INTO temp.asked VALUES (?)", ((n,) for n in names))
        rows = self._db.execute("SELECT unit, run FROM members JOIN temp.asked USING (unit)")
        nothing: dict[bytes, frozenset[str]] = dict.fromkeys(names, frozenset())
        return nothing | _by_unit(rows)

    def everyone(self) -> dict[bytes, frozenset[str]]:
        """Return the runs of every unit that is known."""
        return _by_unit(self._db.execute("SELECT unit, run FROM members"))

    def entries_with(self, text: str) -> Iterator[bytes]:
        """Yield the entries in which `text` stands, oldest first."""
        rows = self._db.execute(
            "SELECT body FROM entries WHERE instr(body, ?) ORDER BY counter", (text.encode(),)
        )
        return (self._blob(row) for row in rows)

    def link(self, counter: int) -> bytes | None:
        """Return the hash after so many entries; None if there are not as many."""
        if counter == 0:
            return self._first_hash()
        rows = self._db.execute("SELECT hash FROM entries WHERE counter = ?", (counter,))
        row = rows.fetchone()
        return None if row is None else self._blob(row)

    def verify(self) -> None:
        """Recompute the whole chain and every run's cohort.

        Raises:
            KitError: an entry or a list of units was changed.
        """
        with self.reading():
            self._forget()
            self._catch_up()
            rows = self._db.execute("SELECT run, unit FROM members ORDER BY run, unit")
            cohorts = {
                run: cohort_digest([self._blob((unit,)) for _, unit in group])
                for run, group in groupby(rows, key=itemgetter(0))
            }
            if cohorts != {run.run_id: run.cohort for run in self.runs.values()}:
                raise self._changed()

    def _open(self) -> None:
        with self._sql_errors():
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("CREATE TEMP TABLE asked (unit BLOB PRIMARY KEY) WITHOUT ROWID")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._create()
            elif version != SCHEMA_VERSION:
                raise KitError(f"ledger `{self._path}` has schema {version}, not {SCHEMA_VERSION}")
            check = self._meta("key_check")
        if not hmac.compare_digest(check, self._key_check()):
            raise KitError(
                f"ledger `{self._path}` was made with another site secret",
                hint="restore the secret and the ledger together",
            )
        self.verify()

    def _create(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            self._db.execute(statement)
        for table in ("meta", "entries", "members"):
            for verb in ("UPDATE", "DELETE"):
                self._db.execute(_APPEND_ONLY.format(table=table, verb=verb))
        self._db.execute(
            "INSERT INTO meta SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM meta)",
            (os.urandom(16), self._key_check()),
        )
        self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._db.execute("COMMIT")

    def _key_check(self) -> bytes:
        return hmac.digest(self._secret, b"privacy ledger: key check", hashlib.sha256)

    def _first_hash(self) -> bytes:
        return first_link(self._meta("id"))

    def _meta(self, column: Literal["id", "key_check"]) -> bytes:
        return self._blob(self._db.execute(f"SELECT {column} FROM meta").fetchone())  # noqa: S608

    def _blob(self, row: tuple[Any, ...] | None) -> bytes:
        """Return the only value of a row: SQLite keeps to no column's type by itself."""
        if row is None or len(row) != 1 or not isinstance(row[0], bytes):
            raise self._changed()
        return row[0]

    def _forget(self) -> None:
        self.runs, self.counter, self.hash = {}, 0, self._first_hash()

    @contextmanager
    def _sql_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise KitError(
                f"ledger `{self._path}` cannot be used: {error}",
                hint="free some space, or let the other command finish, and run this one again",
            ) from error
        except sqlite3.DatabaseError as error:
            raise KitError(f"`{self._path}` is not an intact ledger: {error}") from error

    def _catch_up(self) -> None:
        """Fold in the entries that were appended since the last look, by any process."""
        rows = self._db.execute(
            "SELECT counter, body, hash FROM entries WHERE counter > ? ORDER BY counter",
            (self.counter,),
        )
        for counter, body, link in rows:
            self._fold(counter, body, link)

    def _fold(self, counter: int, body: bytes, link: bytes) -> None:
        before = self.hash or self._first_hash()
        if counter != self.counter + 1 or link != next_link(before, self._blob((body,))):
            raise self._changed()
        try:
            apply(self.runs, body)
        except FormatError as error:
            raise self._changed() from error
        self.counter, self.hash = counter, link

    def _changed(self) -> KitError:
        return KitError(
            f"ledger `{self._path}` was changed outside this program",
            hint="restore it from a copy that has every run since, and tell the coordinator",
        )


def _by_unit(rows: Iterable[tuple[bytes, str]]) -> dict[bytes, frozenset[str]]:
    runs_of: dict[bytes, set[str]] = {}
    for unit, run in rows:
        runs_of.setdefault(unit, set()).add(run)
    return {unit: frozenset(runs) for unit, runs in runs_of.items()}
