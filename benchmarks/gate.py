"""The gate's thresholds: what it says of replays, of honest runs and of private ones.

Everything is the product's own code but the coins: the split is of fixed size and follows from
the seed, so that a trained run can be asked again (`--work DIR` keeps runs and trains none twice).
Thresholds were fixed on digits; `--data` asks other images with the same ones.

| kind | trained | claim |
|---|---|---|
| replay | 60 images of three classes, until it has learnt them by heart | none |
| honest | all but the held-out images, the recipe's own steps | none |
| epsilon-8, epsilon-1 | the same, privately | (8, 1e-5), (1, 1e-5) per image |

`python -m benchmarks.gate [--seeds 3] [--data NPZ] [--work DIR] [--json FILE] [--quick]`
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import trials
from edge_agent.datasets.examples import Cohort
from edge_agent.gate.examination import Subjects, examine
from federation.study import ImageRule, Study
from kit import door

KINDS = ("replay", "honest", "epsilon-8", "epsilon-1")
REPLAYED, REPLAYED_CLASSES = 60, (4, 5, 6)
MAX_IMAGES = 2_400
SECRET = b"nobody's secret: a benchmark has no patients"


@dataclass(frozen=True)
class Images:
    """Every image there is, before it is dealt."""

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def main() -> int:
    """Train (or find) every run, ask the gate, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="an .npz with MedMNIST keys; digits by default")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--work", type=Path, help="keep trained runs here")
    parser.add_argument("--private-steps", type=int, help="instead of the preset's")
    parser.add_argument("--plain-steps", type=int, help="instead of the recipe's")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one seed, few private steps")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.private_steps = 1, options.private_steps or 20
    torch.set_num_threads(1)
    found = _load(options.data)
    rows = []
    for kind in options.kinds.split(","):
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as scratch:
                work = (options.work or Path(scratch)) / f"{kind}-{seed}"
                rows.append(_one(found, kind, seed, work, options))
            door.note(json.dumps(rows[-1]))
    _show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def _load(path: Path | None) -> Images:
    if path is None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = (digits.images / 8 - 1).astype(np.float32)[:, None]
        return Images(images, digits.target.astype(np.int64), tuple(map(str, range(10))))
    with np.load(path) as stored:
        pixels = np.concatenate([stored[f"{s}_images"] for s in ("train", "val", "test")])
        labels = np.concatenate([stored[f"{s}_labels"] for s in ("train", "val", "test")])
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    images = (pixels / np.float32(127.5) - 1).astype(np.float32)
    flat = labels.reshape(-1).astype(np.int64)
    return Images(images, flat, tuple(map(str, range(int(flat.max()) + 1))))


def _one(
    found: Images, kind: str, seed: int, work: Path, options: argparse.Namespace
) -> dict[str, Any]:
    study = _study(found, kind)
    subjects = _deal(found, kind, seed)
    labels = tuple(found.classes[i] for i in np.unique(subjects.trained.labels))
    started = time.monotonic()
    if not trials.is_trained(work):
        _train(study, kind, subjects, labels, work, options)
    trained = time.monotonic()
    report = json.loads(examine(work, study, labels, subjects, SECRET))
    row = {
        "kind": kind,
        "seed": seed,
        "trained": len(subjects.trained.images),
        "held_out": len(subjects.held_out.images),
        "passed": report["passed"],
        "train_s": round(trained - started, 1),
        "gate_s": round(time.monotonic() - trained, 1),
    }
    for check in report["checks"]:
        row[check["name"]] = [check["outcome"], float(check["value"]), float(check["threshold"])]
    return row | {"lines": report["lines"]}


def _deal(found: Images, kind: str, seed: int) -> Subjects:
    """Split at random: as many trained units as are held out count as tossed."""
    rng = np.random.default_rng(seed)
    if kind == "replay":
        order = rng.permutation(np.flatnonzero(np.isin(found.labels, REPLAYED_CLASSES)))
        trained, held_out = order[:REPLAYED], order[REPLAYED : 2 * REPLAYED]
    else:
        order = rng.permutation(len(found.images))[:MAX_IMAGES]
        count = len(order) * 3 // 4 // 20 * 20
        trained, held_out = order[:count], order[count:]
    cohort = _cohort(found, trained)
    return Subjects(
        trained=cohort,
        held_out=_cohort(found, held_out),
        included=frozenset(cohort.units[: len(held_out)]),
    )


def _cohort(found: Images, chosen: np.ndarray) -> Cohort:
    units = [f"{i:06d}" for i in chosen]
    return trials.cohort_of(found.images[chosen], found.labels[chosen], units)


def _study(found: Images, kind: str) -> Study:
    channels, height, width = found.images.shape[1:]
    rule = ImageRule(channels=channels, height=height, width=width)
    epsilon = float(kind.partition("-")[2]) if kind.startswith("epsilon") else None
    return trials.study_of(kind, found.classes, rule, epsilon=epsilon)


def _train(
    study: Study,
    kind: str,
    subjects: Subjects,
    labels: tuple[str, ...],
    work: Path,
    options: argparse.Namespace,
) -> None:
    count = len(subjects.trained.images) + len(subjects.held_out.images)
    trials.train(
        work,
        study,
        subjects.trained,
        labels,
        n_declared=count // 100 * 100,
        steps=options.private_steps if kind.startswith("epsilon") else options.plain_steps,
        held_out=len(subjects.held_out.images),
    )


def _show(rows: list[dict[str, Any]]) -> None:
    names = ("support", "near-copies", "membership", "one-run")
    table = [
        (
            row["kind"],
            str(row["seed"]),
            str(row["trained"]),
            str(row["held_out"]),
            *(f"{row[n][0]} {row[n][1]:.3f}" for n in names),
            "passed" if row["passed"] else "FAILED",
            f"{row['gate_s']:.0f}",
        )
        for row in rows
    ]
    head = ("kind", "seed", "trained", "held out", *names, "gate", "gate s")
    print(door.columns(table, head))


if __name__ == "__main__":
    sys.exit(main())
