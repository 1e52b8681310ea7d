"""The account: what a run may spend, and who has room for it."""

import hashlib
import hmac
import math
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from edge_agent.ledger.chain import Chain
from edge_agent.ledger.entries import (
    Budget,
    GateVerdict,
    LedgerRun,
    LedgerStatus,
    Trials,
    cohort_digest,
    compose,
    run_entry,
)
from federation.accounting import DpEvent
from federation.study import Unit
from kit import canonical
from kit.errors import KitError

MIN_SECRET_BYTES = 16
_SLACK = 1e-9  # epsilons are compared as decimal figures; less than this is rounding


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
        self._secret, self.budget = secret, budget
        self._chain = Chain(path, secret)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._chain.close()

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
        with self._chain.writing():
            if canonical.name(run_id, what="run id") in self._chain.runs:
                self._require_same(run_id, names, wanted)
                return Reservation(self, run_id)
            self._require_budget(names, wanted, unit_kind)
            entry = run_entry(run_id, names, wanted, now, unit_kind, settings)
            self._chain.append_run(entry, names)
        return Reservation(self, run_id)

    def mark_unbounded(self, run_id: str, units: Collection[str], now: datetime) -> None:
        """Record a run without privacy: its units take part in no private run afterwards.

        Raises:
            KitError: `run_id` is known with other units, or as a private run.
        """
        names = self._pseudonyms(units)
        with self._chain.writing():
            if canonical.name(run_id, what="run id") in self._chain.runs:
                self._require_same(run_id, names, ())
            else:
                self._chain.append_run(run_entry(run_id, names, (), now, None), names)

    def charge(self, run_id: str, steps: int) -> None:
        """Charge `steps` more steps to a reserved run, durably.

        Raises:
            KitError: the run is unknown or settled, or has fewer steps left.
            RuntimeError: `steps` is not positive.
        """
        if steps < 1:
            raise RuntimeError("a charge is at least one step")
        with self._chain.writing():
            run = self._known(run_id)
            if run.is_settled:
                raise KitError(f"run `{run_id}` takes no more steps: it is closed in the ledger")
            if run.charged + steps > run.reserved:
                raise KitError(
                    f"run `{run_id}` has {run.reserved - run.charged} reserved steps left, "
                    f"not {steps}",
                    hint="steps that were charged before a crash stay spent; start a new run",
                )
            self._chain.append({"kind": "charge", "run": run_id, "steps": steps})

    def settle(self, run_id: str) -> None:
        """Close a run: steps that were reserved and not charged are free again. Idempotent.

        Raises:
            KitError: the run is unknown.
        """
        with self._chain.writing():
            if not self._known(run_id).is_settled:
                self._chain.append({"kind": "settle", "run": run_id})

    def run(self, run_id: str) -> LedgerRun:
        """Return one run's account.

        Raises:
            KitError: the run is unknown.
        """
        with self._chain.reading():
            return self._known(run_id)

    def runs(self) -> tuple[LedgerRun, ...]:
        """Return every run, oldest first."""
        with self._chain.reading():
            return tuple(self._chain.runs.values())

    def spent(self, units: Collection[str], more: Sequence[DpEvent] = ()) -> float:
        """Return the epsilon of the worst of `units` at the budget's delta; inf if unbounded.

        `more` are events that are not in the ledger and count as well: what a run would cost.
        """
        with self._chain.reading():
            histories = self._histories(self._pseudonyms(units))
            return max(self._epsilon(history, more) for history in histories)

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
        with self._chain.reading():
            runs_of = self._chain.runs_of(list(keys))
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

    def runs_of(self, names: Collection[str]) -> dict[str, frozenset[str]]:
        """Return the runs that each of some pseudonyms (hexadecimal) took part in."""
        with self._chain.reading():
            found = self._chain.runs_of([bytes.fromhex(name) for name in sorted(set(names))])
        return {name.hex(): runs for name, runs in found.items()}

    def status(self) -> LedgerStatus:
        """Return the whole account for people."""
        with self._chain.reading():
            histories = set(self._chain.everyone().values())
            return LedgerStatus(
                budget=self.budget,
                worst=max(map(self._epsilon, histories), default=0.0),
                runs=tuple(self._chain.runs.values()),
                trials=self._trials(),
                head=self._chain.hash.hex(),
                counter=self._chain.counter,
            )

    def head(self) -> tuple[str, int]:
        """Return the chain's hash (hexadecimal) and the number of entries, for the statement."""
        with self._chain.reading():
            return self._chain.hash.hex(), self._chain.counter

    def record_verdict(self, verdict: GateVerdict) -> None:
        """Remember what the gate said of some weights; the same again changes nothing."""
        with self._chain.writing():
            if verdict not in self._verdicts(verdict.weights):
                self._chain.append(verdict.entry())

    def verdicts(self, weights: str) -> tuple[GateVerdict, ...]:
        """Return everything that the gate ever said of weights of this SHA-256, oldest first."""
        with self._chain.reading():
            return self._verdicts(weights)

    def has(self, head: str, counter: int) -> bool:
        """Say whether the chain had this hash (hexadecimal) after `counter` entries."""
        with self._chain.reading():
            return self._chain.link(counter) == bytes.fromhex(head)

    def verify(self) -> None:
        """Recompute the whole chain and every run's cohort.

        Raises:
            KitError: an entry or a list of units was changed.
        """
        self._chain.verify()

    def _trials(self) -> tuple[Trials, ...]:
        together: dict[str, list[str]] = {}
        for run in self._chain.runs.values():
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
        return set(self._chain.runs_of(names).values())

    def _events(self, history: frozenset[str]) -> tuple[DpEvent, ...]:
        spent = (run.spent() for run in self._chain.runs.values() if run.run_id in history)
        return tuple(event for events in spent for event in events)

    def _epsilon(self, history: frozenset[str], more: Sequence[DpEvent] = ()) -> float:
        if not all(self._chain.runs[run_id].is_private for run_id in history):
            return math.inf
        return compose((*self._events(history), *more), self.budget.delta)

    def _require_bounded(self, histories: set[frozenset[str]]) -> None:
        if any(math.isinf(self._epsilon(history)) for history in histories):
            raise KitError(
                "some of these units were used in a run without privacy; no private run can follow",
                hint="leave them out, or train without privacy where the study allows it",
            )

    def _require_one_kind(self, histories: set[frozenset[str]], unit_kind: Unit) -> None:
        others = {self._chain.runs[run_id].unit_kind for history in histories for run_id in history}
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
        run = self._chain.runs[run_id]
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
        entries = self._chain.entries_with(weights)
        return tuple(GateVerdict.of_entry(canonical.decode(entry)) for entry in entries)

    def _known(self, run_id: str) -> LedgerRun:
        if run_id not in self._chain.runs:
            raise KitError(f"run `{canonical.printable(run_id)}` is not in the ledger")
        return self._chain.runs[run_id]
