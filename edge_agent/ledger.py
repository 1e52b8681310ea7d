"""The privacy ledger: what every unit of this site has spent of its lifetime (epsilon, delta).

Invariants:

- One ledger per installation. Units are HMAC-SHA256 pseudonyms under the site's secret.
- A run reserves all of its events before it starts. Until it is settled, all of it counts against
  other runs; afterwards the steps that were charged do.
- A step is charged, and on the disk, before its result may be used; never more than were reserved.
- The account of the worst unit decides. Renyi curves are composed, epsilons are never added.
- Rows are only ever appended, under one writer's lock, and every entry is chained to the one
  before: `H_i = SHA-256(H_{i-1} || body_i)`, `H_0 = SHA-256("ledger" || random id)`.
- A run without privacy spends without bound: its units take part in no private run afterwards.
- An image is protected as itself or as one of its patient's, for its lifetime: a bound per image
  says nothing of a patient with several, so the two kinds of run are never mixed over one image.

The chain shows that this file was changed or rolled back; a person who rewrites the whole file is
caught by the statements that earlier heads went into.
"""

import hashlib
import hmac
import math
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, Self

from edge_agent.ledger_entries import (
    Budget,
    GateVerdict,
    LedgerRun,
    LedgerStatus,
    Trials,
    apply,
    cohort_digest,
    compose,
    first_link,
    next_link,
    run_entry,
)
from federation.accounting import DpEvent
from federation.study import Unit
from kit import canonical
from kit.errors import FormatError, KitError
from kit.files import os_errors

__all__ = [
    "Budget",
    "GateVerdict",
    "Ledger",
    "LedgerRun",
    "LedgerStatus",
    "Reservation",
    "Trials",
]

SCHEMA_VERSION = 1
WAIT_FOR_LOCK_S = 30.0
MIN_SECRET_BYTES = 16
_SLACK = 1e-9  # epsilons are compared as decimal figures; less than this is rounding

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


def pseudonym(secret: bytes, unit: str) -> bytes:
    """Return the keyed hash by which a ledger under `secret` knows a unit."""
    return hmac.digest(secret, b"privacy ledger: unit\0" + unit.encode(), hashlib.sha256)


class Reservation:
    """A run's right to take steps: what the training loop charges."""

    def __init__(self, ledger: "Ledger", run_id: str) -> None:
        self._ledger, self.run_id = ledger, run_id

    @property
    def charged(self) -> int:
        """Steps charged so far, by this process or an earlier one."""
        return self._ledger.run(self.run_id).charged

    @property
    def reserved(self) -> int:
        """Steps that may be charged in all."""
        return self._ledger.run(self.run_id).reserved

    def charge(self, steps: int) -> None:
        """Charge `steps` more steps; they are on the disk when this returns.

        Raises:
            KitError: they would be more than were reserved, or the run is settled.
        """
        self._ledger.charge(self.run_id, steps)


