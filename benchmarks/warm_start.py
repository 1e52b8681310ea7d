"""What a public base is worth: three hospitals trained from one, and from random weights.

Everything else is equal: the deal of the images, the plan, the steps, the seeds of shards and
classifier. The DP noise is fresh in every training, so single runs differ by some per cent; the
same classifier on the same held-out images judges both. Each row says its `start`: `random`, or the
looks of the procedural images that the base learned from.

`python -m benchmarks.warm_start [--seeds 2] [--epsilons 8,1] [--starts random,all] [--json FILE]
[--quick]`
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import accuracy
from benchmarks.baselines import load_sites, score
from demo import data as demo_data
from edge_agent.datasets.load import load_cohort
from edge_agent.training import run as training
from edge_agent.training.plan import plan_for
from federation.learning.generator import architecture as networks
from federation.learning.generator.pretrain import Recipe, pretrain
from federation.learning.methods import federated_factory
from federation.release import base as bases
from federation.release.base import Base, Manifest, Origin
from federation.study import Study, Unit
from kit import door

RANDOM = "random"


def main() -> int:
    """Run every combination and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm_start", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epsilons", default="8,1")
    parser.add_argument("--starts", default=f"{RANDOM},all")
    parser.add_argument("--base-steps", type=int, default=Recipe.steps)
    parser.add_argument("--steps", type=int, help="private steps, instead of the preset's")
    parser.add_argument("--shard-size", type=int, default=300)
    parser.add_argument("--sampler-steps", type=int, default=10)
    parser.add_argument("--classifier-steps", type=int, default=600)
    parser.add_argument("--quick", action="store_true", help="eight steps: the path, no learning")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.steps = options.base_steps = options.classifier_steps = 8
        options.seeds, options.shard_size = 1, 16
    rows = []
    for seed in range(options.seeds):
        for epsilon in options.epsilons.split(","):
            for start in options.starts.split(","):
                with tempfile.TemporaryDirectory() as folder:
                    rows.append(_one(start, float(epsilon), seed, Path(folder), options))
                door.note(json.dumps(rows[-1]))
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(door.columns(_cells(rows), ("epsilon", "start", "seeds", "accuracy", "AUROC", "train s")))
    return 0


def _one(
    start: str, epsilon: float, seed: int, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    data = demo_data.make(folder / "data", seed=seed)
    study = accuracy._study("private", data, options)
    study = replace(study, privacy=replace(study.privacy, epsilon=epsilon))
    architecture = networks.architecture_for(study, study.architectures[0].preset)
    begun = time.monotonic()
    base = None if start == RANDOM else _base(study, architecture, start, options.base_steps)
    made = time.monotonic()
    shards = []
    for index, (site, described) in enumerate(data.sites.items()):
        _train(folder, study, site, described.classes, base, options.steps)
        shards += accuracy._shards(folder / site, study, described.classes, seed=seed * 100 + index)
    trained = time.monotonic()
    model = federated_factory.release_model(
        shards,
        classes=study.classes,
        classifier=study.build.classifier,
        steps=study.build.classifier_steps,
        seed=seed,
        threads=1,
    )
    sites, _ = load_sites(folder / "data", study.image)
    metrics = score(model.network, sites)
    return {
        "start": start,
        "epsilon": epsilon,
        "seed": seed,
        "accuracy": metrics.accuracy,
        "auroc": metrics.auroc,
        "base_s": round(made - begun, 1),
        "train_s": round(trained - made, 1),
    }


_MADE: dict[tuple[str, str, int], Base] = {}


def _base(study: Study, architecture: networks.Architecture, looks: str, steps: int) -> Base:
    """Make the base once for all seeds and budgets, as a consortium would."""
    key = (json.dumps(architecture.to_table()), looks, steps)
    if key not in _MADE:
        recipe = Recipe(looks=looks, steps=steps)
        tensors = pretrain(architecture, recipe, report=lambda _done, _total: None)
        _MADE[key] = bases.make(
            tensors,
            Manifest(
                study=study.digest,
                architecture=architecture.to_table(),
                origin=Origin.PROCEDURAL,
                recipe=recipe.to_table(),
                numerics="0" * 64,
                weights_sha256="0" * 64,
            ),
        )
    return _MADE[key]


def _train(
    folder: Path, study: Study, site: str, labels: list[str], base: Base | None, steps: int | None
) -> None:
    cohort, _ = load_cohort(folder / "data" / site / demo_data.TRAIN, study, labels)
    architecture = networks.architecture_for(study, study.architectures[0].preset)
    declared = max(len(cohort.images) // accuracy.DECLARED_STEP, 1) * accuracy.DECLARED_STEP
    plan = plan_for(study, n_declared=declared, unit=Unit.IMAGE, steps=steps)
    settings = training.TrainOptions(declared_labels=tuple(labels), plan=plan, base=base)
    account = accuracy.MemoryAccount()
    training.train_run(folder / site, study, architecture, cohort, settings, account)


def _cells(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    table = []
    for epsilon, start in dict.fromkeys((row["epsilon"], row["start"]) for row in rows):
        mine = [row for row in rows if (row["epsilon"], row["start"]) == (epsilon, start)]
        cells = [f"{epsilon:g}", start, str(len(mine))]
        for figure in ("accuracy", "auroc"):
            values = np.array([row[figure] for row in mine])
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            cells.append(f"{values.mean():.4f} +- {spread:.4f}")
        table.append((*cells, f"{np.mean([row['train_s'] for row in mine]):.0f}"))
    return table


if __name__ == "__main__":
    sys.exit(main())
