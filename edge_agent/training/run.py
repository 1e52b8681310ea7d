"""One training run and its folder.

The folder is a closed list of files. `weights.safetensors` is written last of what a run leaves
and marks it as finished; the checkpoint goes after it. No file holds a seed or the state of a
random generator.
"""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_agent.datasets.examples import Cohort
from edge_agent.training import checkpoint, loop
from edge_agent.training.crew import Alone, Crew
from edge_agent.training.folder import (
    ARCHITECTURE,
    LOCK,
    METRICS,
    OPTIONS,
    PRIVACY,
    SAMPLES,
    WEIGHTS,
)
from edge_agent.training.loop import ProgressFactory, StepLedger
from edge_agent.training.plan import PrivacyPlan
from edge_agent.training.recipe import recipe_for
from edge_agent.training.trainers import Trained, trainer_of
from federation.blueprint import weights
from federation.blueprint.privacy import COMPOSITION, GAUSSIAN, NO_MECHANISM
from federation.learning.generator.architecture import (
    Architecture,
    build_network,
    class_embedding_name,
    expected_tensors,
    load_weights,
    state_arrays,
)
from federation.learning.generator.pretrain import require_trainable
from federation.learning.generator.sampler import sample
from federation.learning.generator.sheet import sheet_png
from federation.release.base import Base
from federation.study import PersonalData, Study, Unit
from kit import canonical
from kit.errors import FormatError, InterruptedRunError, KitError
from kit.files import exclusive, private_folder, read_limited, write_atomic
from kit.progress import Progress

VERSION = 1
PRIVACY_VERSION = 2

ACCOUNTANT = "rdp"

_SHEET_COLUMNS = 12
_MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What the operator decides before any image is read.

    Attributes:
        declared_labels: the site's classes; what leaves depends on this list, not on the images.
        plan: the privacy plan; None trains without privacy.
        held_out: units of this site that sit the run out; they count towards the declared number.
        flip: mirror images at random; off because left and right differ in a patient.
        steps: steps without privacy, instead of the recipe's; a plan has its own.
        base: the public base to start from; costs no budget, for nobody's image went into it.
    """

    declared_labels: tuple[str, ...]
    plan: PrivacyPlan | None
    held_out: int = 0
    flip: bool = False
    steps: int | None = None
    base: Base | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A finished run: its folder, its privacy report, and whether it was finished before."""

    folder: Path
    privacy: Mapping[str, Any]
    was_finished: bool


def show_progress(title: str, total: int, done: int) -> Progress:
    """Report on stderr."""
    return Progress(title, total, done=done)


def saved_plan(folder: Path) -> PrivacyPlan | None:
    """Return the plan a run folder was started with; None if it is new or without privacy.

    A run that goes on keeps its plan: ask here before making a new one.

    Raises:
        KitError: the folder's options cannot be read.
    """
    if not (folder / OPTIONS).exists():
        return None
    plan = _read_json(folder / OPTIONS).get("plan")
    return None if plan is None else PrivacyPlan.from_table(plan)


def train_run(
    folder: Path,
    study: Study,
    architecture: Architecture,
    cohort: Cohort,
    options: TrainOptions,
    ledger: StepLedger | None,
    *,
    progress: ProgressFactory = show_progress,
    crew: Crew | None = None,
) -> RunResult:
    """Train into `folder`, or go on with what it holds; a finished run is left as it is.

    `ledger` has the plan's event reserved for the cohort's units; None without privacy. `crew` are
    the processes that share the steps; None is this one alone.

    Raises:
        KitError: study, cohort and options contradict each other, the folder was started with
            others, or the loss is not finite.
        InterruptedRunError: ctrl-C; the same call goes on.
    """
    check(study, architecture, cohort, options)
    if options.plan is not None and ledger is None:
        raise RuntimeError("a private run needs a ledger")
    private_folder(folder)
    busy = f"another process trains in `{folder}`"
    with exclusive(folder / LOCK, busy=busy, hint="wait for it, or stop it"):
        is_finished = (folder / WEIGHTS).exists()
        _claim(folder, study, architecture, cohort, options)
        try:
            if not is_finished:
                job = _job(folder, study, architecture, cohort, options, ledger, progress)
                _train_and_write(replace(job, crew=crew or Alone()), study, options)
        except KeyboardInterrupt as error:
            raise InterruptedRunError(
                "stopped before the run was written", hint="run the same command again to go on"
            ) from error
        checkpoint.remove(folder)
        privacy = _read_json(folder / PRIVACY)
    return RunResult(folder=folder, privacy=privacy, was_finished=is_finished)


