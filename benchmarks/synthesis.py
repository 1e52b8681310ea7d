"""Downstream accuracy against network evaluations: how few calls of the generator do.

Three hospitals train a generator each, once; then every sampler draws the same shards from the same
starting noise, a classifier is trained on them alone and judged on the real held-out images.
A network evaluation is one call of the denoiser for one image: Heun's N steps take 2 N - 1 (the
last is Euler's), DPM-Solver++(2M)'s N steps take N.

`python -m benchmarks.synthesis [--seeds 3] [--epsilon 8] [--work DIR] [--json FILE] [--quick]`
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import EDMDPMSolverMultistepScheduler

from benchmarks import trials
from benchmarks.accuracy import datasets, factory
from benchmarks.baselines import CLASSIFIER, score
from federation.learning.downstream import pixels
from federation.learning.generator import sampler
from federation.learning.generator.architecture import Architecture
from federation.learning.generator.edm import SIGMA_DATA
from federation.learning.methods import federated_factory
from kit import door, seeds

REFERENCE = "Heun 50"

Tensor = torch.Tensor
Solver = Callable[[torch.nn.Module, Architecture, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One sampler: starting noise N(0, 1) [B, C, H, W] and labels [B] to images."""

    name: str
    evaluations: int
    solve: Solver


def heun(
    network: torch.nn.Module,
    architecture: Architecture,
    noise: Tensor,
    labels: Tensor,
    *,
    steps: int,
    highest: float | None = None,
) -> Tensor:
    """Run the product's sampler (Karras et al. 2022, alg. 1), by default from its own level."""
    levels = sampler.schedule(steps, highest=highest or sampler.sigma_max(architecture))
    return sampler.heun(network, noise, labels, levels)


class _Denoised(EDMDPMSolverMultistepScheduler):  # type: ignore[misc]  # diffusers has no types here
    """Diffusers' solver for a network that gives D(x; sigma) itself, not F (eq. 7)."""

    def precondition_outputs(self, sample: Tensor, model_output: Tensor, sigma: Any) -> Tensor:
        """Take the network's word for it."""
        return model_output


def dpm_solver(
    network: torch.nn.Module,
    architecture: Architecture,
    noise: Tensor,
    labels: Tensor,
    *,
    steps: int,
    schedule: str = "karras",
) -> Tensor:
    """Run diffusers' DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, alg. 2)."""
    solver = _Denoised(
        sigma_min=sampler.SIGMA_MIN,
        sigma_max=sampler.sigma_max(architecture),
        sigma_data=SIGMA_DATA,
        sigma_schedule=schedule,
        rho=sampler.RHO,
        solver_order=2,
        algorithm_type="dpmsolver++",
        final_sigmas_type="zero",
    )
    solver.set_timesteps(steps)
    x = noise * float(solver.sigmas[0])
    for index, moment in enumerate(solver.timesteps):
        level = torch.full((len(x),), float(solver.sigmas[index]))
        x = solver.step(network(x, level, labels), moment, x).prev_sample
    return x


def ways(*, quick: bool) -> tuple[Way, ...]:
    """Return the samplers, the reference first."""
    counts = (50, 10) if quick else (50, 18, 10, 7, 5, 4)
    heuns = [
        Way(name=f"Heun {n}", evaluations=2 * n - 1, solve=partial(heun, steps=n)) for n in counts
    ]
    paper = Way(
        name="Heun 10, from sigma 80",
        evaluations=19,
        solve=partial(heun, steps=10, highest=sampler.SIGMA_MAX_AT_64_PX),
    )
    solvers = [
        Way(
            name=f"DPM-Solver++(2M) {n}, {schedule}",
            evaluations=n,
            solve=partial(dpm_solver, steps=n, schedule=schedule),
        )
        for schedule, n in (("karras", 20), ("karras", 10), ("karras", 7), ("exponential", 10))
        if not quick or n == 10
    ]
    return (*heuns, *([] if quick else [paper]), *solvers)


