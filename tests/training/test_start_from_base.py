"""Training from a public base: where it starts, what it costs, and that a run keeps its base."""

import json
from dataclasses import replace

import numpy as np
import pytest

from edge_agent.training.plan import plan_for
from edge_agent.training.run import TrainOptions, train_run
from federation.blueprint import weights
from federation.learning.generator.architecture import (
    architecture_for,
    build_network,
    class_embedding_name,
    expected_tensors,
    state_arrays,
)
from federation.release import base as rules
from federation.release.base import Manifest, Origin
from federation.study import PersonalData, Unit
from kit.errors import KitError


def a_base(study, architecture, *, scale=1.0):
    """Random weights of the network, each one that bfloat16 holds, as a base."""
    tensors = {
        name: weights.read(weights.write({"x": scale * array}), {"x": ("BF16", array.shape)})["x"]
        for name, array in state_arrays(build_network(architecture)).items()
    }
    manifest = Manifest(
        study=study.digest,
        architecture=architecture.to_table(),
        origin=Origin.PROCEDURAL,
        recipe={},
        numerics="0" * 64,
        weights_sha256="0" * 64,
    )
    return rules.make(tensors, manifest)


def one_step(study):
    return plan_for(study, n_declared=60, unit=Unit.IMAGE, steps=1)


def distance(folder, base, architecture):
    """The largest difference of what would leave from a base, declared classes only."""
    table = expected_tensors(architecture)
    before = base.arrays(architecture.to_table(), table)
    after = weights.read((folder / "weights.safetensors").read_bytes(), table)
    rows = class_embedding_name(architecture)
    before[rows], after[rows] = before[rows][:2], after[rows][:2]
    return max(float(np.abs(after[name] - before[name]).max()) for name in table)


def test_training_starts_from_the_weights_of_the_base(tmp_path, cohort, make):
    study = make["study"](personal_data=PersonalData.ALLOWED)
    architecture = architecture_for(study, "tiny")
    base = a_base(study, architecture)
    cold = TrainOptions(declared_labels=("left", "right"), plan=None, steps=1)
    for name, options in {"cold": cold, "warm": replace(cold, base=base)}.items():
        train_run(tmp_path / name, study, architecture, cohort, options, None)
    # One step of Adam moves a weight by about its rate of 2e-3; rounding adds less than that.
    assert distance(tmp_path / "warm", base, architecture) < 0.02
    assert distance(tmp_path / "cold", base, architecture) > 0.2


def test_a_base_costs_no_budget(tmp_path, study, architecture, cohort, ledger, make):
    base, other = a_base(study, architecture), make["ledger"]()
    cold = TrainOptions(declared_labels=("left", "right"), plan=one_step(study))
    warm = replace(cold, base=base)
    without = train_run(tmp_path / "cold", study, architecture, cohort, cold, other)
    result = train_run(tmp_path / "warm", study, architecture, cohort, warm, ledger)
    assert result.privacy == without.privacy
    assert ledger.charged == other.charged > 0
    assert distance(tmp_path / "cold", base, architecture) > 0.2


def test_a_run_keeps_its_base(tmp_path, study, architecture, cohort, ledger):
    first = a_base(study, architecture)
    second = a_base(study, architecture)
    options = TrainOptions(declared_labels=("left", "right"), plan=one_step(study), base=first)
    result = train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    kept = json.loads((tmp_path / "run/options.json").read_text())
    assert kept["base"] == first.digest
    for other in (second, None):
        with pytest.raises(KitError, match="started with another base"):
            train_run(
                tmp_path / "run", study, architecture, cohort, replace(options, base=other), ledger
            )
    again = train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    assert (again.was_finished, again.privacy) == (True, result.privacy)


def test_a_base_of_another_network_is_refused_before_anything_is_written_or_spent(
    tmp_path, study, architecture, cohort, ledger, make
):
    coloured = make["study"](channels=3)
    wrong = a_base(coloured, architecture_for(coloured, "tiny"))
    right = a_base(study, architecture)
    options = TrainOptions(declared_labels=("left", "right"), plan=one_step(study), base=wrong)
    with pytest.raises(KitError, match="another architecture"):
        train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    assert (ledger.charged, (tmp_path / "run").exists()) == (0, False)
    train_run(tmp_path / "run", study, architecture, cohort, replace(options, base=right), ledger)
    assert ledger.charged > 0
