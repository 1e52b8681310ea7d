"""Erasing patients: everything that they are in is taken back, and not made with them again.

Nothing here asks the privacy budget or waits for anybody: first this home forgets (no training
takes them, what waits here is not sent, the weights of the runs go), then the signed orders leave.
Who the patients are stays here; records know them by the ledger's keyed hash. An order that leaves
has the same form for one patient, for several, and for a site that has reasons of its own (A11).
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from edge_agent import batches, contact, copies, outbox, runs, shipments, withdrawal
from edge_agent.batches import Batch, Step
from edge_agent.erased import Erased
from edge_agent.exchange import Exchange
from edge_agent.home import Home
from edge_agent.ledger import Ledger
from edge_agent.training.folder import ERASED, LOCK, OPTIONS, PRIVACY, REQUEST
from kit import canonical, clock
from kit.errors import KitError
from kit.files import exclusive, os_errors, write_atomic

_KEPT = (runs.RUN, OPTIONS, PRIVACY, REQUEST, ERASED, LOCK)  # what a run was, not what it learnt


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What an erasure found and did; no patient is named in it.

    Attributes:
        patients: the pseudonyms under which this site's ledger knows them.
        in_no_run: how many of them took part in no run of this home's ledger.
        ledger_runs: the runs, by their ids in the ledger, that one of them took part in.
        withdrawn: the blueprints taken back now, or ordered back by the file that was written.
        withdrawn_before: those of these runs that had ended already.
        cannot_tell: blueprints in play of which this home does not know the run.
        runs_erased: run folders whose weights, checkpoints and samples were deleted.
        runs_in_use: those of another process; stop it and give the same command again.
    """

    patients: tuple[str, ...]
    in_no_run: int
    ledger_runs: tuple[str, ...]
    withdrawn: tuple[str, ...]
    withdrawn_before: tuple[str, ...]
    cannot_tell: tuple[str, ...]
    runs_erased: tuple[str, ...]
    runs_in_use: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What was done here before anybody is told: the erasure so far, and what is to be ordered."""

    batch: Batch
    found: Erasure
    blueprints: frozenset[str]

    def ordering(self, home: Home, blueprints: Iterable[str]) -> "Begun":
        """Note that these blueprints are ordered back, before the orders leave."""
        batch, now = self.batch, set(blueprints)
        if batch.step is Step.REQUESTED:  # an earlier call was cut off, perhaps after its orders
            now |= set(batch.ordered)
        batch = replace(batch, ordered=tuple(sorted({*batch.ordered, *now}))).save(home)
        found = replace(self.found, withdrawn=tuple(sorted(now)))
        return replace(self, batch=batch, found=found)

    def ended(self, home: Home, *, ended: set[str], alive: Iterable[str]) -> "Begun":
        """Note that the orders are out; `ended` and `alive` is what became of all blueprints."""
        known = {s.blueprint for s in shipments.known(home) if s.run_id}
        found = replace(
            self.found,
            withdrawn_before=tuple(sorted((ended & self.blueprints) - set(self.found.withdrawn))),
            cannot_tell=tuple(digest for digest in alive if digest not in known),
        )
        if found.runs_in_use or self.batch.step is not Step.REQUESTED:
            return replace(self, found=found)
        is_open = any(each.is_open for each in self.batch.replacements)
        step = Step.WITHDRAWN if is_open else Step.DONE
        return replace(self, found=found, batch=replace(self.batch, step=step).save(home))


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What an erasure would do, as far as this home knows; nothing was changed.

    Attributes:
        patients: how many, and how many of them are in no run.
        runs: names of the run folders whose weights, checkpoints and samples would be deleted.
        blueprints: what was sealed of the patients' runs; those in play would be taken back.
    """

    patients: int
    in_no_run: int
    ledger_runs: tuple[str, ...]
    runs: tuple[str, ...]
    blueprints: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """Return it for the person who has to say yes."""
        who = "the patient" if self.patients == 1 else f"one of the {self.patients} patients"
        unknown: tuple[str, ...] = ()
        if self.in_no_run:
            unknown = (f"of {self.patients}, {self.in_no_run} took part in no run here: {_CHECK}",)
        return (
            f"runs in the ledger that {who} took part in: {_listed(self.ledger_runs)}",
            *unknown,
            "run folders whose weights, checkpoints and samples are deleted now:"
            f" {_listed(self.runs)}",
            "blueprints to be taken back, if still in play, with every release made of them:"
            f" {_listed(digest[:16] for digest in self.blueprints)}",
            "no later training here takes"
            f" {'the patient' if self.patients == 1 else 'any of them'};"
            " there is no undo at this site",
        )