def main() -> int:
    """Train, draw with every sampler, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.synthesis", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epsilon", type=float, help="private training; by default none")
    parser.add_argument("--data", type=Path, help="an .npz with MedMNIST keys; by default digits")
    parser.add_argument("--steps", type=int, help="training steps instead of the preset's")
    parser.add_argument("--shard-size", type=int, default=factory.FactoryPlan().shard_size)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keep the generators here, and use those there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one seed, eight steps: only the path")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(1 if options.quick else options.seeds):
            for row in _of_seed(seed, options, options.work or Path(scratch)):
                rows.append(row)
                door.note(json.dumps(row))
                if options.json:
                    options.json.write_text(json.dumps(rows, indent=2) + "\n")
    _show(rows)
    return 0


def _of_seed(seed: int, options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    dataset = datasets.load("bloodcells8" if options.data else "digits", options.data)
    federation = datasets.deal(dataset, clients=3, images=None, seed=seed)
    plan = factory.FactoryPlan(steps=8 if options.quick else options.steps)
    privacy = "none" if options.epsilon is None else f"{options.epsilon:g}"
    below = folder / f"{privacy}-{seed}"
    below.mkdir(parents=True, exist_ok=True)
    runs, _ = factory.train(federation, options.epsilon, plan, below, workers=options.workers)
    outline = federation.outline
    study = factory.study_for(outline, options.epsilon, plan)
    architecture = trials.architecture_of(study)
    generators = [trials.generator(run, study) for run in runs]
    size = 8 if options.quick else options.shard_size
    for way in ways(quick=options.quick):
        started = time.process_time()
        shards = [
            (index, _shard(network, architecture, way, index, size, seed))
            for network, labels in zip(generators, outline.labels, strict=True)
            for index in map(outline.classes.index, labels)
        ]
        drawn = time.process_time() - started
        model = federated_factory.release_model(
            [(index, images) for index, (images, _) in shards],
            classes=outline.classes,
            classifier=CLASSIFIER,
            steps=8 if options.quick else plan.classifier_steps,
            seed=seed,
            threads=1,
        )
        yield {
            "sampler": way.name,
            "evaluations": way.evaluations,
            "epsilon": options.epsilon,
            "seed": seed,
            "accuracy": score(model.network, federation.sites).accuracy,
            "seconds_per_1000": round(1000 * drawn / (size * len(shards)), 2),
            "finite": all(whole for _, (_, whole) in shards),
        }


@torch.inference_mode()
def _shard(
    network: torch.nn.Module,
    architecture: Architecture,
    way: Way,
    index: int,
    size: int,
    seed: int,
) -> tuple[federated_factory.Shard, bool]:
    """Return the images of a class from a noise that is the same for every way; are all finite?"""
    network.eval()
    draw = torch.Generator().manual_seed(seeds.seed(seed.to_bytes(8, "big"), str(index)))
    shape = (federated_factory.SHARD_BATCH, architecture.channels, architecture.height)
    images = []
    for _ in range(-(-size // federated_factory.SHARD_BATCH)):
        noise = torch.randn((*shape, architecture.width), generator=draw)
        labels = torch.full((len(noise),), index, dtype=torch.int64)
        images.append(way.solve(network, architecture, noise, labels))
    whole = torch.cat(images)[:size]
    finite = bool(whole.isfinite().all())
    return pixels.to_bytes(whole.nan_to_num().numpy().astype(np.float32)), finite


def _show(rows: Sequence[dict[str, Any]]) -> None:
    reference = _mean(rows, REFERENCE)
    print("| sampler | evaluations | accuracy | spread | to the reference | s per 1,000 images |")
    print("|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["sampler"] for row in rows):
        own = [row for row in rows if row["sampler"] == name]
        accuracies = [row["accuracy"] for row in own]
        spread = statistics.stdev(accuracies) if len(own) > 1 else 0.0
        note = "" if all(row["finite"] for row in own) else " (values that are not finite)"
        seconds = statistics.mean(row["seconds_per_1000"] for row in own)
        print(
            f"| {name}{note} | {own[0]['evaluations']} | {statistics.mean(accuracies):.1%} "
            f"| {spread:.1%} | {_mean(rows, name) - reference:+.1%} | {seconds:.1f} |"
        )


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.mean(row["accuracy"] for row in rows if row["sampler"] == name)


if __name__ == "__main__":
    sys.exit(main())
