"""Finished run folders in a fraction of a second: random weights, everything else consistent."""

import json

import numpy as np
import torch

from edge_agent.gate import examination
from edge_agent.runs import open_ledger
from edge_agent.training import run as training
from edge_agent.training.plan import plan_for
from federation.blueprint import weights
from federation.learning.generator import architecture as networks
from kit import canonical
from kit.files import sha256_file

DECLARED_COUNT, STEPS = 60, 4


def write_run(home, study, labels, *, name=None, seed=1, private=True, tensors=None):
    """Write what `edge-agent train` leaves; returns the run's name."""
    name = name or study.id
    folder = home.run(name)
    folder.mkdir(mode=0o700, exist_ok=True)
    plan = None
    if private:
        plan = plan_for(study, n_declared=DECLARED_COUNT, unit=study.privacy.unit, steps=STEPS)
    architecture = networks.architecture_for(study, study.architectures[0].preset)
    tensors = random_tensors(architecture, study, labels, seed=seed) if tensors is None else tensors
    options = {"study": study.digest, "declared_labels": list(labels)}
    privacy = training.privacy_table(plan, study.privacy.unit)
    for file, table in ((training.OPTIONS, options), (training.PRIVACY, privacy)):
        (folder / file).write_text(json.dumps(table))
    (folder / training.ARCHITECTURE).write_bytes(canonical.encode(architecture.to_table()))
    (folder / training.WEIGHTS).write_bytes(weights.write(tensors))
    give_verdict(home, name)
    return name


def give_verdict(home, name, *, passed=True):
    """Let the gate have said this of a run's weights."""
    folder = home.run(name)
    digest = sha256_file(folder / training.WEIGHTS)
    report = {"passed": passed, "checks": [], "weights": digest, "salt": "00" * 16}
    with open_ledger(home) as ledger:
        examination.settle(folder, json.dumps(report).encode(), ledger)


def random_tensors(architecture, study, labels, *, seed):
    """Fresh weights of the network, with the rows of undeclared classes zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tensors = networks.state_arrays(networks.build_network(architecture))
    undeclared = [label not in labels for label in study.classes]
    tensors[networks.class_embedding_name(architecture)][np.array(undeclared)] = 0
    return tensors


def change_one_weight(home, name, table):
    """Flip one bfloat16 value of a run's weights to its neighbour; everything else stays."""
    path = home.run(name) / training.WEIGHTS
    tensors = weights.read(path.read_bytes(), table)
    place = max(tensors, key=lambda tensor: tensors[tensor].size)
    flat = tensors[place].reshape(-1)
    bits = flat[:1].view(np.uint32)
    flat[0] = (bits ^ np.uint32(1 << 16)).view(np.float32)[0]
    before = path.read_bytes()
    path.write_bytes(weights.write(tensors))
    after = path.read_bytes()
    assert sum(x != y for x, y in zip(before, after, strict=True)) == 1
    give_verdict(home, name)