_CHECK = "is every id exactly as `patients.csv` has it? Another home has another ledger"


def asked_for(home: Home, ids: Collection[str], *, reason: str) -> tuple[str, ...]:
    """Return the pseudonyms of the patients whose ids (as `train` read them) were given.

    Raises:
        KitError: the reason names one of them.
    """
    for patient in ids:
        if re.search(rf"(?<!\w){re.escape(patient)}(?!\w)", reason, re.IGNORECASE):
            raise KitError(
                "the reason contains a patient's id; nothing was done",
                hint="the reason is kept at this site: give words that name nobody",
            )
    return batches.pseudonyms(home, ids)


def preview(home: Home, patients: Collection[str]) -> Preview:
    """Return what `carry_out` would do about some pseudonyms.

    Raises:
        KitError: the ledger does not open.
    """
    with _open_ledger(home) as ledger:
        their = ledger.runs_of(patients)
    affected = frozenset().union(*their.values())
    return Preview(
        patients=len(their),
        in_no_run=sum(1 for runs_of_one in their.values() if not runs_of_one),
        ledger_runs=tuple(sorted(affected)),
        runs=tuple(folder.name for folder in _folders(home, affected)),
        blueprints=tuple(sorted(_blueprints(home, affected))),
    )


def carry_out(home: Home, batch: Batch, *, reason: str, now: datetime) -> Begun:
    """Take back every blueprint whose training one of a batch's patients took part in.

    Of several calls for one batch, only the first that gets through orders anything. The
    coordinator is asked for news whether or not there is something to order.

    Raises:
        KitError: the ledger does not open, or the coordinator refuses; what could be done in this
            home is done by then, and the same call goes on.
    """
    begun = begin(home, batch, now=now)
    with Exchange.open(home) as exchange:
        world = contact.contact(home, exchange)
        mine = [s for s in withdrawal.in_play(world) if s.digest in begun.blueprints]
        begun = begun.ordering(home, (status.digest for status in mine))
        for status in mine:
            withdrawal.order(home, exchange, status, reason, now)
        if mine:
            world = contact.contact(home, exchange)
    return begun.ended(
        home,
        ended={s.digest for s in world.blueprints if s.state not in withdrawal.IN_PLAY},
        alive=[s.digest for s in withdrawal.in_play(world)],
    )


def begin(home: Home, batch: Batch, *, now: datetime) -> Begun:
    """Do everything that an erasure does in this home; nobody has to be reached for it.

    Raises:
        KitError: the ledger does not open, so that it is not known what they are in.
    """
    batch = batch.save(home)
    Erased(home).add_pseudonyms(batch.patients)
    batches.settle_collected(home, batch)
    with _open_ledger(home) as ledger:
        their = ledger.runs_of(batch.patients)
        affected = frozenset().union(*their.values())
        _settle(ledger, affected)  # a training that still runs ends at its next step
    blueprints = _blueprints(home, affected)
    _stop_what_was_not_received(home, blueprints)
    erased, busy = _empty_runs(home, affected, now)
    found = Erasure(
        patients=batch.patients,
        in_no_run=sum(1 for runs_of_one in their.values() if not runs_of_one),
        ledger_runs=tuple(sorted(affected)),
        withdrawn=(),
        withdrawn_before=(),
        cannot_tell=(),
        runs_erased=erased,
        runs_in_use=busy,
    )
    return Begun(batch=batch, found=found, blueprints=blueprints)


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


@contextmanager
def _open_ledger(home: Home) -> Iterator[Ledger]:
    """Open the ledger, or say what is left to do where it does not open."""
    try:
        found = runs.open_ledger(home)
    except KitError as error:
        raise KitError(
            f"{error}; so it is not known which blueprints the patients are in",
            hint="take all of them back: `edge-agent withdraw --study NAME` asks no ledger",
        ) from error
    with found:
        yield found


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
