"""Erasing one patient: everything that the patient is in is taken back, and not made again.

Nothing here asks the privacy budget or waits for anybody: first this home forgets (no training
takes the patient, what waits here is not sent, the weights of the runs go), then the signed orders
leave. Who the patient is stays here; records know the patient by the ledger's keyed hash.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from edge_agent import contact, copies, outbox, runs, shipments, withdrawal
from edge_agent.erased import Erased
from edge_agent.exchange import Exchange
from edge_agent.home import Home
from edge_agent.ledger import Ledger
from edge_agent.training.folder import ERASED, LOCK, OPTIONS, PRIVACY
from kit import canonical, clock
from kit.errors import KitError
from kit.files import exclusive, os_errors, write_atomic

_KEPT = (runs.RUN, OPTIONS, PRIVACY, ERASED, LOCK)  # what a run was, without what it learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What an erasure found and did; the patient is not named in it.

    Attributes:
        patient: the pseudonym under which this site's ledger knows the patient.
        ledger_runs: the runs, by their ids in the ledger, that the patient took part in.
        withdrawn: the blueprints taken back now, or ordered back by the file that was written.
        withdrawn_before: those of these runs that had ended already.
        cannot_tell: blueprints in play of which this home does not know the run.
        runs_erased: run folders whose weights, checkpoints and samples were deleted.
        runs_in_use: those of another process; stop it and give the same command again.
    """

    patient: str
    ledger_runs: tuple[str, ...]
    withdrawn: tuple[str, ...]
    withdrawn_before: tuple[str, ...]
    cannot_tell: tuple[str, ...]
    runs_erased: tuple[str, ...]
    runs_in_use: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What was done here before anybody is told: the erasure so far, and what is to be ordered."""

    found: Erasure
    blueprints: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What an erasure would do, as far as this home knows; nothing was changed.

    Attributes:
        runs: names of the run folders whose weights, checkpoints and samples would be deleted.
        blueprints: what was sealed of the patient's runs; those in play would be taken back.
    """

    ledger_runs: tuple[str, ...]
    runs: tuple[str, ...]
    blueprints: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """Return it for the person who has to say yes."""
        return (
            f"runs in the ledger that the patient took part in: {_listed(self.ledger_runs)}",
            "run folders whose weights, checkpoints and samples are deleted now:"
            f" {_listed(self.runs)}",
            "blueprints taken back, if still in play, with every release made of them:"
            f" {_listed(digest[:16] for digest in self.blueprints)}",
            "no later training here takes the patient; there is no undo at this site",
        )


def preview(home: Home, patient: str, *, reason: str) -> Preview:
    """Return what `withdraw_patient` would do.

    Raises:
        KitError: the ledger knows no run with this patient, or the reason names the patient.
    """
    with runs.open_ledger(home) as ledger:
        _, affected = _runs_with(ledger, patient, reason)
    return Preview(
        ledger_runs=tuple(sorted(affected)),
        runs=tuple(folder.name for folder in _folders(home, affected)),
        blueprints=tuple(sorted(_blueprints(home, affected))),
    )


def withdraw_patient(home: Home, patient: str, *, reason: str, now: datetime) -> Erasure:
    """Take back every blueprint whose training one patient took part in, in every study.

    `patient` is the id that the patient map (or the image's digest) gave to `train`.

    Raises:
        KitError: the ledger knows no run with this patient, or the coordinator refuses; what is
            in this home is erased by then.
    """
    begun = begin(home, patient, reason=reason, now=now)
    with Exchange.open(home) as exchange:
        world = contact.contact(home, exchange)
        mine = [s for s in withdrawal.in_play(world) if s.digest in begun.blueprints]
        for status in mine:
            withdrawal.order(home, exchange, status, reason, now)
        if mine:
            world = contact.contact(home, exchange)
    ended = {s.digest for s in world.blueprints if s.state not in withdrawal.IN_PLAY}
    return finish(
        home,
        begun,
        withdrawn=[s.digest for s in mine],
        ended=ended,
        alive=[s.digest for s in withdrawal.in_play(world)],
        now=now,
    )


