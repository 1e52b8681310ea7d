"""What `edge-agent adapt` is worth: a release's synthetic images with and without real ones.

Handwritten digits dealt to hospitals that share no class; generators are class statistics. A row
is judged on real images that nobody trained on: those of the hospital's own classes, and those of
all others, which it never saw. Recipes:

- `release`: as it is;
- `own images alone`: the baseline of `adapt`; of one class it can say nothing else;
- `published`: real images of the own classes, synthetic ones of the others (FederatedFactory's
  local mode, arXiv 2603.16370, published code);
- `adapt`: the own classes keep their synthetic images beside the real ones.

`--noise` makes the synthetic images worse than these generators do: pixels get so much Gaussian
noise, of the half range. It stands for generators whose images anybody tells from real ones.

`python -m benchmarks.adapting [--clients 10,3] [--epsilons none,8] [--hospitals 3] [--seeds 1]
[--noise 0.0] [--json FILE] [--quick]`
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import trials
from benchmarks.accuracy import datasets, factory
from benchmarks.accuracy.datasets import Federation
from benchmarks.accuracy.factory import FactoryPlan
from federation.learning.downstream.numerics import pinned_threads
from federation.learning.downstream.pixels import from_bytes
from federation.learning.downstream.train import predict_logits, train_classifier
from federation.learning.methods import federated_factory
from federation.study import Study
from kit import door, seeds

PRESET = "moments"
Part = tuple[NDArray[np.float32], NDArray[np.int64]]
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every combination and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapting", description=__doc__)
    parser.add_argument("--clients", default="10,3")
    parser.add_argument("--epsilons", default="none,8")
    parser.add_argument("--hospitals", type=int, default=3, help="how many of them adapt")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--quick", action="store_true", help="a few steps: the path, no learning")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    plan = FactoryPlan(preset=PRESET)
    if options.quick:
        plan = FactoryPlan(preset=PRESET, shard_size=16, classifier_steps=3)
        options.clients, options.hospitals, options.seeds = "3", 1, 1
    digits, rows = datasets.load("digits", None), []
    with pinned_threads(1):
        for seed in range(options.seeds):
            for clients in map(int, options.clients.split(",")):
                federation = datasets.deal(digits, clients=clients, images=None, seed=seed)
                for word in options.epsilons.split(","):
                    epsilon = None if word == "none" else float(word)
                    task = _Task(federation, epsilon, plan, seed, options.noise)
                    rows += _rows(task, hospitals=options.hospitals)
    table = [tuple(str(value) for value in row.values()) for row in rows]
    print(door.columns(table, tuple(rows[0])))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


@dataclass(frozen=True, slots=True)
class _Task:
    federation: Federation
    epsilon: float | None
    plan: FactoryPlan
    seed: int
    noise: float


def _rows(task: _Task, *, hospitals: int) -> Iterator[Row]:
    federation, seed = task.federation, task.seed
    study = factory.study_for(federation.outline, task.epsilon, task.plan)
    with tempfile.TemporaryDirectory() as name:
        runs, _ = factory.train(federation, task.epsilon, task.plan, Path(name), workers=1)
        images, labels = _synthetic(federation, study, runs, seed)
    drawn = np.random.default_rng(seed).normal(0, task.noise, images.shape)
    synthetic = (images + drawn).clip(-1, 1).astype(np.float32), labels
    release = _train(study, synthetic, seed)
    for number, site in enumerate(federation.sites[:hospitals]):
        own = np.unique(site.train_labels)
        real = site.train_images, site.train_labels
        others = ~np.isin(synthetic[1], own)
        networks = {
            "release": release,
            "own images alone": _train(study, real, seed),
            "published": _train(
                study, _joined(real, (synthetic[0][others], synthetic[1][others])), seed
            ),
            "adapt": _train(study, _joined(real, synthetic), seed),
        }
        for recipe, network in networks.items():
            yield {
                "clients": len(federation.sites),
                "epsilon": task.epsilon or "none",
                "noise": task.noise,
                "hospital": number,
                "recipe": recipe,
                **_scores(network, federation, own),
            }


def _synthetic(federation: Federation, study: Study, runs: Sequence[Path], seed: int) -> Part:
    images, labels = [], []
    for index, (run, declared) in enumerate(zip(runs, federation.outline.labels, strict=True)):
        network, architecture = trials.generator(run, study), trials.architecture_of(study)
        for label in declared:
            place = study.classes.index(label)
            images.append(
                federated_factory.shard(
                    network,
                    architecture,
                    place,
                    size=study.build.shard_size,
                    seed=seeds.seed((seed * 100 + index).to_bytes(8, "big"), label),
                    sampler_steps=study.build.sampler_steps,
                )
            )
            labels.append(np.full(study.build.shard_size, place, dtype=np.int64))
    return from_bytes(np.concatenate(images)), np.concatenate(labels)


def _train(study: Study, part: Part, seed: int) -> torch.nn.Module:
    images, labels = part
    return train_classifier(
        images,
        labels,
        classifier=study.build.classifier,
        num_classes=len(study.classes),
        steps=study.build.classifier_steps,
        seed=seed,
        augmentation=study.build.augmentation,
    ).network


def _joined(one: Part, two: Part) -> Part:
    return np.concatenate([one[0], two[0]]), np.concatenate([one[1], two[1]])


def _scores(
    network: torch.nn.Module, federation: Federation, own: NDArray[np.int64]
) -> dict[str, str]:
    images = np.concatenate([site.held_out_images for site in federation.sites])
    labels = np.concatenate([site.held_out_labels for site in federation.sites])
    right = predict_logits(network, torch.from_numpy(images)).argmax(dim=1).numpy() == labels
    mine = np.isin(labels, own)
    return {
        name: f"{100 * right[where].mean():.1f}"
        for name, where in (("own classes", mine), ("other classes", ~mine), ("all", labels >= 0))
    }


if __name__ == "__main__":
    sys.exit(main())
