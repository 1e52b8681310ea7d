"""Ours: a private generator per hospital, one classifier trained on synthetic images alone.

Everything is the product's own code but the exchange, which changes no bit.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy.cells import DELTA
from benchmarks.accuracy.datasets import Federation, Outline, image_units
from benchmarks.baselines import SiteData, score
from edge_agent.datasets.examples import Cohort
from edge_agent.training import loop
from edge_agent.training import run as training
from edge_agent.training.folder import WEIGHTS
from edge_agent.training.plan import PrivacyPlan, plan_for
from edge_agent.training.recipe import recipe_for
from edge_agent.training.trainers import trainer_of
from federation.blueprint import weights
from federation.learning.downstream.metrics import Metrics
from federation.learning.generator import architecture as networks
from federation.learning.methods import federated_factory
from federation.release.base import Base
from federation.study import (
    BuildPolicy,
    PersonalData,
    PrivacyPolicy,
    Reviewer,
    Study,
    Unit,
)
from kit import seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoryPlan:
    """What the study and the operators choose; None takes the kit's preset for diffusion."""

    preset: str | None = None
    steps: int | None = None
    shard_size: int = 300
    sampler_steps: int = 10
    classifier_steps: int = 600


@dataclass
class MemoryAccount:
    """Counts steps; a benchmark spends no patient's budget twice, because it deals public data."""

    charged: int = 0

    def charge(self, steps: int) -> None:
        """Count `steps` more."""
        self.charged += steps


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
    architecture = _architecture(study)
    plans = [_privacy_plan(study, declared, plan.steps) for declared in outline.declared]
    return {
        "architecture": architecture.to_table(),
        "network": asdict(networks.preset_of(architecture)),
        "recipes": [asdict(recipe_for(architecture, plan=p)) for p in plans],
        "trainer": _constants(architecture),
        "steps": plan.steps,
        "build": asdict(study.build),
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
) -> FactoryOutcome:
    """Train every hospital's generator, build the release and judge it on the real images.

    Where there is a public `base`, every generator starts from it.

    Raises:
        KitError: a hospital is too small for the epsilon that is asked.
    """
    study, outline = study_for(federation.outline, epsilon, plan), federation.outline
    with tempfile.TemporaryDirectory() as folder:
        runs, seconds = train(federation, epsilon, plan, Path(folder), workers=workers, base=base)
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


def _constants(architecture: networks.Architecture) -> dict[str, Any]:
    """Return the figures that the kind's trainer keeps in its module, where it is not `loop`."""
    module = sys.modules[trainer_of(architecture).train.__module__]
    if module is loop:
        return {}
    figures = (int, float, tuple)
    return {k: v for k, v in vars(module).items() if k.isupper() and isinstance(v, figures)}


def study_for(outline: Outline, epsilon: float | None, plan: FactoryPlan) -> Study:
    """Return the study that the hospitals of a benchmark take part in."""
    rule = outline.rule
    preset = plan.preset or networks.default_preset(rule.height, rule.width)
    if plan.preset is None and epsilon is None and preset == "tiny":
        preset = "tiny-wide"
    allowed = PersonalData.ALLOWED if epsilon is None else PersonalData.REFUSED
    return Study(
        federation="benchmark",
        id="accuracy",
        round=1,
        title="accuracy",
        classes=outline.classes,
        image=rule,
        method="federated-factory",
        architectures=(networks.reference(preset),),
        privacy=PrivacyPolicy(
            personal_data=allowed, unit=Unit.IMAGE, epsilon=epsilon or 1.0, delta=DELTA
        ),
        minimum_per_class=10,
        build=BuildPolicy(
            version=1,
            shard_size=plan.shard_size,
            sampler_steps=plan.sampler_steps,
            classifier="resnet-small",
            classifier_steps=plan.classifier_steps,
        ),
        quorum=1,
        reviewers=(Reviewer(name="nobody", public_key="0" * 64),),
        created="2026-01-01T00:00:00Z",
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
    """Train one generator; return processor seconds."""
    torch.set_num_threads(1)
    started, units = time.process_time(), image_units(site)
    cohort = Cohort(
        images=site.train_images,
        labels=site.train_labels,
        units=units,
        digests=units,
        unit_kind=Unit.IMAGE,
    )
    plan = _privacy_plan(study, n_declared, steps)
    options = training.TrainOptions(declared_labels=labels, plan=plan, steps=steps, base=base)
    account = None if plan is None else MemoryAccount()
    training.train_run(folder, study, _architecture(study), cohort, options, account)
    return time.process_time() - started


def _architecture(study: Study) -> networks.Architecture:
    return networks.architecture_for(study, study.architectures[0].preset)


def _privacy_plan(study: Study, n_declared: int, steps: int | None) -> PrivacyPlan | None:
    if study.privacy.personal_data is PersonalData.ALLOWED:
        return None
    return _plan(study, n_declared, steps)


@cache
def _plan(study: Study, n_declared: int, steps: int | None) -> PrivacyPlan:
    preset = trainer_of(_architecture(study)).private_preset(n_declared)
    return plan_for(study, n_declared=n_declared, unit=Unit.IMAGE, preset=preset, steps=steps)


def generator(folder: Path, study: Study) -> tuple[torch.nn.Module, networks.Architecture]:
    """Return the network of a finished run with the weights that would leave."""
    architecture = _architecture(study)
    network = networks.build_network(architecture)
    data = (folder / WEIGHTS).read_bytes()
    networks.load_weights(network, weights.read(data, networks.expected_tensors(architecture)))
    return network, architecture


def _shards(
    folder: Path, study: Study, labels: Sequence[str], *, seed: int
) -> list[tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]]:
    network, architecture = generator(folder, study)
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
