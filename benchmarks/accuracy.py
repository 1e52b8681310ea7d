"""Synthetic to real accuracy over several seeds: what the factory gives on three hospitals.

For each seed the images are dealt anew, three generators are trained side by side with fresh
secret noise, shards are drawn, the classifier is trained on them alone and judged on the real
held-out images. Everything is the product's own code but the exchange, which changes no bit.

`python -m benchmarks.accuracy [--seeds 5] [--data PATH] [--json FILE] [--quick]`
"""

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.baselines import held_out, load_sites, score
from demo import data as demo_data
from demo.story import DECLARED_STEP
from edge_agent.datasets.load import load_cohort
from edge_agent.training import run as training
from edge_agent.training.folder import WEIGHTS
from edge_agent.training.plan import PrivacyPlan, plan_for
from federation.blueprint import weights
from federation.learning.generator import architecture as networks
from federation.learning.methods import federated_factory
from federation.study import (
    ArchitectureRef,
    BuildPolicy,
    ImageRule,
    PersonalData,
    PrivacyPolicy,
    Reviewer,
    Study,
    Unit,
)
from kit import door, seeds

EPSILON, DELTA = 8.0, 1e-5
SETTINGS = ("private", "non-private")


@dataclass
class MemoryAccount:
    """Counts steps; a benchmark spends no patient's budget twice, because it deals public data."""

    charged: int = 0

    def charge(self, steps: int) -> None:
        """Count `steps` more."""
        self.charged += steps


def main() -> int:
    """Run every seed and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--shard-size", type=int, default=300)
    parser.add_argument("--sampler-steps", type=int, default=10)
    parser.add_argument("--classifier-steps", type=int, default=600)
    parser.add_argument("--quick", action="store_true", help="eight steps: the path, no learning")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for setting in options.settings.split(","):
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(_one(setting, seed, Path(folder), options))
            door.note(json.dumps(rows[-1]))
    _show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def _one(setting: str, seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    data = demo_data.make(folder / "data", data=options.data, seed=seed)
    study = _study(setting, data, options)
    started = time.monotonic()
    with ProcessPoolExecutor(len(data.sites), mp_context=get_context("spawn")) as pool:
        steps = 8 if options.quick else None
        jobs = [
            pool.submit(_train, folder, study, s, d.classes, steps) for s, d in data.sites.items()
        ]
        for job in jobs:
            job.result()
    trained = time.monotonic()
    shards = []
    for index, (site, described) in enumerate(data.sites.items()):
        shards += _shards(folder / site, study, described.classes, seed=seed * 100 + index)
    model = federated_factory.release_model(
        shards,
        classes=study.classes,
        classifier=study.build.classifier,
        steps=study.build.classifier_steps,
        seed=seed,
        threads=1,
    )
    sites, classes = load_sites(folder / "data", study.image)
    order = [model.labels.index(label) for label in classes]
    if order != list(range(len(order))):
        raise RuntimeError("folder names and the study order classes differently")
    metrics = score(model.network, sites)
    return {
        "setting": setting,
        "seed": seed,
        "held_out": len(held_out(sites)[1]),
        "accuracy": metrics.accuracy,
        "balanced_accuracy": metrics.balanced_accuracy,
        "auroc": metrics.auroc,
        "train_s": round(trained - started, 1),
        "build_s": round(time.monotonic() - trained, 1),
    }


def _study(setting: str, data: Any, options: argparse.Namespace) -> Study:
    preset = networks.default_preset(data.height, data.width)
    if setting == "non-private" and preset == "tiny":
        preset = "tiny-wide"
    allowed = PersonalData.ALLOWED if setting == "non-private" else PersonalData.REFUSED
    return Study(
        federation="benchmark",
        id=setting,
        round=1,
        title=setting,
        classes=tuple(data.classes),
        image=ImageRule(channels=data.channels, height=data.height, width=data.width),
        method="federated-factory",
        architectures=(
            ArchitectureRef(kind=networks.KIND, version=networks.VERSION, preset=preset),
        ),
        privacy=PrivacyPolicy(personal_data=allowed, unit=Unit.IMAGE, epsilon=EPSILON, delta=DELTA),
        minimum_per_class=10,
        build=BuildPolicy(
            version=1,
            shard_size=options.shard_size,
            sampler_steps=options.sampler_steps,
            classifier="resnet-small",
            classifier_steps=options.classifier_steps,
        ),
        quorum=1,
        reviewers=(Reviewer(name="nobody", public_key="0" * 64),),
        created="2026-01-01T00:00:00Z",
    )


def _train(folder: Path, study: Study, site: str, labels: list[str], steps: int | None) -> None:
    torch.set_num_threads(1)
    cohort, _ = load_cohort(folder / "data" / site / demo_data.TRAIN, study, labels)
    architecture = networks.architecture_for(study, study.architectures[0].preset)
    plan, account = None, None
    if study.privacy.personal_data is PersonalData.REFUSED:
        plan, account = _plan(study, len(cohort.images), steps), MemoryAccount()
    options = training.TrainOptions(declared_labels=tuple(labels), plan=plan, steps=steps)
    training.train_run(folder / site, study, architecture, cohort, options, account)


def _plan(study: Study, count: int, steps: int | None) -> PrivacyPlan:
    declared = max(count // DECLARED_STEP * DECLARED_STEP, min(count, DECLARED_STEP))
    return plan_for(study, n_declared=declared, unit=Unit.IMAGE, steps=steps)


def _shards(
    run: Path, study: Study, labels: list[str], *, seed: int
) -> list[tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]]:
    torch.set_num_threads(os.cpu_count() or 1)
    architecture = networks.architecture_for(study, study.architectures[0].preset)
    network = networks.build_network(architecture)
    data = (run / WEIGHTS).read_bytes()
    networks.load_weights(network, weights.read(data, networks.expected_tensors(architecture)))
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


def _show(rows: list[dict[str, Any]]) -> None:
    table = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        mine = [row for row in rows if row["setting"] == setting]
        cells = [setting, str(len(mine))]
        for figure in ("accuracy", "balanced_accuracy", "auroc"):
            values = np.array([row[figure] for row in mine])
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            cells.append(f"{values.mean():.4f} +- {spread:.4f}")
        cells.append(f"{np.mean([row['train_s'] for row in mine]):.0f}")
        cells.append(f"{np.mean([row['build_s'] for row in mine]):.0f}")
        table.append(tuple(cells))
    head = ("setting", "seeds", "accuracy", "balanced", "AUROC", "train s", "build s")
    print(door.columns(table, head))


if __name__ == "__main__":
    sys.exit(main())
