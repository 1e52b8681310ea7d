"""One hospital's training in a benchmark: a study, a cohort, a run, its generator.

All of it is the product's own code; what a benchmark brings is public images, so no patient's
budget is spent and nobody signs the study.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edge_agent.datasets.examples import Cohort
from edge_agent.training import run as training
from edge_agent.training.folder import WEIGHTS
from edge_agent.training.plan import PrivacyPlan, plan_for
from edge_agent.training.trainers import trainer_of
from federation.blueprint import weights
from federation.build_policy import BuildPolicy
from federation.learning.generator import architecture as networks
from federation.release.base import Base
from federation.study import (
    ImageRule,
    PersonalData,
    PrivacyPolicy,
    Reviewer,
    Study,
    Unit,
)

DELTA = 1e-5
DEFAULT_BUILD = BuildPolicy(
    version=1,
    shard_size=300,
    sampler_steps=10,
    classifier="resnet-small",
    classifier_steps=600,
)


@dataclass
class MemoryAccount:
    """Counts steps; a benchmark spends no patient's budget twice, because it deals public data."""

    charged: int = 0

    def charge(self, steps: int) -> None:
        """Count `steps` more."""
        self.charged += steps


def study_of(
    name: str,
    classes: tuple[str, ...],
    rule: ImageRule,
    *,
    epsilon: float | None,
    preset: str | None = None,
    build: BuildPolicy = DEFAULT_BUILD,
) -> Study:
    """Return a study of one architecture; epsilon None allows personal data, and trains on them.

    `preset` None takes the kit's choice for the size of the images, and the wide network for tiny
    ones without privacy, where width costs no noise.
    """
    if preset is None:
        preset = networks.default_preset(rule.height, rule.width)
        if preset == "tiny" and epsilon is None:
            preset = "tiny-wide"
    allowed = PersonalData.ALLOWED if epsilon is None else PersonalData.REFUSED
    return Study(
        federation="benchmark",
        id=name,
        round=1,
        title=name,
        classes=classes,
        image=rule,
        method="federated-factory",
        architectures=(networks.reference(preset),),
        privacy=PrivacyPolicy(
            personal_data=allowed, unit=Unit.IMAGE, epsilon=epsilon or 1.0, delta=DELTA
        ),
        minimum_per_class=10,
        build=build,
        quorum=1,
        reviewers=(Reviewer(name="nobody", public_key="0" * 64),),
        created="2026-01-01T00:00:00Z",
    )


def architecture_of(study: Study) -> networks.Architecture:
    """Return the one architecture of a benchmark's study."""
    return networks.architecture_for(study, study.architectures[0].preset)


def cohort_of(
    images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], units: Sequence[str]
) -> Cohort:
    """Return a cohort whose unit is the image."""
    names = tuple(units)
    return Cohort(images=images, labels=labels, units=names, digests=names, unit_kind=Unit.IMAGE)


def plan_of(study: Study, *, n_declared: int, steps: int | None = None) -> PrivacyPlan | None:
    """Return the plan of a site that declares `n_declared` images; None without privacy.

    Raises:
        KitError: they are too few for the study's epsilon.
    """
    if study.privacy.personal_data is PersonalData.ALLOWED:
        return None
    return _plan(study, n_declared, steps)


@cache
def _plan(study: Study, n_declared: int, steps: int | None) -> PrivacyPlan:
    architecture = architecture_of(study)
    preset = trainer_of(architecture).private_preset(n_declared, architecture.side_px)
    return plan_for(study, n_declared=n_declared, unit=Unit.IMAGE, preset=preset, steps=steps)


def train(
    folder: Path,
    study: Study,
    cohort: Cohort,
    labels: tuple[str, ...],
    *,
    n_declared: int,
    steps: int | None = None,
    held_out: int = 0,
    base: Base | None = None,
) -> None:
    """Train one generator into `folder`; a finished run is left as it is.

    Raises:
        KitError: the images are too few for the study's epsilon, or the folder is of other options.
    """
    plan = plan_of(study, n_declared=n_declared, steps=steps)
    options = training.TrainOptions(
        declared_labels=labels, plan=plan, held_out=held_out, steps=steps, base=base
    )
    account = None if plan is None else MemoryAccount()
    training.train_run(folder, study, architecture_of(study), cohort, options, account)


def is_trained(folder: Path) -> bool:
    """Whether `folder` holds a finished run."""
    return (folder / WEIGHTS).exists()


def generator(folder: Path, study: Study) -> torch.nn.Module:
    """Return the network of a finished run with the weights that would leave."""
    architecture = architecture_of(study)
    network = networks.build_network(architecture)
    data = (folder / WEIGHTS).read_bytes()
    networks.load_weights(network, weights.read(data, networks.expected_tensors(architecture)))
    return network
