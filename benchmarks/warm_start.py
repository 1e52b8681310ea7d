"""What a public base is worth: three hospitals trained from one, and from random weights.

Everything else is equal: the deal of the images, the plan with its warm-up, the seeds of shards and
classifier. The DP noise is fresh in every training, so single runs differ by some per cent. Each
row says its `start`: `random`, or the looks of the procedural images that the base learnt from.

`python -m benchmarks.warm_start [--seeds 2] [--epsilons 8,1] [--starts random,all] [--json FILE]
[--quick]`
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import trials
from benchmarks.accuracy import datasets, factory
from benchmarks.accuracy.datasets import Outline
from benchmarks.accuracy.factory import FactoryPlan
from federation.learning.downstream.numerics import pinned_threads
from federation.learning.generator import architecture as networks
from federation.learning.generator.pretrain import Recipe, pretrain
from federation.release import base as bases
from federation.release.base import Base, Manifest, Origin
from kit import door

RANDOM = "random"
_NOBODY = "0" * 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every combination and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm_start", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epsilons", default="8,1")
    parser.add_argument("--starts", default=f"{RANDOM},all")
    parser.add_argument("--images", type=int, help="of all hospitals; default: every one")
    parser.add_argument("--base-steps", type=int, default=Recipe().steps)
    parser.add_argument("--steps", type=int, help="private steps, instead of the preset's")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="two steps: the path, no learning")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    plan = FactoryPlan(steps=options.steps)
    if options.quick:
        options.seeds, options.base_steps = 1, 2
        plan = FactoryPlan(steps=2, shard_size=16, sampler_steps=3, classifier_steps=4)
    digits, rows = datasets.load("digits", None), []
    for seed in range(options.seeds):
        federation = datasets.deal(digits, clients=3, images=options.images, seed=seed)
        for epsilon in map(float, options.epsilons.split(",")):
            for start in options.starts.split(","):
                base = _base(federation.outline, plan, start, options.base_steps)
                found = factory.run(
                    federation, epsilon, plan, seed=seed, workers=options.workers, base=base
                )
                row: dict[str, Any] = {"start": start, "epsilon": epsilon, "seed": seed}
                row |= {"accuracy": found.metrics.accuracy, "auroc": found.metrics.auroc}
                rows.append(row | {"generator_s": found.generator_s})
                door.note(json.dumps(rows[-1]))
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(door.columns(_cells(rows), ("epsilon", "start", "seeds", "accuracy", "AUROC", "train s")))
    return 0


def _base(outline: Outline, plan: FactoryPlan, start: str, steps: int) -> Base | None:
    if start == RANDOM:
        return None
    study = factory.study_for(outline, 1.0, plan)  # the network is the same at every epsilon
    return _made(trials.architecture_of(study), start, steps)


@cache
def _made(architecture: networks.Architecture, looks: str, steps: int) -> Base:
    """Make the base once for all seeds and budgets, as a consortium would."""
    recipe = Recipe(looks=looks, steps=steps)
    with pinned_threads(1):
        tensors = pretrain(architecture, recipe, report=lambda _done, _total: None)
    manifest = Manifest(
        study=_NOBODY,
        architecture=architecture.to_table(),
        origin=Origin.PROCEDURAL,
        recipe=recipe.to_table(),
        numerics=_NOBODY,
        weights_sha256=_NOBODY,
    )
    return bases.make(tensors, manifest)


def _cells(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    table = []
    for epsilon, start in dict.fromkeys((row["epsilon"], row["start"]) for row in rows):
        mine = [row for row in rows if (row["epsilon"], row["start"]) == (epsilon, start)]
        cells = [f"{epsilon:g}", start, str(len(mine))]
        for figure in ("accuracy", "auroc"):
            values = np.array([row[figure] for row in mine])
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            cells.append(f"{values.mean():.4f} +- {spread:.4f}")
        table.append((*cells, f"{np.mean([row['generator_s'] for row in mine]):.0f}"))
    return table


if __name__ == "__main__":
    sys.exit(main())
