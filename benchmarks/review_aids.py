"""The review aids on clean and on poisoned blueprints: what is flagged, and how often wrongly.

Every blueprint is a generator that the kit's own trainers made of handwritten digits (8 px), and
what it draws is examined as `coordinator inspect` does. Poison is in the site's images or labels,
before training; one that intake would refuse anyway counts as such. Thresholds were fixed on
seeds 100 to 102; the table takes 0 to 4.

| layout  | sites                                                               |
|---------|---------------------------------------------------------------------|
| overlap | four, each without two or three classes: every class is at three    |
| pairs   | five pairs of two classes, each at two sites                        |
| silos   | ten, one class each: nobody can be compared with anybody            |

| poison     | what the first site trains on                                                |
|------------|------------------------------------------------------------------------------|
| constant   | one image for all of a class                                                 |
| noise      | independent pixels                                                           |
| clouds     | smooth random fields, the same for every class                               |
| untrained  | nothing: a network of random weights (not of `moments`)                      |
| flip       | its own images, every label moved on by one of its classes                   |
| swap       | its own images, two of its classes exchanged                                 |
| patch-P    | its own, and P % of one class are others' with a 3 x 3 checkerboard in the corner |

`python -m benchmarks.review_aids [--seeds 0,1,2,3,4] [--generators ...] [--work DIR] [--json FILE]
[--quick]`
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import trials
from federation.learning.generator import architecture as networks
from federation.learning.generator.sampler import sample
from federation.learning.methods import federated_factory
from federation.learning.review.drawn import Drawn, images_per_class
from federation.learning.review.examination import examine
from federation.learning.review.finding import Outcome
from federation.study import ImageRule, Study
from kit import door
from kit.errors import KitError

CLASSES = tuple(map(str, range(10)))
LAYOUTS = ("overlap", "pairs", "silos")
POISONS = ("constant", "noise", "clouds", "untrained", "flip", "swap", "patch-20", "patch-50")
GENERATORS = {
    "moments, epsilon 8": ("moments", 8.0),
    "moments, no privacy": ("moments", None),
    "diffusion, epsilon 8": ("tiny", 8.0),
    "diffusion, no privacy": ("tiny-wide", None),
}
TARGET, PATCH_PX = 3, 3
SAMPLER_STEPS = 12
PROBE_SEED = 2026


@dataclass(frozen=True)
class Site:
    """What one hospital trains on."""

    images: np.ndarray
    labels: np.ndarray
    declared: tuple[str, ...]


def main() -> int:
    """Train (or find) every generator, examine each among the others, print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.review_aids", description=__doc__)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--generators", default=",".join(list(GENERATORS)[:2]).replace(", ", " "))
    parser.add_argument("--poisons", default=",".join(POISONS))
    parser.add_argument("--layouts", default=",".join(LAYOUTS))
    parser.add_argument("--work", type=Path, help="keep trained runs here")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one seed, the first generator")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    names = {name.replace(", ", " "): name for name in GENERATORS}
    generators = [names[name] for name in options.generators.split(",")]
    if options.quick:
        seeds, generators = seeds[:1], generators[:1]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        trial = Trial(options.work or Path(scratch), options.poisons.split(","))
        for generator, seed, layout in itertools.product(
            generators, seeds, options.layouts.split(",")
        ):
            started = time.monotonic()
            rows += trial.federation(generator, seed, layout)
            door.note(f"{generator}, seed {seed}, {layout}: {time.monotonic() - started:.0f} s")
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


