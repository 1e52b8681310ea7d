"""What an erasure took back, made again without the patients: rehearsed, trained, submitted.

Invariants:

- Everything that could stand against the new run is asked before anything is taken back: the data,
  the number of units declared, the study's minimum per class, the room in each unit's budget.
- What the new run declares is what the old one declared, unless a person says otherwise: two
  statements with the same figures tell nothing of who left in between (A11).
- The ledger charges it as any run, to those who are in it; what the old run charged stays.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from edge_agent import batches, erasure, runs, shipments, submission, withdrawal
from edge_agent.batches import Batch, Replacement, Step
from edge_agent.erased import Erased
from edge_agent.home import Home
from edge_agent.shipments import Shipment
from edge_agent.training.folder import ERASED, REQUEST
from federation.study import Study
from kit import canonical
from kit.errors import KitError

_AT_ONCE = "nothing was withdrawn; without --replace it is taken back at once, whatever is left"


class NoReplacementError(KitError):
    """A replacement cannot be made; nothing was withdrawn yet, and withdrawing needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a person may say otherwise than the run that is replaced; None as it was."""

    data: Path | None = None
    declared_count: int | None = None
    epsilon: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A batch that a person may agree to, in words; one that goes on was agreed to before."""

    batch: Batch
    lines: tuple[str, ...]
    is_agreed: bool = False


def proposal(
    home: Home, patients: Collection[str], wanted: Options | None, *, now: datetime
) -> Proposal:
    """Return what an erasure of these pseudonyms would do; `wanted` asks for a replacement.

    Raises:
        NoReplacementError: the rest does not permit one; nothing was done.
        KitError: the ledger does not open.
    """
    batch = batches.covering(home, patients)
    is_new = batch is None or not batch.is_open
    if batch is None or is_new or (wanted is not None and not batch.replacements):
        made = [] if wanted is None else list(_planned(home, patients, wanted))
        if batch is None or (is_new and made):
            batch = Batch.new(patients, now=now)
        batch = replace(batch, replacements=tuple(each for each, _ in made) or batch.replacements)
        lines = [*erasure.preview(home, patients).lines()]
        if wanted is not None and not made:
            lines.append("nothing in play was made with them: there is nothing to make again")
        lines += [line for _, price in made for line in price]
        return Proposal(batch=batch, lines=tuple(lines))
    going_on = f"going on with the erasure of {batch.requested}"
    return _given_up(batch, going_on) if wanted is None else _taken_up(home, batch, going_on)


def _given_up(batch: Batch, going_on: str) -> Proposal:
    """Return an open batch without what it would still make again: erasing waits for nothing."""
    lines, is_agreed = [going_on], True
    for each in batch.replacements:
        if each.is_open:
            batch, is_agreed = batch.with_replacement(replace(each, step=Step.GIVEN_UP)), False
            lines.append(f"run `{each.request.run}` is given up: no replacement is asked for now")
    return Proposal(batch=batch, lines=tuple(lines), is_agreed=is_agreed)


def _taken_up(home: Home, batch: Batch, going_on: str) -> Proposal:
    """Return an open batch; a run that another erasure emptied meanwhile is agreed to anew."""
    lines, is_agreed = [going_on], True
    for each in batch.replacements:
        if each.is_open and (home.run(each.request.run) / ERASED).is_file():
            fresh, price = _rehearsed(home, each, batch.patients, before=each.request)
            batch, is_agreed = batch.with_replacement(fresh), False
            lines += [f"run `{each.request.run}` was erased with another patient meanwhile", *price]
    return Proposal(batch=batch, lines=tuple(lines), is_agreed=is_agreed)


def carry_on(
    home: Home,
    batch: Batch,
    *,
    now: datetime,
    tell: Callable[[str], None],
    sent: Callable[[int, int], None] = lambda *_: None,
) -> Batch:
    """Train and submit what a batch wants made again, from where it was left; returns it.

    Raises:
        WaitingError: a second person's signature is wanted; the same call goes on.
        KitError: the coordinator refuses, or cannot be reached; the same call goes on.
    """
    for item in batch.replacements:
        made = item
        if made.step is Step.REQUESTED:
            outcome = runs.train(home, made.request, now=now, tell=tell)
            may_leave = outcome.gate_passed or made.request.without_privacy
            made = replace(made, step=Step.TRAINED if may_leave else Step.GATE_FAILED)
            batch = batch.with_replacement(made).save(home)
        if made.step is Step.TRAINED:
            done = submission.submit(home, made.request.run, now=now, sent=sent, tell=tell)
            made = replace(made, step=Step.SUBMITTED, blueprint=done.blueprint)
            batch = batch.with_replacement(made).save(home)
    if batch.step is Step.WITHDRAWN:
        batch = replace(batch, step=Step.DONE).save(home)
    return batch


def require_made(batch: Batch) -> None:
    """Let a command end well only if everything that was to be made again was sent.

    Raises:
        KitError: the gate stopped one.
    """
    for each in batch.replacements:
        if each.step is Step.GATE_FAILED:
            raise KitError(
                f"the gate of run `{each.request.run}` did not pass: nothing is sent in place of"
                " what was taken back",
                hint="that run stays charged; train another --run and submit it, where the budget"
                " allows",
            )


