"""Really trained generators of handwritten digits: a replay fails, a private run passes.

A slice of `benchmarks/gate.py`, which asks three seeds of each at full length.
"""

import json

import numpy as np
import pytest
import torch

from edge_agent.gate.examination import Subjects, examine
from edge_agent.training import run as training
from edge_agent.training.plan import plan_for
from federation.learning.generator.architecture import architecture_for
from federation.study import PersonalData, Unit
from tests.gate.cohorts import digits, make_cohort
from tests.training.conftest import MemoryLedger, make_study

HELD_OUT = 60
PRIVATE, REPLAYED = 60, 24  # the fewer images, the sooner they are learnt by heart
DIGITS = tuple(map(str, range(10)))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def deal(seed, *, count):
    images, labels = digits()
    order = np.random.default_rng(seed).permutation(np.flatnonzero(np.isin(labels, (4, 5, 6))))
    cohort = make_cohort(images[order], labels[order])
    trained = cohort.part(np.arange(count))
    held_out = cohort.part(np.arange(count, count + HELD_OUT))
    return Subjects(trained=trained, held_out=held_out, included=frozenset(trained.units))


def judged(folder, *, private, steps):
    subjects = deal(0, count=PRIVATE if private else REPLAYED)
    study = make_study(
        classes=DIGITS,
        preset="tiny" if private else "tiny-wide",
        personal_data=PersonalData.REFUSED if private else PersonalData.ALLOWED,
    )
    plan = None
    if private:
        plan = plan_for(study, n_declared=PRIVATE + HELD_OUT, unit=Unit.IMAGE, steps=steps)
    options = training.TrainOptions(
        declared_labels=("4", "5", "6"), plan=plan, held_out=HELD_OUT, steps=steps
    )
    architecture = architecture_for(study, study.architectures[0].preset)
    ledger = MemoryLedger() if private else None
    training.train_run(folder, study, architecture, subjects.trained, options, ledger)
    report = json.loads(examine(folder, study, ("4", "5", "6"), subjects, b"secret" * 6))
    return report["passed"], {check["name"]: check["outcome"] for check in report["checks"]}


def test_a_replay_of_a_few_digits_fails_and_a_private_run_passes(tmp_path):
    passed, outcomes = judged(tmp_path / "private", private=True, steps=10)
    assert passed, outcomes
    assert outcomes["membership"] == "cannot tell"  # 60 held-out units are too few to pass
    passed, outcomes = judged(tmp_path / "replay", private=False, steps=150)
    assert not passed, outcomes
    assert outcomes["membership"] == "failed"
