"""A run from data to gate: read, reserve, train, settle, test; the same command resumes it."""

import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from edge_agent import bases
from edge_agent.erased import Erased
from edge_agent.gate import examination, verdict
from edge_agent.gate.examination import Subjects
from edge_agent.home import Home
from edge_agent.ledger import Budget, Ledger
from edge_agent.ledger import mark as ledger_mark
from edge_agent.training.folder import ERASED, HELD_OUT, OPTIONS, REQUEST
from federation.study import Study
from kit import canonical, door
from kit.errors import KitError
from kit.files import write_atomic

if TYPE_CHECKING:
    from edge_agent.datasets.examples import Cohort
    from edge_agent.datasets.report import DataReport
    from edge_agent.training.crew import Crew
    from edge_agent.training.held_out import Coins
    from edge_agent.training.plan import PrivacyPlan
    from federation.learning.generator.architecture import Architecture
    from federation.release.base import Base

RUN, DATA_REPORT = "run.json", "data-report.json"
MAX_JSON_BYTES = 1 << 24
_REPEAT = "repeat the first command exactly, or start a new run with --run NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of `edge-agent train`."""

    study: str
    data: Path
    labels: tuple[str, ...]
    declared_count: int | None
    epsilon: float | None = None
    run: str
    preset: str
    without_privacy: bool
    steps: int | None
    held_out: float
    base: str = ""
    accept_expected_loss: bool = False

    def to_table(self) -> dict[str, Any]:
        """Return the options as canonical JSON values."""
        table = asdict(self) | {"data": str(self.data), "labels": list(self.labels)}
        table["epsilon"] = None if self.epsilon is None else canonical.real(self.epsilon)
        return table | {"held_out": canonical.real(self.held_out)}

    @classmethod
    def from_table(cls, value: Any) -> Self:
        """Read what `to_table` wrote.

        Raises:
            FormatError: a field is missing, unknown or damaged.
        """
        table = canonical.fields(value, set(cls.__dataclass_fields__), what="options of a run")
        epsilon = table["epsilon"]
        return cls(
            **table
            | {
                "data": Path(table["data"]),
                "labels": tuple(table["labels"]),
                "epsilon": None if epsilon is None else canonical.to_float(epsilon),
                "held_out": canonical.to_float(table["held_out"]),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What a run would train on and cost; nothing was reserved.

    Attributes:
        report: what was read.
        cohort: whom it would train on.
        plan: its privacy plan; None without privacy.
        before: epsilon that the worst of these units has spent or reserved; inf without a bound.
        after: what that would be with all of the run.
    """

    report: "DataReport"
    cohort: "Cohort"
    plan: "PrivacyPlan | None"
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """What a training is about, before anybody's budget is looked at."""

    study: Study
    cohort: "Cohort"
    report: "DataReport"
    architecture: "Architecture"
    base: "Base | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished run: figures for this site's people, not for the wire."""

    run: str
    folder: Path
    study: str
    images: int
    units: int
    privacy: dict[str, Any]
    gate_passed: bool
    gate: str
    was_finished: bool

    def to_text(self) -> str:
        """Return it for people."""
        table = door.to_table(self)
        del table["gate_passed"], table["was_finished"]
        table["privacy"] = self.privacy["statement"]
        if self.was_finished:
            table["note"] = "finished before: nothing was trained"
        return door.plain(table)


def budget(home: Home) -> Budget:
    """Return the lifetime budget of every unit at this site."""
    settings = home.config
    return Budget(
        epsilon=canonical.to_float(settings.lifetime_epsilon, what="lifetime_epsilon"),
        delta=canonical.to_float(settings.lifetime_delta, what="lifetime_delta"),
    )


def open_ledger(home: Home) -> Ledger:
    """Return this installation's one ledger, under its lifetime budget.

    Raises:
        KitError: it was changed, is gone, or is older than it once was (A8).
    """
    ledger_mark.require_present(home.ledger_mark, home.ledger)
    ledger = Ledger(home.ledger, home.unit_secret(), budget(home))
    try:
        ledger_mark.require_whole(home.ledger_mark, ledger)
    except BaseException:
        ledger.close()
        raise
    return ledger


def train(
    home: Home,
    request: Request,
    *,
    now: datetime,
    tell: Callable[[str], None],
    crew: "Crew | None" = None,
) -> Outcome:
    """Train one generator on this site's images, or go on with what was stopped.

    `crew` are the other processes of this machine that share the steps, if any.

    Raises:
        KitError: the data, the study, the budget or the options do not allow it.
        InterruptedRunError: ctrl-C; the same call goes on.
    """
    from edge_agent.training import held_out
    from edge_agent.training import run as training

    folder = home.run(request.run)
    require_not_erased(folder, request.run)
    gone = Erased(home)
    ready = _ready(home, request, is_erased=gone.covers, tell=tell)
    study, architecture, cohort = ready.study, ready.architecture, ready.cohort
    gone.add(*ready.report.erased_images)
    run_id = _run_id(folder, request.run)
    _write_json(folder / DATA_REPORT, ready.report.to_table())
    with open_ledger(home) as ledger:
        _settle_given_up(home, ledger, tell)
        plan, account = None, None
        if not request.without_privacy:
            plan = _planned(home, folder, ready, request, tell)
            cohort = _with_room(cohort, plan, ledger, run_id, tell)
        coins = _coins(home, folder, run_id, cohort, request)
        trained, sitting_out = held_out.divide(cohort, coins)
        options = training.TrainOptions(
            declared_labels=request.labels,
            plan=plan,
            held_out=len(coins.excluded),
            steps=request.steps,
            base=ready.base,
        )
        training.check(study, architecture, trained, options)  # refused runs reserve nothing
        if plan is None:
            ledger.mark_unbounded(run_id, cohort.account_keys(), now)
        else:
            account = ledger.reserve(
                run_id,
                cohort.account_keys(),
                plan.events,
                now,
                unit_kind=cohort.unit_kind,
                settings=f"{study.id}, {_preset(study, request)}, {plan.settings}",
            )
        ledger_mark.advance(home.ledger_mark, ledger)
        _require_nobody_erased(home, cohort, run_id, ledger)
        result = training.train_run(
            folder, study, architecture, trained, options, account, crew=crew
        )
        kept = replace(request, data=request.data.absolute())
        write_atomic(folder / REQUEST, canonical.encode(kept.to_table()), mode=0o600)
        if account is not None:
            ledger.settle(run_id)
        subjects = Subjects(trained=trained, held_out=sitting_out, included=coins.included)
        passed = _gate(home, folder, study, request.labels, subjects, ledger, tell)
        ledger_mark.advance(home.ledger_mark, ledger)
    return Outcome(
        run=request.run,
        folder=folder,
        study=study.id,
        images=len(cohort.images),
        units=len(set(cohort.units)),
        privacy=dict(result.privacy),
        gate_passed=passed,
        gate=verdict.words(folder, passed=passed),
        was_finished=result.was_finished,
    )


def _require_nobody_erased(home: Home, cohort: "Cohort", run_id: str, ledger: Ledger) -> None:
    """Ask again once the ledger has the run: from here on an erasure finds it and empties it.

    Raises:
        KitError: somebody was erased while the images were read.
    """
    if Erased(home).covers(*cohort.account_keys()):
        ledger.settle(run_id)
        raise KitError(
            "a patient was erased here while this run's images were read; nothing was trained",
            hint="start a new --run: it leaves the patient out",
        )


def rehearse(
    home: Home,
    request: Request,
    *,
    is_erased: Callable[[str, str], bool],
    tell: Callable[[str], None],
) -> Rehearsal:
    """Check all that `train` checks of a new run, and say what it would cost; nothing is kept.

    `is_erased` says of an image's unit and digest whether the run would leave it out.

    Raises:
        KitError: the data, the study, the budget or the options do not allow the run.
    """
    from edge_agent.training import run as training

    ready, folder = _ready(home, request, is_erased=is_erased, tell=tell), home.run(request.run)
    cohort, plan = ready.cohort, None
    with open_ledger(home) as ledger:
        if not request.without_privacy:
            plan = _planned(home, folder, ready, request, tell)
            cohort = _with_room(cohort, plan, ledger, request.run, tell)
        before = after = ledger.spent(cohort.account_keys())
        if plan is not None:
            after = ledger.spent(cohort.account_keys(), plan.events)
    options = training.TrainOptions(
        declared_labels=request.labels, plan=plan, steps=request.steps, base=ready.base
    )
    training.check(ready.study, ready.architecture, cohort, options)
    return Rehearsal(report=ready.report, cohort=cohort, plan=plan, before=before, after=after)


def _ready(
    home: Home,
    request: Request,
    *,
    is_erased: Callable[[str, str], bool],
    tell: Callable[[str], None],
) -> _Ready:
    """Read the images, and choose network and base."""
    from edge_agent.datasets.load import load_cohort
    from edge_agent.training import held_out
    from federation.learning.generator.architecture import architecture_for

    study = home.study(request.study)
    study.build.require_outputs(request.labels)
    _check_privacy_choice(study, request)
    held_out.require_share(request.held_out)
    cohort, report = load_cohort(
        request.data,
        study,
        request.labels,
        exact_minimum=request.without_privacy,
        is_erased=is_erased,
    )
    for line in report.lines():
        tell(line)
    architecture = architecture_for(study, _preset(study, request))
    base = bases.choose(home, study, request.base, tell=tell)
    return _Ready(study=study, cohort=cohort, report=report, architecture=architecture, base=base)


def _preset(study: Study, request: Request) -> str:
    return request.preset or study.architectures[0].preset


def require_not_erased(folder: Path, run: str) -> None:
    """Refuse a run that was emptied because a patient in it was erased.

    Raises:
        KitError: it was.
    """
    if (folder / ERASED).is_file():
        raise KitError(
            f"run `{run}` was erased with a patient who was in it; nothing is left of it",
            hint="train a new run with --run NAME: it leaves the patient out",
        )


def _check_privacy_choice(study: Study, request: Request) -> None:
    if not request.without_privacy and request.declared_count is None:
        raise KitError(
            "private training needs a declared number of units",
            hint="give --declared-count: a round number that you surely have; sampling rate and"
            " noise derive from it, so that the true number never leaves",
        )
    if request.without_privacy and study.privacy.personal_data != "allowed":
        raise KitError(
            f"study `{study.id}` refuses personal data", hint="leave out --without-privacy"
        )


def _tell_expected(
    study: Study,
    preset: str,
    plan: "PrivacyPlan",
    request: Request,
    tell: Callable[[str], None],
) -> None:
    """Say what the run is expected to lose; refuse noise before anything is spent on it."""
    from edge_agent.training.expectation import expectation

    expected = expectation(study, preset, plan, len(request.labels))
    for line in expected.lines:
        tell(line)
    expected.require_accepted(is_accepted=request.accept_expected_loss)


def _run_id(folder: Path, name: str) -> str:
    """Name the run in the ledger; a folder that was deleted and made again is another run."""
    path = folder / RUN
    if not path.is_file():
        _write_json(path, {"id": f"{name[:40]}-{secrets.token_hex(8)}"})
    return str(read_json(path)["id"])


def _settle_given_up(home: Home, ledger: Ledger, tell: Callable[[str], None]) -> None:
    """Free what was reserved by runs whose folder is gone; what they charged stays charged."""
    folders = (home.path / "runs").glob(f"*/{RUN}")
    alive = {str(read_json(path)["id"]) for path in folders}
    for run in ledger.runs():
        if not run.is_settled and run.run_id not in alive:
            ledger.settle(run.run_id)
            tell(f"run `{run.run_id}` was given up; {run.charged} steps stay charged")


def _planned(
    home: Home, folder: Path, ready: _Ready, request: Request, tell: Callable[[str], None]
) -> "PrivacyPlan":
    """Return the run's plan, and say where its figures come from and what they will lose."""
    from edge_agent.training.trainers import trainer_of

    plan = _plan(home, folder, ready, request)
    tell(trainer_of(ready.architecture).reason(plan))
    _tell_expected(ready.study, _preset(ready.study, request), plan, request, tell)
    return plan


def _plan(home: Home, folder: Path, ready: _Ready, request: Request) -> "PrivacyPlan":
    from edge_agent.training import run as training
    from edge_agent.training.plan import plan_for
    from edge_agent.training.trainers import trainer_of

    kept = training.saved_plan(folder)
    if kept is not None:
        if kept.n_declared != request.declared_count:
            raise KitError(
                f"run `{request.run}` was started with --declared-count {kept.n_declared}",
                hint=_REPEAT,
            )
        if request.epsilon is not None and kept.epsilon > request.epsilon:
            raise KitError(
                f"run `{request.run}` was started with epsilon {kept.epsilon:.3g}", hint=_REPEAT
            )
        return kept
    allowed = budget(home)
    wanted = allowed.epsilon if request.epsilon is None else request.epsilon
    if not 0 < wanted <= allowed.epsilon:
        raise KitError(
            f"epsilon {wanted:g} is not within this site's lifetime budget of {allowed.epsilon:g}",
            hint="give --epsilon more than 0 and at most that",
        )
    return plan_for(
        ready.study,
        n_declared=request.declared_count or 0,
        unit=ready.cohort.unit_kind,
        epsilon=wanted,
        lifetime_delta=allowed.delta,
        steps=request.steps,
        preset=trainer_of(ready.architecture).private_preset(
            request.declared_count or 0, ready.architecture.side_px
        ),
    )


def _with_room(
    cohort: "Cohort",
    plan: "PrivacyPlan",
    ledger: Ledger,
    run_id: str,
    tell: Callable[[str], None],
) -> "Cohort":
    """Return the images of the units whose own budget bears the plan; the others sit out."""
    full = ledger.without_room(
        cohort.account_keys(), plan.events, unit_kind=cohort.unit_kind, run_id=run_id
    )
    out = {u for u, d in zip(cohort.units, cohort.digests, strict=True) if u in full or d in full}
    if not out:
        return cohort
    import numpy as np

    have, kind = len(set(cohort.units)) - len(out), cohort.unit_kind
    said = f"{len(out)} {kind}s have no room left for epsilon {plan.epsilon:.3g} in their lifetime"
    if have < plan.n_declared:
        raise KitError(
            f"{said}; the other {have} are fewer than the {plan.n_declared} declared",
            hint="a smaller --epsilon leaves room for more; `edge-agent audit ledger` shows what"
            " was spent",
        )
    tell(f"{said} and sit this run out")
    return cohort.part(np.flatnonzero([unit not in out for unit in cohort.units]))


def _coins(home: Home, folder: Path, run_id: str, cohort: "Cohort", request: Request) -> "Coins":
    """Return who sits the run out; nobody in one that was started before coins were tossed."""
    from edge_agent.training import held_out

    if not (folder / OPTIONS).is_file():  # nothing was trained yet: an earlier try was refused
        (folder / HELD_OUT).unlink(missing_ok=True)
    elif not (folder / HELD_OUT).is_file():
        return held_out.Coins(share=0.0)
    return held_out.tossed(
        folder / HELD_OUT,
        cohort.units,
        request.held_out,
        secret=home.unit_secret(),
        run_id=run_id,
    )


def _gate(
    home: Home,
    folder: Path,
    study: Study,
    labels: tuple[str, ...],
    subjects: Subjects,
    ledger: Ledger,
    tell: Callable[[str], None],
) -> bool:
    """Test the very weights that would leave; the verdict leaves, the scores stay."""
    found = examination.standing(folder, ledger)
    if found is not None:
        return found.passed
    report = examination.examine(folder, study, labels, subjects, home.unit_secret())
    for line in json.loads(report)["lines"]:
        tell(f"gate: {line}")
    passed = examination.settle(folder, report, ledger)
    if not passed and json.loads(report)["passed"]:
        tell("gate: FAILED: the ledger remembers that these weights failed before")
    return passed


def named(home: Home, study_name: str, run: str) -> str:
    """Return the run's name (the study's by default) after checking that it is of that study.

    Raises:
        KitError: it was started for another study.
    """
    name = run or study_name
    options = home.run(name) / OPTIONS
    if options.is_file() and read_json(options)["study"] != home.study(study_name).digest:
        raise KitError(
            f"run `{name}` does not belong to study `{study_name}`",
            hint="name the run's own study with --study",
        )
    return name


def read_json(path: Path) -> dict[str, Any]:
    """Read one of a run's JSON files.

    Raises:
        KitError: it is missing or damaged.
    """
    from kit.files import read_limited

    data = read_limited(path, limit=MAX_JSON_BYTES, what="run file")
    try:
        table = json.loads(data)
    except ValueError as error:
        raise KitError(f"run file `{path}` is damaged", hint="train again") from error
    if not isinstance(table, dict):
        raise KitError(f"run file `{path}` is damaged", hint="train again")
    return table


def _write_json(path: Path, table: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(table, indent=2) + "\n").encode(), mode=0o600)