def check(study: Study, architecture: Architecture, cohort: Cohort, options: TrainOptions) -> None:
    """Refuse what does not fit together, before anything is written or reserved.

    Raises:
        KitError: study, cohort and options contradict each other.
    """
    shape = (architecture.channels, architecture.height, architecture.width)
    if cohort.images.shape[1:] != shape or architecture.num_classes != len(study.classes):
        raise KitError("the images, the architecture and the study are of different shapes")
    if not len(cohort.images):
        raise KitError("there is no image to train on", hint="look at the data report")
    unknown = set(options.declared_labels) - set(study.classes)
    if unknown or not options.declared_labels:
        raise KitError(f"declared labels {sorted(unknown)} are not classes of study `{study.id}`")
    present = {study.classes[int(label)] for label in np.unique(cohort.labels)}
    undeclared = sorted(present - set(options.declared_labels))
    if undeclared:
        raise KitError(
            f"there are images of undeclared classes: {undeclared}",
            hint="declare these labels, or leave the images out",
        )
    if options.base is not None:
        start_of(options.base, architecture)
    if options.plan is None:
        if study.privacy.personal_data is not PersonalData.ALLOWED:
            raise KitError(
                f"study `{study.id}` takes no blueprint trained without privacy",
                hint="leave out `--without-privacy`",
            )
        return
    if options.plan.unit is not cohort.unit_kind:
        raise KitError(
            f"the plan protects a {options.plan.unit}, the data name {cohort.unit_kind}s"
        )
    if len(set(cohort.units)) + options.held_out < options.plan.n_declared:
        raise KitError(
            f"the site has fewer {options.plan.unit}s than the {options.plan.n_declared} declared",
            hint="declare a lower bound that the usable images meet; see the data report",
        )


def _claim(
    folder: Path, study: Study, architecture: Architecture, cohort: Cohort, options: TrainOptions
) -> None:
    """Write `options.json`, or refuse a folder that was started with other options."""
    table = {
        "version": VERSION,
        "study": study.digest,
        "architecture": architecture.to_table(),
        "declared_labels": list(options.declared_labels),
        "plan": None if options.plan is None else options.plan.to_table(),
        "without_privacy": options.plan is None,
        "flip": options.flip,
        "steps": options.steps,
        "base": None if options.base is None else options.base.digest,
        "cohort": _cohort_digest(cohort),
    }
    path = folder / OPTIONS
    if not path.exists():
        write_atomic(path, _json(table), mode=0o600)
        return
    found = _read_json(path)
    other = sorted(name for name in table if found.get(name) != table[name])
    if other:
        raise KitError(
            f"run folder `{folder}` was started with another {', '.join(other)}",
            hint="repeat the first command exactly, or start a new run",
        )


def _job(
    folder: Path,
    study: Study,
    architecture: Architecture,
    cohort: Cohort,
    options: TrainOptions,
    ledger: StepLedger | None,
    progress: ProgressFactory,
) -> loop.Job:
    recipe = recipe_for(architecture, plan=options.plan)
    steps = recipe.steps if options.steps is None else options.steps
    return loop.Job(
        folder=folder,
        architecture=architecture,
        cohort=cohort,
        recipe=recipe,
        steps=steps if options.plan is None else options.plan.steps,
        flip=options.flip,
        plan=options.plan,
        ledger=ledger if options.plan is not None else None,
        progress=progress,
        declared=tuple(
            at for at, label in enumerate(study.classes) if label in options.declared_labels
        ),
        minimum_per_class=study.minimum_per_class,
        start=None if options.base is None else start_of(options.base, architecture),
    )


def start_of(base: Base, architecture: Architecture) -> dict[str, NDArray[np.float32]]:
    """Return the weights that training from a base starts with.

    Raises:
        KitError: the base is for another architecture, or a value is off.
    """
    require_trainable(architecture)
    return base.arrays(architecture.to_table(), expected_tensors(architecture))


