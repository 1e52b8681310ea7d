"""What augmentation, calibration and experts bring, from synthetic images to real ones.

Takes the hospitals of a finished demo (`make demo`; `--work` names its folder): their generators,
private and not, draw the shards of a build, and the classifiers of every policy are trained on
them and judged on the hospitals' real held-out images. Calibration is fitted on held-out
*synthetic* images; the table says what it does on those and on the real ones.

With `--cells NPZ` a few *real* images of each class stand in the place of shards: what augmentation
does for images that have no up.

`python -m benchmarks.downstream [--work DIR | --cells NPZ] [--seeds 2] [--json FILE] [--quick]`
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.accuracy import datasets
from benchmarks.baselines import held_out, load_sites
from federation.blueprint import weights
from federation.build_policy import BuildPolicy, Calibration, Mode, Variation
from federation.learning.downstream.calibration import Calibrated, HeldOut
from federation.learning.downstream.metrics import Metrics, evaluate
from federation.learning.downstream.numerics import pinned_threads
from federation.learning.downstream.pixels import Bytes, to_bytes
from federation.learning.downstream.train import predict_logits
from federation.learning.generator import architecture as networks
from federation.learning.methods import federated_factory, product_of_experts
from kit import canonical, door, seeds
from kit.errors import KitError

POLICY = BuildPolicy(
    version=2,
    shard_size=300,
    sampler_steps=10,
    classifier="resnet-small",
    classifier_steps=600,
    calibration=Calibration.TEMPERATURE,
    held_out=30,
)
_KINDS = ("private", "non-private")

Shards = list[tuple[int, Bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One policy on one set of shards."""

    kind: str
    mode: str
    augmentation: str
    seed: int
    calibrated: Calibrated
    before: Metrics
    after: Metrics

    def to_table(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "kind": self.kind,
            "mode": self.mode,
            "augmentation": self.augmentation,
            "seed": self.seed,
            "synthetic": self.calibrated.to_table(),
            "real": self.after.to_table(),
            "real_calibration_error_before": self.before.calibration_error,
        }


def policies(base: BuildPolicy, *, sites: int) -> Iterator[BuildPolicy]:
    """Yield what is compared: one classifier under every augmentation, and experts of sites."""
    for word in Variation:
        yield replace(base, augmentation=word)
    if sites > 1:
        yield replace(base, mode=Mode.EXPERTS)


def drawn(run: Path, labels: Sequence[str], classes: Sequence[str], size: int, seed: int) -> Shards:
    """Return the shards of one hospital's generator."""
    table = canonical.decode((run / "architecture.json").read_bytes())
    architecture = networks.Architecture.from_table(table)
    network = networks.build_network(architecture)
    tensors = weights.read(
        (run / "weights.safetensors").read_bytes(), networks.expected_tensors(architecture)
    )
    networks.load_weights(network, tensors)
    return [
        (
            classes.index(label),
            federated_factory.shard(
                network,
                architecture,
                classes.index(label),
                size=size,
                seed=seeds.seed(seed.to_bytes(8, "big"), run.parent.parent.name, label),
                sampler_steps=POLICY.sampler_steps,
            ),
        )
        for label in labels
    ]


def trained(
    own: Sequence[Shards], classes: Sequence[str], policy: BuildPolicy, seed: int
) -> tuple[nn.Module, Calibrated]:
    """Return the network of a policy, calibrated, and what held-out synthetic images say."""
    if policy.mode is Mode.EXPERTS:
        with pinned_threads(1):
            experts = [
                product_of_experts.train_expert(
                    shards, policy, classes=len(classes), seed=seed * 100 + number
                )
                for number, shards in enumerate(own)
            ]
        product = product_of_experts.product(
            experts, own, classes=classes, policy=policy, threads=1
        )
        return product.network, product.calibrated
    model = federated_factory.release_model(
        [shard for shards in own for shard in shards],
        classes=classes,
        classifier=policy.classifier,
        steps=policy.classifier_steps,
        seed=seed,
        threads=1,
        augmentation=policy.augmentation,
        held_out=HeldOut(images=policy.held_out, calibration=policy.calibration),
    )
    if model.calibrated is None:
        raise RuntimeError("nothing was held out")
    return model.network, model.calibrated


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Shards of one kind and seed, hospital by hospital, and the real images that judge."""

    kind: str
    seed: int
    own: list[Shards]
    classes: Sequence[str]
    images: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int64]

    def row(self, policy: BuildPolicy) -> Row:
        """Train one policy and judge it."""
        network, calibrated = trained(self.own, self.classes, policy, self.seed)
        logits = predict_logits(network, torch.from_numpy(self.images))
        before, after = (
            evaluate(torch.softmax(logits * factor, dim=1).numpy(), self.truth)
            for factor in (calibrated.temperature, 1.0)
        )
        return Row(
            kind=self.kind,
            mode=policy.mode,
            augmentation=policy.augmentation,
            seed=self.seed,
            calibrated=calibrated,
            before=before,
            after=after,
        )


def of_demo(work: Path, trial_seeds: Sequence[int], shard_size: int) -> Iterator[Trial]:
    """Yield the shards of a demo's generators, drawn anew with every seed."""
    sites, classes = load_sites(work / "data")
    images, truth = held_out(sites)
    for kind in _KINDS:
        for seed in trial_seeds:
            own = [
                drawn(
                    work / site.site / "runs" / kind,
                    [classes[c] for c in np.unique(site.train_labels)],
                    classes,
                    shard_size,
                    seed,
                )
                for site in sites
            ]
            yield Trial(kind=kind, seed=seed, own=own, classes=classes, images=images, truth=truth)