class Trial:
    """Trains what is missing, draws from it, and asks the aids."""

    def __init__(self, work: Path, poisons: list[str]) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        self._images = (digits.images / 8 - 1).astype(np.float32)[:, None]
        self._labels = digits.target.astype(np.int64)
        self._work, self._poisons = work, poisons

    def federation(self, generator: str, seed: int, layout: str) -> Iterator[dict[str, Any]]:
        """Yield a row for every clean site, and for the first one under every poison."""
        preset, epsilon = GENERATORS[generator]
        study = trials.study_of(
            "aids",
            CLASSES,
            ImageRule(channels=1, height=8, width=8),
            epsilon=epsilon,
            preset=preset,
        )
        common = {"generator": generator, "seed": seed, "layout": layout}
        sites = self._deal(seed, layout)
        clean = [
            self._drawn(study, site, f"{layout}-{seed}-{number}-{preset}-{epsilon}")
            for number, site in enumerate(sites)
        ]
        for number, drawn in enumerate(clean):
            rest = [other for other in clean if other is not drawn]
            yield common | {"poison": "", "beside": ""} | _examined(drawn, rest)
            if layout == "silos" and number == 4:
                break  # five of ten are enough clean ones of one class
        for poison in self._poisons if layout != "pairs" else ("flip", "swap"):
            yield from self._poisoned(study, sites[0], clean, poison, common)

    def _poisoned(
        self, study: Study, site: Site, clean: list[Drawn], poison: str, common: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        preset = trials.architecture_of(study).preset
        too_few = len(site.declared) < 2 and (poison in ("flip", "swap") or "patch" in poison)
        if too_few or (poison == "untrained" and preset == "moments"):
            return
        name = f"{common['layout']}-{common['seed']}-{poison}-{preset}-{study.privacy.epsilon}"
        name += f"-{study.privacy.personal_data}"
        changed = _poison(site, poison, np.random.default_rng(common["seed"] + 10_000))
        drawn = self._drawn(study, changed, name, untrained=poison == "untrained")
        yield common | {"poison": poison, "beside": ""} | _examined(drawn, clean[1:])
        if common["layout"] == "overlap":  # is a clean neighbour of the poisoned one taken for it?
            beside = [drawn, *clean[2:]]
            yield common | {"poison": "", "beside": poison} | _examined(clean[1], beside)

    def _deal(self, seed: int, layout: str) -> list[Site]:
        own = {
            "overlap": [[c for c in range(10) if c % 4 != site] for site in range(4)],
            "pairs": [[c, c + 1] for c in range(0, 10, 2) for _ in range(2)],
            "silos": [[c] for c in range(10)],
        }[layout]
        rng = np.random.default_rng(seed)
        taken: list[list[int]] = [[] for _ in own]
        for label in range(10):
            holders = [site for site, labels in enumerate(own) if label in labels]
            order = rng.permutation(np.flatnonzero(self._labels == label))
            for site, part in zip(holders, np.array_split(order, len(holders)), strict=True):
                taken[site] += part.tolist()
        return [
            Site(self._images[chosen], self._labels[chosen], tuple(map(str, labels)))
            for chosen, labels in zip(taken, own, strict=True)
        ]

    def _drawn(self, study: Study, site: Site, name: str, *, untrained: bool = False) -> Drawn:
        folder, architecture = self._work / name, trials.architecture_of(study)
        if untrained:
            with torch.random.fork_rng():
                torch.manual_seed(sum(name.encode()))
                network = networks.build_network(architecture)
        else:
            if not trials.is_trained(folder):
                units = [f"{i:06d}" for i in range(len(site.images))]
                cohort = trials.cohort_of(site.images, site.labels, units)
                declared = len(units) // 10 * 10
                trials.train(folder, study, cohort, site.declared, n_declared=declared)
            network = trials.generator(folder, study)
        images, count = {}, images_per_class(len(site.declared), shard_size=study.build.shard_size)
        for label in site.declared:
            seed = sum(name.encode()) * 1000 + int(label)
            wanted = torch.full((count,), study.classes.index(label))
            images[label] = sample(
                network, architecture, wanted, seed=seed, steps=SAMPLER_STEPS, batch_size=64
            ).numpy()
        return Drawn(name=name, images=images)


def _poison(site: Site, poison: str, rng: np.random.Generator) -> Site:
    images, labels = site.images.copy(), site.labels.copy()
    own = [int(label) for label in site.declared]
    if poison == "constant":
        for label in own:
            images[labels == label] = images[labels == label][0]
    elif poison == "noise":
        images = rng.uniform(-1, 1, images.shape).astype(np.float32)
    elif poison == "clouds":
        images = _clouds(len(images), rng)
    elif poison == "flip":
        labels = np.array([own[(own.index(label) + 1) % len(own)] for label in labels])
    elif poison == "swap":
        first, second = own[0], own[1]
        labels = np.where(site.labels == first, second, labels)
        labels = np.where(site.labels == second, first, labels)
    elif poison.startswith("patch"):
        return _patched(site, int(poison.partition("-")[2]) / 100, rng)
    return Site(images, labels.astype(np.int64), site.declared)


def _clouds(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return smooth fields: coarse noise of 4 x 4 values, drawn larger, as dark as digits are."""
    coarse = torch.from_numpy(rng.normal(-0.3, 0.8, (count, 1, 4, 4)).astype(np.float32))
    fine = torch.nn.functional.interpolate(coarse, size=8, mode="bicubic", align_corners=False)
    clouds: np.ndarray = fine.clamp(-1, 1).numpy()
    return clouds


def _patched(site: Site, share: float, rng: np.random.Generator) -> Site:
    target = TARGET if str(TARGET) in site.declared else int(site.declared[0])
    count = round(share * (site.labels == target).sum() / (1 - share))
    chosen = rng.choice(np.flatnonzero(site.labels != target), count, replace=False)
    added = site.images[chosen].copy()
    checkers = np.indices((PATCH_PX, PATCH_PX)).sum(axis=0) % 2
    added[..., -PATCH_PX:, -PATCH_PX:] = np.where(checkers == 0, 1, -1)
    return Site(
        np.concatenate([site.images, added]),
        np.concatenate([site.labels, np.full(count, target, dtype=np.int64)]),
        site.declared,
    )


def _examined(drawn: Drawn, others: list[Drawn]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        for images in drawn.images.values():
            reviewed = images[: federated_factory.REVIEWED_SAMPLES]
            federated_factory.review_class(reviewed, minimum_per_class=10)
        refused = ""
    except KitError as error:
        refused = str(error)
    found = examine(drawn, others, seed=PROBE_SEED)
    return {
        "refused": refused,
        "flagged": [str(f.aid) for f in found if f.outcome is Outcome.FLAGGED],
        "untold": [str(f.aid) for f in found if f.outcome is Outcome.CANNOT_TELL],
        "measures": {str(f.aid): f.measure for f in found},
        "lines": [f.line() for f in found],
        "examine_s": round(time.monotonic() - started, 2),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print how many of each kind were flagged, by what, and the worst measures of clean ones."""
    table = []
    for generator, layout in dict.fromkeys((r["generator"], r["layout"]) for r in rows):
        here = [r for r in rows if (r["generator"], r["layout"]) == (generator, layout)]
        for poison, beside in dict.fromkeys((r["poison"], r["beside"]) for r in here):
            of_it = [r for r in here if (r["poison"], r["beside"]) == (poison, beside)]
            flagged = sum(bool(r["flagged"]) for r in of_it)
            refused = sum(bool(r["refused"]) for r in of_it)
            by = sorted({aid for r in of_it for aid in r["flagged"]})
            what = poison or ("clean" + (f", beside {beside}" if beside else ""))
            table.append(
                (generator, layout, what, f"{flagged} of {len(of_it)}", str(refused), ", ".join(by))
            )
    head = ("generator", "layout", "blueprint", "flagged", "refused by intake", "by")
    print(door.columns(table, head))


if __name__ == "__main__":
    sys.exit(main())
