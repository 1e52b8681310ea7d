"""What a cohort's size and an epsilon buy: the measurements behind the warning before training.

Three hospitals with disjoint classes, each with exactly N images, train a generator of one preset;
a classifier is trained on the drawn images alone and judged on real held-out ones. The figures of
`edge_agent/training/expectation.py` are what this printed.

`python -m benchmarks.cohort [--data NPZ] [--presets P,..] [--sizes N,..] [--epsilons E,..]`
An epsilon of `inf` is training without privacy.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import trials
from demo.data import deal
from edge_agent.datasets.examples import Cohort
from federation.learning.downstream.train import predict_logits
from federation.learning.methods import federated_factory
from federation.study import ImageRule, Study
from kit import door, seeds

_HELD_OUT_DIGITS = 397


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """One data set: float32 [N, C, H, W] in [-1, 1] to train on, and held-out ones."""

    name: str
    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int64]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, by number."""
        return tuple(f"c{i}" for i in range(int(self.train_labels.max()) + 1))


def main() -> int:
    """Measure every cell and print one line each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort", description=__doc__)
    parser.add_argument("--data", type=Path, help="a MedMNIST-format .npz; digits otherwise")
    parser.add_argument("--presets", default="tiny,moments")
    parser.add_argument("--sizes", default="60,150,300,450")
    parser.add_argument("--epsilons", default="1,3,8,inf")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--classifier-steps", type=int, default=400)
    parser.add_argument("--shard-size", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="one small cell: the path, no figures")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.presets, options.sizes, options.epsilons = "moments", "60", "8"
        options.seeds, options.classifier_steps, options.shard_size = 1, 20, 32
    torch.set_num_threads(1)
    images = _digits() if options.data is None else _npz(options.data)
    rows: list[dict[str, Any]] = []
    for preset in options.presets.split(","):
        for size in map(int, options.sizes.split(",")):
            for epsilon in map(float, options.epsilons.split(",")):
                for seed in range(options.seeds):
                    rows.append(_cell(images, preset, size, epsilon, seed, options))
                    door.note(json.dumps(rows[-1]))
    print(door.columns(_table(rows), ("data", "preset", "N", "epsilon", "balanced", "train s")))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def _cell(
    images: Images,
    preset: str,
    size: int,
    epsilon: float,
    seed: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    study = _study(images, preset, epsilon, options)
    rng, shards, seconds = np.random.default_rng(seed), [], 0.0
    for index, labels in enumerate(deal(study.classes)):
        cohort = _cohort(images, labels, size, rng)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            trials.train(run, study, cohort, tuple(labels), n_declared=len(cohort.images))
            network = trials.generator(run, study)
        seconds += time.monotonic() - started
        for label in labels:
            position = study.classes.index(label)
            drawn = federated_factory.shard(
                network,
                trials.architecture_of(study),
                position,
                size=study.build.shard_size,
                seed=seeds.seed(bytes([seed, index]), label),
                sampler_steps=study.build.sampler_steps,
            )
            shards.append((position, drawn))
    model = federated_factory.release_model(
        shards,
        classes=study.classes,
        classifier=study.build.classifier,
        steps=study.build.classifier_steps,
        seed=seed,
        threads=1,
    )
    predicted = predict_logits(model.network, torch.from_numpy(images.test)).argmax(dim=1).numpy()
    hits = [(predicted[images.test_labels == c] == c).mean() for c in range(len(study.classes))]
    return {
        "data": images.name,
        "preset": preset,
        "size": size,
        "epsilon": epsilon,
        "seed": seed,
        "balanced_accuracy": round(float(np.mean(hits)), 4),
        "train_s": round(seconds / 3, 1),
    }


def _cohort(images: Images, labels: list[str], size: int, rng: np.random.Generator) -> Cohort:
    """Deal `size` images, as even over the classes as can be."""
    chosen = []
    for number, label in enumerate(labels):
        of_class = np.flatnonzero(images.train_labels == images.classes.index(label))
        wanted = size // len(labels) + (number < size % len(labels))
        chosen.append(rng.permutation(of_class)[:wanted])
    index = np.concatenate(chosen)
    units = [f"{i:064x}" for i in index]
    return trials.cohort_of(images.train[index], images.train_labels[index], units)


def _study(images: Images, preset: str, epsilon: float, options: argparse.Namespace) -> Study:
    _, channels, height, width = images.train.shape
    build = replace(
        trials.DEFAULT_BUILD,
        shard_size=options.shard_size,
        classifier_steps=options.classifier_steps,
    )
    return trials.study_of(
        "cohort",
        images.classes,
        ImageRule(channels=channels, height=height, width=width),
        epsilon=epsilon if math.isfinite(epsilon) else None,
        preset=preset,
        build=build,
    )


def _digits() -> Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    pixels = (found.images[order, None] / 8 - 1).astype(np.float32)
    labels = found.target[order].astype(np.int64)
    test = slice(len(order) - _HELD_OUT_DIGITS, None)
    train = slice(0, len(order) - _HELD_OUT_DIGITS)
    return Images(
        name="digits",
        train=pixels[train],
        train_labels=labels[train],
        test=pixels[test],
        test_labels=labels[test],
    )


def _npz(path: Path) -> Images:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}

    def pixels(part: str) -> NDArray[np.float32]:
        values = arrays[f"{part}_images"].astype(np.float32) / np.float32(127.5) - np.float32(1)
        return values[:, None] if values.ndim == 3 else values.transpose(0, 3, 1, 2).copy()

    return Images(
        name=path.stem,
        train=pixels("train"),
        train_labels=arrays["train_labels"].ravel().astype(np.int64),
        test=pixels("test"),
        test_labels=arrays["test_labels"].ravel().astype(np.int64),
    )


def _table(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    table = []
    cells = dict.fromkeys((r["data"], r["preset"], r["size"], r["epsilon"]) for r in rows)
    for cell in cells:
        mine = [r for r in rows if (r["data"], r["preset"], r["size"], r["epsilon"]) == cell]
        values = np.array([row["balanced_accuracy"] for row in mine])
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        seconds = float(np.mean([row["train_s"] for row in mine]))
        words = (cell[0], cell[1], str(cell[2]), f"{cell[3]:g}")
        table.append((*words, f"{values.mean():.3f} +- {spread:.3f}", f"{seconds:.1f}"))
    return table


if __name__ == "__main__":
    sys.exit(main())