def begin(home: Home, patient: str, *, reason: str, now: datetime) -> Begun:
    """Do everything that an erasure does in this home; nobody has to be reached for it.

    Raises:
        KitError: the ledger knows no run with this patient, or the reason names the patient.
    """
    with runs.open_ledger(home) as ledger:
        pseudonym, affected = _runs_with(ledger, patient, reason)
        Erased(home).add(patient)
        _settle(ledger, affected)  # a training that still runs ends at its next step
    blueprints = _blueprints(home, affected)
    _stop_what_was_not_received(home, blueprints)
    erased, busy = _empty_runs(home, affected, now)
    found = Erasure(
        patient=pseudonym,
        ledger_runs=tuple(sorted(affected)),
        withdrawn=(),
        withdrawn_before=(),
        cannot_tell=(),
        runs_erased=erased,
        runs_in_use=busy,
    )
    _record(home, found, now)
    return Begun(found=found, blueprints=blueprints)


def finish(
    home: Home,
    begun: Begun,
    *,
    withdrawn: list[str],
    ended: set[str],
    alive: list[str],
    now: datetime,
) -> Erasure:
    """Record what an erasure did, once the orders are out; returns the record."""
    known = {s.blueprint for s in shipments.known(home) if s.run_id}
    found = replace(
        begun.found,
        withdrawn=tuple(withdrawn),
        withdrawn_before=tuple(sorted((ended & begun.blueprints) - set(withdrawn))),
        cannot_tell=tuple(digest for digest in alive if digest not in known),
    )
    _record(home, found, now)
    return found


def require_whole(found: Erasure) -> None:
    """Let a command end well only if no run of the patient's is left.

    Raises:
        KitError: another process holds one.
    """
    if found.runs_in_use:
        raise KitError(
            f"run `{found.runs_in_use[0]}` is in use by another process; its weights are not"
            " deleted yet",
            hint="stop that process and give the same command again",
        )


def _runs_with(ledger: Ledger, patient: str, reason: str) -> tuple[str, frozenset[str]]:
    """Return the patient's pseudonym and runs; refuses before anything is done."""
    if re.search(rf"(?<!\w){re.escape(patient)}(?!\w)", reason, re.IGNORECASE):
        raise KitError(
            "the reason contains the patient's id; nothing was done",
            hint="the reason is kept at this site: give words that name nobody",
        )
    pseudonym, affected = ledger.runs_with(patient)
    if not affected:
        raise KitError(
            "this patient took part in no run of this home's ledger; nothing was withdrawn",
            hint="give the id exactly as `patients.csv` has it; another home has another ledger",
        )
    return pseudonym, affected


def _blueprints(home: Home, affected: frozenset[str]) -> frozenset[str]:
    return frozenset(s.blueprint for s in shipments.known(home) if s.run_id in affected)


def _folders(home: Home, affected: frozenset[str]) -> Iterator[Path]:
    for path in sorted((home.path / "runs").glob(f"*/{runs.RUN}")):
        if runs.read_json(path)["id"] in affected:
            yield path.parent


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _settle(ledger: Ledger, affected: frozenset[str]) -> None:
    for run in ledger.runs():
        if run.run_id in affected and not run.is_settled:
            ledger.settle(run.run_id)


def _stop_what_was_not_received(home: Home, blueprints: frozenset[str]) -> None:
    """Keep what still waits here from being sent, even if the coordinator cannot be reached."""
    for digest in blueprints:
        folder = home.outbox / digest
        if folder.is_dir():
            outbox.remove(folder)
        copies.destroy(home, digest)


def _empty_runs(
    home: Home, affected: frozenset[str], now: datetime
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Delete what the runs learnt; returns the names of those emptied and of those in use."""
    erased, busy = [], []
    for folder in _folders(home, affected):
        with ExitStack() as stack:
            try:
                stack.enter_context(exclusive(folder / LOCK, busy="in use"))
            except KitError:
                busy.append(folder.name)
                continue
            _empty(folder, now)
            erased.append(folder.name)
    return tuple(erased), tuple(busy)


def _empty(folder: Path, now: datetime) -> None:
    if not (folder / ERASED).is_file():  # first: a run that is half deleted is not used
        table = {"version": 1, "time": clock.rfc3339(now)}
        write_atomic(folder / ERASED, canonical.encode(table), mode=0o600)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.relative_to(folder).parts[0] in _KEPT:
            continue
        with os_errors(path):
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
    with os_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _record(home: Home, found: Erasure, now: datetime) -> None:
    """Keep what an erasure did, under the patient's pseudonym."""
    table = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(found).items()}
    table["time"] = clock.rfc3339(now)
    name = f"erasure-{found.patient[:16]}-{int(now.timestamp())}.json"
    write_atomic(home.path / "withdrawals" / name, canonical.encode(table), mode=0o600)