class Ledger:
    """The account at `path`; safe to open from several processes at once."""

    def __init__(self, path: Path, secret: bytes, budget: Budget) -> None:
        """Open or create a ledger, and verify its chain.

        Args:
            path: the SQLite file.
            secret: the site's secret for pseudonyms; the same for the ledger's lifetime.
            budget: the lifetime allowance per unit.

        Raises:
            KitError: the file is no ledger, was changed, or belongs to another secret.
            RuntimeError: `secret` is too short.
        """
        if len(secret) < MIN_SECRET_BYTES:
            raise RuntimeError(f"the ledger's secret has at least {MIN_SECRET_BYTES} bytes")
        self._path, self._secret, self.budget = path, secret, budget
        self._runs: dict[str, LedgerRun] = {}
        self._counter, self._hash = 0, b""
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._db.close()

    def reserve(
        self,
        run_id: str,
        units: Collection[str],
        events: Sequence[DpEvent],
        now: datetime,
        *,
        unit_kind: Unit,
        settings: str = "",
    ) -> Reservation:
        """Set aside all of `events` for every unit; the same call again resumes the run.

        Args:
            run_id: the run, an identifier.
            units: the raw keys to charge (`Cohort.account_keys`).
            events: all releases the run may make, in their order: steps are charged to the first
                event until it is used up, then to the next.
            now: the time, for the record.
            unit_kind: what the events protect.
            settings: what the run is tried with, for the record; a resumed run keeps its first.

        Raises:
            KitError: the worst unit would pass the budget, a unit was used without privacy or
                under another kind of unit, or `run_id` is known with other units or other events.
            RuntimeError: there is no event.
        """
        if not events:
            raise RuntimeError("a private run has at least one event")
        names, wanted = self._pseudonyms(units), tuple(events)
        with self._writing():
            if canonical.name(run_id, what="run id") in self._runs:
                self._require_same(run_id, names, wanted)
                return Reservation(self, run_id)
            self._require_budget(names, wanted, unit_kind)
            entry = run_entry(run_id, names, wanted, now, unit_kind, settings)
            self._append_run(entry, names)
        return Reservation(self, run_id)

    def mark_unbounded(self, run_id: str, units: Collection[str], now: datetime) -> None:
        """Record a run without privacy: its units take part in no private run afterwards.

        Raises:
            KitError: `run_id` is known with other units, or as a private run.
        """
        names = self._pseudonyms(units)
        with self._writing():
            if canonical.name(run_id, what="run id") in self._runs:
                self._require_same(run_id, names, ())
            else:
                self._append_run(run_entry(run_id, names, (), now, None), names)

    def charge(self, run_id: str, steps: int) -> None:
        """Charge `steps` more steps to a reserved run, durably.

        Raises:
            KitError: the run is unknown or settled, or has fewer steps left.
            RuntimeError: `steps` is not positive.
        """
        if steps < 1:
            raise RuntimeError("a charge is at least one step")
        with self._writing():
            run = self._known(run_id)
            if run.is_settled:
                raise KitError(f"run `{run_id}` takes no more steps: it is closed in the ledger")
            if run.charged + steps > run.reserved:
                raise KitError(
                    f"run `{run_id}` has {run.reserved - run.charged} reserved steps left, "
                    f"not {steps}",
                    hint="steps that were charged before a crash stay spent; start a new run",
                )
            self._append({"kind": "charge", "run": run_id, "steps": steps})

    def settle(self, run_id: str) -> None:
        """Close a run: steps that were reserved and not charged are free again. Idempotent.

        Raises:
            KitError: the run is unknown.
        """
        with self._writing():
            if not self._known(run_id).is_settled:
                self._append({"kind": "settle", "run": run_id})

    def run(self, run_id: str) -> LedgerRun:
        """Return one run's account.

        Raises:
            KitError: the run is unknown.
        """
        with self._reading():
            return self._known(run_id)

    def runs(self) -> tuple[LedgerRun, ...]:
        """Return every run, oldest first."""
        with self._reading():
            return tuple(self._runs.values())

    def spent(self, units: Collection[str]) -> float:
        """Return the epsilon of the worst of `units` at the budget's delta; inf if unbounded."""
        with self._reading():
            return max(map(self._epsilon, self._histories(self._pseudonyms(units))))

    def without_room(
        self, units: Collection[str], events: Sequence[DpEvent], *, unit_kind: Unit, run_id: str
    ) -> frozenset[str]:
        """Return those of `units` whose own account cannot bear `events` any more.

        Who takes part follows from each unit's own account alone, so that one unit's past neither
        changes a run's noise nor another's part in it. A unit of run `run_id` keeps its part.

        Args:
            units: the raw keys of the run that is planned (`Cohort.account_keys`).
            events: all releases that the run may make.
            unit_kind: what it would protect.
            run_id: the run, which may be reserved already and go on.

        Raises:
            KitError: one of the units was used without privacy or under another kind of unit.
        """
        keys, allowed = {pseudonym(self._secret, unit): unit for unit in units}, self.budget
        with self._reading():
            runs_of = self._runs_of(list(keys))
            histories = set(runs_of.values())
            self._require_bounded(histories)
            self._require_one_kind(histories, unit_kind)
            full = {
                history
                for history in histories
                if run_id not in history
                and compose((*self._events(history), *events), allowed.delta)
                > allowed.epsilon + _SLACK
            }
        return frozenset(keys[name] for name, history in runs_of.items() if history in full)

    def runs_with(self, unit: str) -> tuple[str, frozenset[str]]:
        """Return one unit's pseudonym (hexadecimal) and every run that it took part in."""
        with self._reading():
            names = self._pseudonyms([unit])
            return names[0].hex(), next(iter(self._histories(names)))

    def status(self) -> LedgerStatus:
        """Return the whole account for people."""
        with self._reading():
            runs_of = self._by_unit(self._db.execute("SELECT unit, run FROM members"))
            return LedgerStatus(
                budget=self.budget,
                worst=max(map(self._epsilon, set(runs_of.values())), default=0.0),
                runs=tuple(self._runs.values()),
                trials=self._trials(),
                head=self._hash.hex(),
                counter=self._counter,
            )

    def head(self) -> tuple[str, int]:
        """Return the chain's hash (hexadecimal) and the number of entries, for the statement."""
        with self._reading():
            return self._hash.hex(), self._counter

    def record_verdict(self, verdict: GateVerdict) -> None:
        """Remember what the gate said of some weights; the same again changes nothing."""
        with self._writing():
            if verdict not in self._verdicts(verdict.weights):
                self._append(verdict.entry())

    def verdicts(self, weights: str) -> tuple[GateVerdict, ...]:
        """Return everything that the gate ever said of weights of this SHA-256, oldest first."""
        with self._reading():
            return self._verdicts(weights)

    def has(self, head: str, counter: int) -> bool:
        """Say whether the chain had this hash (hexadecimal) after `counter` entries."""
        with self._reading():
            found = self._db.execute("SELECT hash FROM entries WHERE counter = ?", (counter,))
            row = found.fetchone()
            return (self._first_hash() if counter == 0 else row and row[0]) == bytes.fromhex(head)

    def verify(self) -> None:
        """Recompute the whole chain and every run's cohort.

        Raises:
            KitError: an entry or a list of units was changed.
        """
        with self._reading():
            self._runs, self._counter, self._hash = {}, 0, self._first_hash()
            self._catch_up()
            rows = self._db.execute("SELECT run, unit FROM members ORDER BY run, unit")
            cohorts = {
                run: cohort_digest([self._blob((unit,)) for _, unit in group])
                for run, group in groupby(rows, key=itemgetter(0))
            }
            if cohorts != {run.run_id: run.cohort for run in self._runs.values()}:
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

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._sql_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._catch_up()
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._runs, self._counter, self._hash = {}, 0, self._first_hash()
                raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._sql_errors():
            self._db.execute("BEGIN")
            try:
                self._catch_up()
                yield
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

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
            (self._counter,),
        )
        for counter, body, link in rows:
            self._fold(counter, body, link)

    def _fold(self, counter: int, body: bytes, link: bytes) -> None:
        before = self._hash or self._first_hash()
        if counter != self._counter + 1 or link != next_link(before, self._blob((body,))):
            raise self._changed()
        try:
            apply(self._runs, body)
        except FormatError as error:
            raise self._changed() from error
        self._counter, self._hash = counter, link

    def _append(self, entry: dict[str, Any]) -> None:
        body = canonical.encode(entry)
        row = (self._counter + 1, body, next_link(self._hash, body))
        self._db.execute("INSERT INTO entries VALUES (?, ?, ?)", row)
        self._fold(*row)

    def _append_run(self, entry: dict[str, Any], names: list[bytes]) -> None:
        self._append(entry)
        rows = ((name, entry["run"]) for name in names)
        self._db.executemany("INSERT INTO members VALUES (?, ?)", rows)

    def _trials(self) -> tuple[Trials, ...]:
        together: dict[str, list[str]] = {}
        for run in self._runs.values():
            if run.is_private:
                together.setdefault(run.cohort, []).append(run.run_id)
        return tuple(
            Trials(runs=tuple(runs), epsilon=self._epsilon(frozenset(runs)))
            for runs in together.values()
            if len(runs) > 1
        )

    def _pseudonyms(self, units: Collection[str]) -> list[bytes]:
        if not units:
            raise RuntimeError("an account is asked for at least one unit")
        return sorted(pseudonym(self._secret, unit) for unit in set(units))

    def _histories(self, names: list[bytes]) -> set[frozenset[str]]:
        """Return the distinct sets of runs that the units took part in."""
        return set(self._runs_of(names).values())

    def _runs_of(self, names: list[bytes]) -> dict[bytes, frozenset[str]]:
        """Return the runs that each unit took part in, which may be none."""
        self._db.execute("DELETE FROM temp.asked")
        self._db.executemany("INSERT INTO temp.asked VALUES (?)", ((n,) for n in names))
        rows = self._db.execute("SELECT unit, run FROM members JOIN temp.asked USING (unit)")
        nothing: dict[bytes, frozenset[str]] = dict.fromkeys(names, frozenset())
        return nothing | self._by_unit(rows)

    def _by_unit(self, rows: Iterable[tuple[bytes, str]]) -> dict[bytes, frozenset[str]]:
        runs_of: dict[bytes, set[str]] = {}
        for unit, run in rows:
            runs_of.setdefault(unit, set()).add(run)
        return {unit: frozenset(runs) for unit, runs in runs_of.items()}

    def _events(self, history: frozenset[str]) -> tuple[DpEvent, ...]:
        spent = (run.spent() for run in self._runs.values() if run.run_id in history)
        return tuple(event for events in spent for event in events)

    def _epsilon(self, history: frozenset[str]) -> float:
        if not all(self._runs[run_id].is_private for run_id in history):
            return math.inf
        return compose(self._events(history), self.budget.delta)

    def _require_bounded(self, histories: set[frozenset[str]]) -> None:
        if any(math.isinf(self._epsilon(history)) for history in histories):
            raise KitError(
                "some of these units were used in a run without privacy; no private run can follow",
                hint="leave them out, or train without privacy where the study allows it",
            )

    def _require_one_kind(self, histories: set[frozenset[str]], unit_kind: Unit) -> None:
        others = {self._runs[run_id].unit_kind for history in histories for run_id in history}
        for other in others - {unit_kind, None}:
            raise KitError(
                f"some of these images were used in a run that protected the {other}; this one "
                f"would protect the {unit_kind}, and the two do not add up to one bound",
                hint="go on with the same kind of unit (a patients.csv from the first run on), or"
                " leave these images out",
            )

    def _require_budget(
        self, names: list[bytes], events: tuple[DpEvent, ...], unit_kind: Unit
    ) -> None:
        histories = self._histories(names)
        self._require_bounded(histories)
        self._require_one_kind(histories, unit_kind)
        allowed, delta = self.budget.epsilon, self.budget.delta
        after = max(compose((*self._events(h), *events), delta) for h in histories)
        if after > allowed + _SLACK:
            before = max(map(self._epsilon, histories))
            raise KitError(
                f"the privacy budget is too small: epsilon {before:.3g} of {allowed:g} is spent or "
                f"reserved at delta {delta:g}, and this run would make it {after:.3g}",
                hint="settle runs that were given up, or take fewer steps or more noise",
            )

    def _require_same(self, run_id: str, names: list[bytes], events: tuple[DpEvent, ...]) -> None:
        run = self._runs[run_id]
        if run.cohort != cohort_digest(names):
            raise KitError(
                f"run `{run_id}` is in the ledger with other images or patients",
                hint="the data changed since it started: put them back, or start a new run",
            )
        if run.events != events:
            raise KitError(
                f"run `{run_id}` is in the ledger with other privacy settings",
                hint="use the settings it was started with, or start a new run",
            )

    def _verdicts(self, weights: str) -> tuple[GateVerdict, ...]:
        rows = self._db.execute(
            "SELECT body FROM entries WHERE instr(body, ?) ORDER BY counter", (weights.encode(),)
        )
        return tuple(GateVerdict.of_entry(canonical.decode(self._blob(row))) for row in rows)

    def _known(self, run_id: str) -> LedgerRun:
        if run_id not in self._runs:
            raise KitError(f"run `{canonical.printable(run_id)}` is not in the ledger")
        return self._runs[run_id]

    def _changed(self) -> KitError:
        return KitError(
            f"ledger `{self._path}` was changed outside this program",
            hint="restore it from a copy that has every run since, and tell the coordinator",
        )