def of_real(path: Path, trial_seeds: Sequence[int], per_class: int) -> Iterator[Trial]:
    """Yield a few real images of each class in the place of shards: augmentation by itself."""
    data = datasets.load("bloodcells8", path)
    if data.test is None:
        raise KitError(f"`{path}` has no test split")
    for seed in trial_seeds:
        order = np.random.default_rng(seed).permutation(len(data.train.labels))
        labels = data.train.labels[order]
        images = to_bytes(data.train.images[order])
        shards = [(c, images[labels == c][:per_class]) for c in range(len(data.classes))]
        yield Trial(
            kind=f"{per_class} real images a class",
            seed=seed,
            own=[shards],
            classes=data.classes,
            images=data.test.images,
            truth=data.test.labels,
        )


def main() -> int:
    """Train every policy on the same shards, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.downstream", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo/work"), help="of a finished demo")
    parser.add_argument(
        "--cells", type=Path, help="an .npz with MedMNIST keys instead: real images"
    )
    parser.add_argument("--per-class", type=int, default=50, help="real images to train on")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=POLICY.classifier_steps)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few steps: the path, no figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    last = options.first_seed + (1 if options.quick else options.seeds)
    trial_seeds = range(options.first_seed, last)
    steps = 3 if options.quick else options.steps
    if options.cells is not None:
        size, out = options.per_class, max(2, options.per_class // 10)
        trials = of_real(options.cells, trial_seeds, size)
    else:
        size, out = (16, 2) if options.quick else (POLICY.shard_size, POLICY.held_out)
        trials = of_demo(options.work, trial_seeds, size)
    base = replace(POLICY, classifier_steps=steps, shard_size=size, held_out=out)
    rows: list[Row] = []
    for trial in trials:
        for policy in policies(base, sites=len(trial.own)):
            rows.append(trial.row(policy))
            door.note(json.dumps(rows[-1].to_table()))
            if options.json:
                table = [row.to_table() for row in rows]
                options.json.write_text(json.dumps(table, indent=2) + "\n")
    _show(rows)
    return 0


def _show(rows: Sequence[Row]) -> None:
    print("| generators | mode | augmentation | accuracy | 95 % of one run | AUROC |", end="")
    print(" temperature | error on synthetic, before / after | on real, before / after |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind, mode, word in dict.fromkeys((r.kind, r.mode, r.augmentation) for r in rows):
        own = [r for r in rows if (r.kind, r.mode, r.augmentation) == (kind, mode, word)]
        first = own[0]
        low, high = first.after.accuracy_interval
        cells = [
            kind,
            mode,
            word,
            " ".join(f"{100 * r.after.accuracy:.1f}" for r in own),
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{statistics.mean(r.after.auroc or 0 for r in own):.3f}",
            f"{statistics.mean(r.calibrated.temperature for r in own):.2f}",
            _errors(
                [r.calibrated.calibration_error_before for r in own],
                [r.calibrated.calibration_error for r in own],
            ),
            _errors(
                [r.before.calibration_error for r in own], [r.after.calibration_error for r in own]
            ),
        ]
        print(f"| {' | '.join(cells)} |")


def _errors(before: Sequence[float], after: Sequence[float]) -> str:
    return f"{statistics.mean(before):.3f} / {statistics.mean(after):.3f}"


if __name__ == "__main__":
    sys.exit(main())
