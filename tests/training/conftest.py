import hashlib

import numpy as np
import pytest

from edge_agent.datasets.examples import Cohort
from edge_agent.training.plan import plan_for
from edge_agent.training.run import TrainOptions
from federation.build_policy import BuildPolicy
from federation.learning.generator.architecture import architecture_for
from federation.study import (
    ArchitectureRef,
    ImageRule,
    PersonalData,
    PrivacyPolicy,
    Reviewer,
    Study,
    Unit,
)

CLASSES = ("left", "right", "absent")


class MemoryLedger:
    """The account of one run, kept in memory."""

    def __init__(self, limit=1_000_000):
        self.charged, self.limit = 0, limit

    def charge(self, steps):
        assert self.charged + steps <= self.limit
        self.charged += steps


@pytest.fixture
def ledger():
    return MemoryLedger()


@pytest.fixture
def study():
    return make_study()


@pytest.fixture
def cohort():
    return make_cohort()


@pytest.fixture
def architecture(study):
    return architecture_for(study, "tiny")


@pytest.fixture
def options(study):
    plan = plan_for(study, n_declared=60, unit=Unit.IMAGE, steps=4)
    return TrainOptions(declared_labels=("left", "right"), plan=plan)


@pytest.fixture
def make():
    """The two makers, for tests that need another study or cohort."""
    return {"study": make_study, "cohort": make_cohort, "ledger": MemoryLedger}


def make_study(
    *,
    classes=CLASSES,
    channels=1,
    side=8,
    preset="tiny",
    personal_data=PersonalData.REFUSED,
    epsilon=8.0,
    delta=1e-5,
):
    return Study(
        federation="test",
        id="shapes",
        round=1,
        title="Shapes",
        classes=classes,
        image=ImageRule(channels=channels, height=side, width=side),
        method="federated-factory",
        architectures=(ArchitectureRef(kind="edm-unet2d", version=1, preset=preset),),
        privacy=PrivacyPolicy(
            personal_data=personal_data, unit=Unit.IMAGE, epsilon=epsilon, delta=delta
        ),
        minimum_per_class=10,
        build=BuildPolicy(
            version=1, shard_size=16, sampler_steps=3, classifier="small", classifier_steps=1
        ),
        quorum=1,
        reviewers=(Reviewer(name="r", public_key="0" * 64),),
        created="2026-01-01T00:00:00Z",
    )


def make_cohort(*, count=66, classes=2, channels=1, side=8, per_unit=1):
    """Images of a bright left or right half; `per_unit` images in a row share a unit."""
    rng = np.random.default_rng(5)
    labels = np.arange(count) % classes
    images = rng.normal(0, 0.1, (count, channels, side, side)).astype(np.float32) - 0.5
    for number, label in enumerate(labels):
        images[number, :, :, label * 3 : label * 3 + side // 2] += 1.0
    digests = tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in images)
    units = digests if per_unit == 1 else tuple(f"p{i // per_unit}" for i in range(count))
    return Cohort(
        images=np.clip(images, -1, 1),
        labels=labels.astype(np.int64),
        units=units,
        digests=digests,
        unit_kind=Unit.IMAGE if per_unit == 1 else Unit.PATIENT,
    )
