"""Ours: a private generator per hospital, one classifier trained on synthetic images alone.

Everything is the product's own code but the exchange, which changes no bit.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks import trials
from benchmarks.accuracy.datasets import Federation, Outline, image_units
from benchmarks.baselines import SiteData, score
from edge_agent.training import class_sums, moments, statistics, warm_up
from edge_agent.training.folder import WEIGHTS
from edge_agent.training.recipe import recipe_for
from federation.build_policy import MIN_HELD_OUT, VERSION, BuildPolicy, Variation
from federation.learning.downstream.calibration import HeldOut
from federation.learning.downstream.metrics import Metrics
from federation.learning.generator import architecture as networks
from federation.learning.generator.kinds import STATISTICS
from federation.learning.methods import federated_factory
from federation.release.base import Base
from federation.study import PersonalData, Study
from kit import seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoryPlan:
    """What the study and the operators choose; None takes the kit's preset for diffusion."""

    preset: str | None = None
    steps: int | None = None
    shard_size: int = trials.DEFAULT_BUILD.shard_size
    sampler_steps: int = trials.DEFAULT_BUILD.sampler_steps
    classifier_steps: int = trials.DEFAULT_BUILD.classifier_steps
    augmentation: Variation = trials.DEFAULT_BUILD.augmentation

    @property
    def build(self) -> BuildPolicy:
        """The policy of the study; one that only version 2 can say holds the least out."""
        is_first = self.augmentation is Variation.STANDARD
        return replace(
            trials.DEFAULT_BUILD,
            version=1 if is_first else VERSION,
            shard_size=self.shard_size,
            sampler_steps=self.sampler_steps,
            classifier_steps=self.classifier_steps,
            augmentation=self.augmentation,
            held_out=0 if is_first else MIN_HELD_OUT,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoryOutcome:
    """The release's figures, and processor seconds of the slowest hospital and of the build."""

    metrics: Metrics
    generator_s: float
    build_s: float
    bytes: int


def settings(outline: Outline, epsilon: float | None, plan: FactoryPlan) -> dict[str, Any]:
    """Return everything that decides the result, as plain values.

    Raises:
        KitError: a hospital is too small for the epsilon that is asked.
    """
    study = study_for(outline, epsilon, plan)
    architecture = trials.architecture_of(study)
    plans = [
        trials.plan_of(study, n_declared=declared, steps=plan.steps)
        for declared in outline.declared
    ]
    return {
        "architecture": architecture.to_table(),
        "network": asdict(networks.preset_of(architecture)),
        "recipes": [asdict(recipe_for(architecture, plan=p)) for p in plans],
        "trainer": _constants(study),
        "steps": plan.steps,
        "build": study.build.to_table(),
        "privacy": [None if p is None else p.to_table() for p in plans],
    }


def run(
    federation: Federation,
    epsilon: float | None,
    plan: FactoryPlan,
    *,
    seed: int,
    workers: int,
    base: Base | None = None,
    folder: Path | None = None,
) -> FactoryOutcome:
    """Train every hospital's generator, build the release and judge it on the real images.

    Where there is a public `base`, every generator starts from it. Generators stay in `folder`, and
    finished ones that lie there are taken as they are; None keeps none.

    Raises:
        KitError: a hospital is too small for the epsilon that is asked.
    """
    study, outline = study_for(federation.outline, epsilon, plan), federation.outline
    with ExitStack() as stack:
        work = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs, seconds = train(federation, epsilon, plan, work, workers=workers, base=base)
        started = time.process_time()
        shards = []
        for index, (run_folder, labels) in enumerate(zip(runs, outline.labels, strict=True)):
            shards += _shards(run_folder, study, labels, seed=seed * 100 + index)
        size = sum((run_folder / WEIGHTS).stat().st_size for run_folder in runs)
    model = federated_factory.release_model(
        shards,
        classes=study.classes,
        classifier=study.build.classifier,
        steps=study.build.classifier_steps,
        seed=seed,
        threads=1,
        augmentation=study.build.augmentation,
        held_out=HeldOut(images=study.build.held_out, calibration=study.build.calibration),
    )
    return FactoryOutcome(
        metrics=score(model.network, federation.sites),
        generator_s=round(max(seconds), 1),
        build_s=round(time.process_time() - started, 1),
        bytes=size,
    )


def train(
    federation: Federation,
    epsilon: float | None,
    plan: FactoryPlan,
    folder: Path,
    *,
    workers: int,
    base: Base | None = None,
) -> tuple[list[Path], list[float]]:
    """Train every hospital's generator below `folder`, where finished ones are left as they are.

    Returns the run folders and the processor seconds of each.

    Raises:
        KitError: a hospital is too small for the epsilon that is asked.
    """
    study, outline = study_for(federation.outline, epsilon, plan), federation.outline
    jobs = [
        (folder / site.site, study, site, labels, declared, plan.steps, base)
        for site, labels, declared in zip(
            federation.sites, outline.labels, outline.declared, strict=True
        )
    ]
    seconds = _train_all(jobs, workers)
    return [run for run, *_ in jobs], seconds


def _constants(study: Study) -> dict[str, Any]:
    """Return the figures that the kind's training keeps in its modules, beside plan and recipe."""
    if trials.architecture_of(study).kind == STATISTICS.name:
        modules: tuple[ModuleType, ...] = (statistics, moments)
    elif study.privacy.personal_data is PersonalData.ALLOWED:
        modules = ()
    else:
        modules = (class_sums, warm_up)
    figures = (int, float, tuple)
    return {
        f"{module.__name__}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, figures)
    }


def study_for(outline: Outline, epsilon: float | None, plan: FactoryPlan) -> Study:
    """Return the study that the hospitals of a benchmark take part in."""
    return trials.study_of(
        "accuracy",
        outline.classes,
        outline.rule,
        epsilon=epsilon,
        preset=plan.preset,
        build=plan.build,
    )


_Job = tuple[Path, Study, SiteData, tuple[str, ...], int, int | None, Base | None]


def _train_all(jobs: Sequence[_Job], workers: int) -> list[float]:
    if workers == 1:
        return [_train(*job) for job in jobs]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return [future.result() for future in [pool.submit(_train, *job) for job in jobs]]


def _train(
    folder: Path,
    study: Study,
    site: SiteData,
    labels: tuple[str, ...],
    n_declared: int,
    steps: int | None,
    base: Base | None,
) -> float:
    """Train one generator, or find it trained; return the processor seconds that it took."""
    torch.set_num_threads(1)
    note = folder.with_suffix(".seconds")
    if trials.is_trained(folder) and note.exists():
        return float(note.read_text())
    if folder.exists():
        shutil.rmtree(folder)  # stopped in the middle: its account was in memory
    started = time.process_time()
    cohort = trials.cohort_of(site.train_images, site.train_labels, image_units(site))
    trials.train(folder, study, cohort, labels, n_declared=n_declared, steps=steps, base=base)
    seconds = time.process_time() - started
    note.write_text(f"{seconds:.1f}\n")
    return seconds


def _shards(
    folder: Path, study: Study, labels: Sequence[str], *, seed: int
) -> list[tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]]:
    network, architecture = trials.generator(folder, study), trials.architecture_of(study)
    shards = []
    for label in labels:
        index = study.classes.index(label)
        images = federated_factory.shard(
            network,
            architecture,
            index,
            size=study.build.shard_size,
            seed=seeds.seed(seed.to_bytes(8, "big"), label),
            sampler_steps=study.build.sampler_steps,
        )
        shards.append((index, images))
    return shards