def _planned(
    home: Home, patients: Collection[str], wanted: Options
) -> Iterator[tuple[Replacement, tuple[str, ...]]]:
    found = _in_play(home, patients)
    if len(found) > 1 and wanted != Options():
        raise NoReplacementError(
            f"the patients are in {len(found)} studies: --data, --declared-count and --epsilon are"
            " of one",
            hint=f"{_AT_ONCE}; then train and submit each study by hand",
        )
    for item, study in found:
        before = _asked_before(home, item, study)
        request = replace(
            before,
            data=(wanted.data or before.data).absolute(),
            declared_count=wanted.declared_count or before.declared_count,
            epsilon=before.epsilon if wanted.epsilon is None else wanted.epsilon,
        )
        made = Replacement(replaces=item.blueprint, request=request)
        yield _rehearsed(home, made, patients, before=before)


def _in_play(home: Home, patients: Collection[str]) -> list[tuple[Shipment, Study]]:
    """Return what was made with one of them and is in play, as far as is known here; per study."""
    with runs.open_ledger(home) as ledger:
        affected = frozenset().union(*ledger.runs_of(patients).values())
    arrived, studies = withdrawal.arrived(home), {s.digest: s for s in home.studies()}
    found: dict[str, tuple[int, Shipment]] = {}
    for item in shipments.known(home):
        there = arrived.get(item.blueprint)
        is_alive = there.ended is None if there else (home.outbox / item.blueprint).is_dir()
        if item.run_id in affected and is_alive and item.study in studies:
            at = there.index if there else -1
            found[item.study] = max(found.get(item.study, (-2, item)), (at, item), key=_place)
    return [(item, studies[digest]) for digest, (_, item) in sorted(found.items())]


def _place(found: tuple[int, Shipment]) -> int:
    return found[0]


def _asked_before(home: Home, item: Shipment, study: Study) -> runs.Request:
    """Return what the run behind a blueprint was asked for."""
    folder = home.run(item.run)
    path = folder / REQUEST
    is_same = path.is_file() and runs.read_json(folder / runs.RUN)["id"] == item.run_id
    if not is_same:
        raise NoReplacementError(
            f"what run `{item.run}` of study `{study.id}` was asked for is not kept here",
            hint=f"{_AT_ONCE}; then `edge-agent train --run NAME` and `edge-agent submit`",
        )
    if not home.study_file(study.id, "recipient").is_file():
        raise NoReplacementError(
            f"study `{study.id}` is closed: it takes no more blueprints", hint=_AT_ONCE
        )
    return runs.Request.from_table(canonical.decode(home.read(path, "options of a run")))


def _rehearsed(
    home: Home, item: Replacement, patients: Collection[str], *, before: runs.Request
) -> tuple[Replacement, tuple[str, ...]]:
    """Return a replacement of the run `before` under a new name, and its price in words."""
    request = replace(item.request, run=_fresh_name(home, before.run))
    gone = Erased(home).beside(patients)
    try:
        found = runs.rehearse(home, request, is_erased=gone.covers, tell=lambda _: None)
        _check_classes(home, home.study(request.study), before.run, found)
    except KitError as error:
        hint = f"{error.hint}; " if error.hint else ""
        raise NoReplacementError(
            f"study `{request.study}`: {error}", hint=f"{hint}{_AT_ONCE}"
        ) from error
    made = replace(item, request=request, step=Step.REQUESTED, blueprint="")
    return made, _price(home, request, found, before)


def _fresh_name(home: Home, run: str) -> str:
    stem, _, number = run.rpartition("-r")
    if not (stem and number.isdecimal()):
        stem = run
    taken = {r.request.run for batch in batches.every(home) for r in batch.replacements}
    for count in range(2, 1 << 16):
        name = f"{stem[:56]}-r{count}"
        if name not in taken and not home.run(name).exists():
            return name
    raise RuntimeError("there are more runs than names")


def _check_classes(home: Home, study: Study, run: str, found: runs.Rehearsal) -> None:
    """Refuse to drop a class under the study's minimum that it met before (A12)."""
    path, minimum = home.run(run) / runs.DATA_REPORT, study.minimum_per_class
    table = runs.read_json(path) if path.is_file() else {"classes": []}
    before = {entry["label"]: entry["units"] for entry in table["classes"]}
    for entry in found.report.classes:
        if entry.units < minimum <= before.get(entry.label, minimum):
            raise KitError(
                f"class `{entry.label}` would be left with {entry.units} {found.cohort.unit_kind}s,"
                f" and the study wants {minimum}",
                hint="a replacement needs more of that class in the data",
            )


def _price(
    home: Home, request: runs.Request, found: runs.Rehearsal, old: runs.Request
) -> tuple[str, ...]:
    kind, units = found.cohort.unit_kind, len(set(found.cohort.units))
    lines = [
        f"then made again without them: run `{request.run}` of study `{request.study}`, {units}"
        f" {kind}s in `{canonical.printable(request.data, width=200)}`",
    ]
    if found.plan is None:
        return (*lines, "its price: these units take part in no private run any more")
    allowed = runs.budget(home)
    lines.append(
        f"its price, charged to each of them: epsilon {found.plan.epsilon:.3g}; the worst will"
        f" have spent {found.after:.3g} of {allowed.epsilon:g} at delta {allowed.delta:g}"
        f" ({found.before:.3g} now)"
    )
    if request.declared_count != old.declared_count:
        lines.append(
            f"it declares {request.declared_count} {kind}s where {old.declared_count} were"
            " declared: whoever sees both statements sees that"
        )
    return tuple(lines)
