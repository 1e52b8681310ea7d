"""What the privacy ledger records: entries, the chain between them, and what they add up to.

Pure rules over bytes; `chain` keeps the file, `account` decides.

- An entry is canonical JSON of kind `reserve`, `unbounded`, `charge`, `settle` or `gate`.
- `H_i = SHA-256(H_{i-1} || body_i)` and `H_0 = SHA-256("ledger" || random id)`.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Self

import numpy as np

from federation.accounting import ORDERS, Curve, DpEvent, epsilon_of, rdp_curve
from federation.study import Unit
from kit import canonical, clock
from kit.errors import FormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The lifetime allowance of every unit: `epsilon` at `delta`."""

    epsilon: float
    delta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRun:
    """One run's account.

    Attributes:
        run_id: the run.
        cohort: SHA-256 over the sorted pseudonyms of its units.
        units: how many keys it charges (units and their images).
        events: what was reserved, in the order of release; none for a run without privacy.
        unit_kind: what the events protect; None for a run without privacy.
        charged: steps charged so far, those of the first event first.
        is_settled: nothing more may be charged, and unused steps are free again.
        time: when it was reserved, RFC 3339.
        settings: what it was tried with, in words for the site's people.
    """

    run_id: str
    cohort: str
    units: int
    events: tuple[DpEvent, ...]
    unit_kind: Unit | None
    charged: int
    is_settled: bool
    time: str
    settings: str = ""

    @property
    def is_private(self) -> bool:
        """Whether the run has a bound at all."""
        return bool(self.events)

    @property
    def reserved(self) -> int:
        """Steps that may be charged in all."""
        return sum(event.steps for event in self.events)

    def spent(self) -> tuple[DpEvent, ...]:
        """Return what counts against the budget: all that is reserved, or charged once settled."""
        if not self.is_settled:
            return self.events
        left, counted = self.charged, []
        for event in self.events:
            counted.append(replace(event, steps=min(event.steps, left)))
            left -= counted[-1].steps
        return tuple(event for event in counted if event.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Private runs over the very same units: tries of one training, and what they cost together."""

    runs: tuple[str, ...]
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """What the gate said of some weights: their SHA-256, its report's, and whether they passed."""

    weights: str
    report: str
    passed: bool

    def entry(self) -> dict[str, Any]:
        """Return the ledger's entry."""
        return {"kind": "gate"} | asdict(self)

    @classmethod
    def of_entry(cls, entry: dict[str, Any]) -> Self:
        """Read what `entry` wrote.

        Raises:
            FormatError: a field is missing or unknown.
        """
        table = canonical.fields(entry, {"kind", *cls.__slots__}, what="gate verdict")
        if not isinstance(table["passed"], bool):
            raise FormatError("gate verdict is not true or false")
        return cls(
            weights=canonical.sha256_hex(table["weights"], what="weights digest"),
            report=canonical.sha256_hex(table["report"], what="report digest"),
            passed=table["passed"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStatus:
    """The whole account in a few figures, for people at the site.

    Attributes:
        budget: the lifetime allowance of every unit.
        worst: epsilon that the worst unit has spent or reserved; inf after a run without privacy.
        runs: every run, oldest first.
        trials: runs over the same units, where there are several.
        head: the chain's hash, hexadecimal.
        counter: number of entries.
    """

    budget: Budget
    worst: float
    runs: tuple[LedgerRun, ...]
    trials: tuple[Trials, ...]
    head: str
    counter: int

    def lines(self) -> list[str]:
        """Return the account, one line a fact."""
        allowed = f"{self.budget.epsilon:g} at delta {self.budget.delta:g}"
        if math.isinf(self.worst):
            lines = [f"some units were used without privacy; others have epsilon {allowed}"]
        else:
            lines = [f"the worst unit has spent or reserved epsilon {self.worst:.3g} of {allowed}"]
        lines += [_run_line(run) for run in self.runs]
        lines += [
            f"{len(tried.runs)} trials on the same units ({', '.join(tried.runs)}): together "
            f"epsilon {tried.epsilon:.3g}"
            for tried in self.trials
        ]
        return [*lines, f"entry {self.counter}, head {self.head}"]

    def to_table(self) -> dict[str, Any]:
        """Return the account as canonical JSON values; `worst` is None where it has no bound."""
        return {
            "epsilon": canonical.real(self.budget.epsilon),
            "delta": canonical.real(self.budget.delta),
            "worst": None if math.isinf(self.worst) else canonical.real(self.worst),
            "head": self.head,
            "counter": self.counter,
            "runs": [
                {
                    "run": run.run_id,
                    "time": run.time,
                    "reserved": run.reserved if run.is_private else None,
                    "charged": run.charged,
                    "settled": run.is_settled,
                    "settings": run.settings,
                }
                for run in self.runs
            ],
            "trials": [
                {"runs": list(tried.runs), "epsilon": canonical.real(tried.epsilon)}
                for tried in self.trials
            ],
        }


def first_link(identity: bytes) -> bytes:
    """Return H_0 of a new ledger from its random id."""
    return hashlib.sha256(b"ledger" + identity).digest()


def next_link(before: bytes, body: bytes) -> bytes:
    """Return H_i from H_{i-1} and an entry's bytes."""
    return hashlib.sha256(before + body).digest()


def cohort_digest(names: Sequence[bytes]) -> str:
    """Return the SHA-256 over sorted pseudonyms of 32 bytes each."""
    return hashlib.sha256(b"".join(names)).hexdigest()


def run_entry(
    run_id: str,
    names: Sequence[bytes],
    events: Sequence[DpEvent],
    now: datetime,
    unit_kind: Unit | None,
    settings: str = "",
) -> dict[str, Any]:
    """Return the entry that opens a run: `reserve` with its events, or `unbounded` without any."""
    entry: dict[str, Any] = {
        "kind": "reserve" if events else "unbounded",
        "run": run_id,
        "units": len(names),
        "cohort": cohort_digest(names),
        "time": clock.rfc3339(now),
    }
    if events:
        entry["events"] = [_event_table(event) for event in events]
        entry["unit"] = unit_kind
        entry["settings"] = settings
    return entry


def apply(runs: dict[str, LedgerRun], body: bytes) -> None:
    """Fold one entry into the accounts.

    Raises:
        FormatError: the bytes are no entry, or one of a run that was never opened.
    """
    entry = canonical.decode(body)
    try:
        if entry["kind"] == "gate":  # spends nothing; `Ledger.verdicts` reads it
            GateVerdict.of_entry(entry)
            return
        run_id = entry["run"]
        if entry["kind"] == "charge":
            run = runs[run_id]
            runs[run_id] = replace(run, charged=run.charged + entry["steps"])
        elif entry["kind"] == "settle":
            runs[run_id] = replace(runs[run_id], is_settled=True)
        else:
            runs[run_id] = _opened(entry)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError("ledger entry is malformed") from error


def compose(events: Iterable[DpEvent], delta: float) -> float:
    """Return the epsilon of all `events` together, as `federation.accounting.compose`.

    A ledger asks for the same few mechanisms over and over, so one step's curve is kept.
    """
    total = np.zeros(len(ORDERS))
    for event in events:
        total += _step_curve(event.sample_rate, event.noise_multiplier) * event.steps
    return epsilon_of(total, delta)


@lru_cache(maxsize=256)
def _step_curve(sample_rate: float, noise_multiplier: float) -> Curve:
    return rdp_curve(DpEvent(sample_rate=sample_rate, noise_multiplier=noise_multiplier, steps=1))


def _opened(entry: dict[str, Any]) -> LedgerRun:
    events: tuple[DpEvent, ...] = ()
    unit_kind = None
    if entry["kind"] == "reserve":
        unit_kind = Unit(entry.get("unit", Unit.IMAGE))  # none written: the weaker claim
        # an entry of before 2026-11 has its one event flat; the chain keeps it as it is
        events = tuple(_event(table) for table in entry.get("events", [entry]))
    return LedgerRun(
        run_id=entry["run"],
        cohort=entry["cohort"],
        units=entry["units"],
        events=events,
        unit_kind=unit_kind,
        charged=0,
        is_settled=not events,
        time=entry["time"],
        settings=str(entry.get("settings", "")),
    )


def _event_table(event: DpEvent) -> dict[str, Any]:
    return {
        "sample_rate": canonical.real(event.sample_rate),
        "noise_multiplier": canonical.real(event.noise_multiplier),
        "steps": event.steps,
    }


def _event(table: dict[str, Any]) -> DpEvent:
    return DpEvent(
        sample_rate=canonical.to_float(table["sample_rate"]),
        noise_multiplier=canonical.to_float(table["noise_multiplier"]),
        steps=table["steps"],
    )


def _run_line(run: LedgerRun) -> str:
    if not run.is_private:
        return f"{run.time} {run.run_id}: without privacy"
    state = "settled" if run.is_settled else f"open, {run.reserved} reserved"
    tried = f" ({run.settings})" if run.settings else ""
    return f"{run.time} {run.run_id}{tried}: {run.charged} steps charged, {state}"