def _train_and_write(job: loop.Job, study: Study, options: TrainOptions) -> None:
    folder, architecture = job.folder, job.architecture
    state = trainer_of(architecture).train(job)
    data = weights.write(_leaving(state.average, study, architecture, options))
    sheet = _sheet(data, study, architecture, options)
    lines = [json.dumps(row) for row in [*state.metrics, _summary(state, options.plan)]]
    write_atomic(folder / METRICS, ("\n".join(lines) + "\n").encode(), mode=0o600)
    write_atomic(folder / SAMPLES, sheet, mode=0o600)
    write_atomic(folder / PRIVACY, _json(privacy_table(options.plan, job.cohort.unit_kind)))
    write_atomic(folder / ARCHITECTURE, canonical.encode(architecture.to_table()))
    write_atomic(folder / WEIGHTS, data)


def _leaving(
    average: torch.nn.Module, study: Study, architecture: Architecture, options: TrainOptions
) -> dict[str, NDArray[np.float32]]:
    """Return the averaged weights with the rows of undeclared classes set to zero (A7)."""
    tensors = state_arrays(average)
    rows = tensors[class_embedding_name(architecture)]
    undeclared = [label not in options.declared_labels for label in study.classes]
    rows[np.array(undeclared)] = 0.0
    return tensors


def _sheet(data: bytes, study: Study, architecture: Architecture, options: TrainOptions) -> bytes:
    """Draw samples from the very bytes that would leave."""
    network = build_network(architecture)
    load_weights(network, weights.read(data, expected_tensors(architecture)))
    labels = [label for label in study.classes if label in options.declared_labels]
    rows = {
        label: sample(
            network,
            architecture,
            torch.full((_SHEET_COLUMNS,), study.classes.index(label)),
            seed=secrets.randbits(62),
            steps=study.build.sampler_steps,
            batch_size=_SHEET_COLUMNS,
        ).numpy()
        for label in labels
    }
    return sheet_png(rows)


def privacy_table(plan: PrivacyPlan | None, unit: Unit) -> dict[str, Any]:
    """Return what `privacy.json` says, in figures and in one true sentence."""
    fixed = {"version": PRIVACY_VERSION, "unit": str(unit)}
    if plan is None:
        return fixed | {
            "mechanism": NO_MECHANISM,
            "statement": "trained without differential privacy: contains personal data",
        }
    return fixed | {
        "mechanism": GAUSSIAN if len(plan.events) == 1 else COMPOSITION,
        "events": [asdict(event) for event in plan.events],
        "warm_up_steps": plan.warm_up_steps,
        "max_grad_norm": plan.max_grad_norm,
        "draws_per_unit": plan.draws_per_unit,
        "expected_batch_size": plan.expected_batch_size,
        "delta": plan.delta,
        "epsilon": plan.epsilon,
        "accountant": ACCOUNTANT,
        "n_declared": plan.n_declared,
        "n_times_delta": plan.n_declared * plan.delta,
        "statement": (
            "differentially private if the site ran this code unmodified with secret noise; "
            f"({plan.epsilon:.3g}, {plan.delta:g}) per {plan.unit}"
        ),
    }


def _summary(state: Trained, plan: PrivacyPlan | None) -> dict[str, Any]:
    """Return the last line of the metrics: the steps done and a second accountant's epsilon."""
    if plan is None:
        return {"finished": True, "steps": state.step}
    return {"finished": True, "steps": plan.steps, "epsilon_by_opacus": _opacus_epsilon(plan)}


def _opacus_epsilon(plan: PrivacyPlan) -> float:
    """Return what Opacus' own RDP accountant says of the plan, for the record.

    Both are upper bounds. Opacus stops at order 63, so that at small epsilon its bound is looser
    than the claim; that is no disagreement.
    """
    import warnings

    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(e.noise_multiplier, e.sample_rate, e.steps) for e in plan.events]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is")
        return float(accountant.get_epsilon(delta=plan.delta))


def _cohort_digest(cohort: Cohort) -> str:
    """Name the cohort, whatever the order of its files; stays at the site."""
    rows = sorted(zip(cohort.units, cohort.digests, cohort.labels.tolist(), strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _json(table: Mapping[str, Any]) -> bytes:
    return (json.dumps(table, indent=2) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    data = read_limited(path, limit=_MAX_JSON_BYTES, what="run file")
    try:
        table = json.loads(data)
    except ValueError as error:
        raise FormatError(f"run file `{path}` is not JSON") from error
    if not isinstance(table, dict):
        raise FormatError(f"run file `{path}` is not an object")
    return table
