"""Training by noisy class statistics: two Gaussian sums over units, and no descent.

Invariants:

- Each of the plan's two events is one Gaussian mechanism over all units (q = 1): the sum of their
  clipped contributions, plus noise N(0, (sigma C)^2) on every number.
- A unit's contribution is the mean over its images, clipped as a whole to C: a patient of a hundred
  images in five classes moves a sum no further than one of a single image.
- The first sum finds the centre and the number of units per class, the second what is left around
  the centre. What a contribution is made of besides the unit's own images was released before, with
  noise; so was what decides which classes have enough units (A12).
- A sum is charged, durably, before it is used. Nothing is kept in between: a run that was stopped
  after its first charge starts anew.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_agent.datasets.examples import Cohort
from edge_agent.training.loop import Job
from edge_agent.training.moments import ClassLaw, NoisySums, estimate
from edge_agent.training.noise import secret_noise
from edge_agent.training.plan import PrivacyPlan
from edge_agent.training.preset import PrivatePreset
from edge_agent.training.sampler import unit_table
from federation.accounting import compose
from federation.learning.generator.architecture import build_network, load_weights, preset_of
from federation.learning.generator.class_gaussian import FACTOR, MEAN, RESIDUAL
from federation.learning.generator.kinds import MomentsPreset
from federation.learning.generator.spectrum import Spectrum, spectrum
from kit.errors import KitError

Floats = NDArray[np.float64]

STEPS = 1  # after the first sum
FIRST_SUM_SHARE = 0.2  # of the Renyi divergence that the run may have
# Radii per root of the number of pixel values: no image in [-1, 1] is outside 1, few outside 0.9,
# and most photographs and drawings lie within 0.4 to 0.55 of their mean.
CENTRE_RADIUS, RADIUS = 0.9, 0.4
# Shares of a contribution's squared length: how much of the budget each part has.
COUNTS_SHARE, CENTRE_SHARE = 0.25, 0.75
SUMS_SHARE, PRODUCTS_SHARE = 0.58, 0.42
_UNITS_AT_ONCE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A network that holds what was released, and the run's metrics."""

    average: torch.nn.Module
    step: int
    metrics: list[dict[str, Any]]


def private_preset(n_declared: int, _side_px: int) -> PrivatePreset:
    """Return two sums over all units: everyone takes part in each."""
    return PrivatePreset(
        expected_batch_size=n_declared,
        steps=STEPS,
        draws_per_unit=1,
        max_grad_norm=1.0,
        sums_share=FIRST_SUM_SHARE,
        warm_up_steps=0,
    )


def reason(plan: PrivacyPlan) -> str:
    """Say in one line where a plan's figures come from."""
    return (
        f"each of at least {plan.n_declared} {plan.unit}s gives one vector of norm "
        f"{plan.max_grad_norm:g} to two noisy sums: counts and centre with noise "
        f"{plan.sums_noise_multiplier:g}, class means and covariance with noise "
        f"{plan.noise_multiplier:g}; together epsilon {plan.epsilon:.3g} at delta {plan.delta:g} "
        f"(declared number x delta = {plan.n_declared * plan.delta:.2g})"
    )


def train(job: Job) -> Released:
    """Release the cohort's class statistics and return the generator they make.

    Raises:
        KitError: the run was stopped after its first charge, asks for what this kind has not, or
            no class has enough units.
    """
    _require_possible(job)
    releases = _Releases(job)
    first = _first(_Units(job, job.cohort, job.declared), releases)
    enough = _enough(job, first)
    units = _Units(job, job.cohort.only(np.array(enough, dtype=np.int64)), enough)
    counts = np.array([first.counts[job.declared.index(label)] for label in enough])
    if len(enough) < len(job.declared):
        first = replace(first, total=max(1.0, float(counts.sum())))
    sums = _second(units, releases, replace(first, counts=counts))
    law = estimate(sums, units.basis.power)
    return Released(
        average=_network(job, law, first.centre, enough),
        step=STEPS,
        metrics=releases.metrics,
    )


def _require_possible(job: Job) -> None:
    if job.flip:
        raise KitError("class statistics know no mirrored images")
    if job.start is not None:
        raise KitError("class statistics start from no base", hint="leave out --base")
    if job.plan is not None and (job.plan.steps != STEPS or job.plan.sample_rate != 1):
        raise KitError("class statistics take no other number of steps", hint="leave out --steps")
    if job.ledger is not None and job.ledger.charged:
        raise KitError(
            f"{job.ledger.charged} noisy sums of this run were charged, and none of them is kept",
            hint="they stay spent; start a new run with --run NAME",
        )


def _enough(job: Job, first: "_First") -> tuple[int, ...]:
    """Return the classes that have enough units as far as the noise tells, of those declared."""
    minimum = job.minimum_per_class
    if job.plan is None or minimum == 0:
        return job.declared
    pairs = zip(job.declared, first.counts, strict=True)
    kept = [label for label, count in pairs if count >= minimum]
    if not kept:
        raise KitError(
            f"no declared class has {minimum} units, as far as the noise tells",
            hint="declare fewer classes, or wait for more patients; what was released is spent",
        )
    return tuple(kept)


class _Units:
    """The cohort as coarse coefficients, one unit at a time."""

    def __init__(self, job: Job, cohort: Cohort, classes: tuple[int, ...]) -> None:
        preset = preset_of(job.architecture)
        if not isinstance(preset, MomentsPreset):
            raise TypeError("class statistics make generators of their own kind only")
        shape = cohort.images.shape[1:]
        self.basis: Spectrum = spectrum(*shape)
        self.pixels = math.prod(shape)
        self.kept = preset.coefficients(shape[0])
        self.classes = np.array(classes)
        table = unit_table(cohort.units)
        self.images = np.split(table.order, table.start[1:])  # of each unit
        self._cohort = cohort

    def contributions(
        self, of_image: Callable[[Floats, NDArray[np.int64]], Floats]
    ) -> Iterator[Floats]:
        """Yield blocks [U, size]: each unit's mean over its images of `of_image`."""
        for start in range(0, len(self.images), _UNITS_AT_ONCE):
            block = self.images[start : start + _UNITS_AT_ONCE]
            yield np.stack([of_image(*self._read(index)).mean(axis=0) for index in block])

    def _read(self, index: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
        found = self.basis.coefficients(self._cohort.images[index])[:, : self.kept]
        return found, self._cohort.labels[index]


class _Releases:
    """The only way from units to numbers: clip, add up, charge, add noise."""

    def __init__(self, job: Job) -> None:
        self._plan, self._ledger = job.plan, job.ledger
        self._progress = job.progress("class statistics", 1 + STEPS, 0)
        self._started = time.monotonic()
        self.metrics: list[dict[str, Any]] = []

    def total(self, contributions: Iterator[Floats]) -> Floats:
        """Return the noisy sum over all units, [size]: one event of the plan."""
        clip = 1.0 if self._plan is None else self._plan.max_grad_norm
        exact = sum(clipped(rows, clip).sum(axis=0) for rows in contributions)
        released = np.asarray(exact, dtype=np.float64)
        std = self.noise_std
        if self._plan is not None and self._ledger is not None:
            self._ledger.charge(1)
            released = released + secret_noise(torch.Size(released.shape), std=std).numpy()
        self._note()
        return released

    @property
    def noise_std(self) -> float:
        """The noise's standard deviation in each number of the next sum."""
        if self._plan is None:
            return 0.0
        multipliers = (self._plan.sums_noise_multiplier, self._plan.noise_multiplier)
        return multipliers[len(self.metrics)] * self._plan.max_grad_norm

    @property
    def least_units(self) -> float:
        """How many units there are at least, as far as that is public."""
        return 0.0 if self._plan is None else float(self._plan.n_declared)

    def _note(self) -> None:
        done = len(self.metrics) + 1
        row: dict[str, Any] = {"sum": done}
        figures = {}
        if self._plan is not None:
            row["epsilon"] = round(compose(self._plan.events[:done], self._plan.delta), 6)
            figures["epsilon"] = f"{row['epsilon']:.2f}"
        row["seconds"] = round(time.monotonic() - self._started, 3)
        self.metrics.append(row)
        self._progress.update(done, **figures)


def clipped(rows: Floats, norm: float) -> Floats:
    """Return each row, shortened to `norm` if it is longer: one row is one unit."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    shorter = np.minimum(1.0, norm / np.maximum(lengths, np.finfo(np.float64).tiny))
    return np.asarray(rows * shorter, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _First:
    """What the first sum told: units per class, in all, and the mean image's coefficients."""

    counts: Floats
    counts_std: float
    total: float
    centre: Floats


def _first(units: _Units, releases: _Releases) -> _First:
    radius = CENTRE_RADIUS * math.sqrt(units.pixels)
    one, rest = math.sqrt(COUNTS_SHARE), math.sqrt(CENTRE_SHARE)
    classes = len(units.classes)

    def of_image(found: Floats, labels: NDArray[np.int64]) -> Floats:
        member = (labels[:, None] == units.classes).astype(np.float64)
        return np.hstack([one * member, clipped(found, radius) * (rest / radius)])

    std = releases.noise_std
    released = releases.total(units.contributions(of_image))
    counts = released[:classes] / one
    total = max(float(counts.sum()), releases.least_units, 1.0)
    return _First(
        counts=counts,
        counts_std=std / one,
        total=total,
        centre=released[classes:] * (radius / rest) / total,
    )


def _second(units: _Units, releases: _Releases, first: _First) -> NoisySums:
    """Release sums and products of the coefficients about the centre."""
    radius, kept, classes = RADIUS * math.sqrt(units.pixels), units.kept, len(units.classes)
    one, two = math.sqrt(SUMS_SHARE), math.sqrt(PRODUCTS_SHARE)
    upper = np.triu_indices(kept)
    # off the diagonal each product stands for two: the row then has the length of the whole matrix
    weight = np.where(upper[0] == upper[1], 1.0, math.sqrt(2))

    def of_image(found: Floats, labels: NDArray[np.int64]) -> Floats:
        unit = clipped((found - first.centre) / radius, 1.0)
        member = (labels[:, None] == units.classes).astype(np.float64)
        placed = (member[:, :, None] * unit[:, None]).reshape(len(unit), -1)
        products = unit[:, upper[0]] * unit[:, upper[1]] * weight
        return np.hstack([one * placed, two * products])

    noise = releases.noise_std
    released = releases.total(units.contributions(of_image))
    sums, products = np.split(released, [classes * kept])
    square = np.zeros((kept, kept))
    square[upper] = products / (two * weight) * radius**2
    return NoisySums(
        counts=first.counts,
        sums=sums.reshape(classes, kept) * (radius / one),
        products=square + np.triu(square, 1).T,
        counts_std=first.counts_std,
        sums_std=noise * radius / one,
        products_std=noise * radius**2 / two,
        total=first.total,
        pixels=units.pixels,
    )


def _network(job: Job, law: ClassLaw, centre: Floats, classes: tuple[int, ...]) -> torch.nn.Module:
    """Return the generator; a declared class without enough units is drawn about the centre."""
    network = build_network(job.architecture)
    means = np.zeros((job.architecture.num_classes, len(centre)))
    means[list(job.declared)] = centre
    means[list(classes)] += law.means
    tensors = {
        MEAN: means,
        FACTOR: law.factor,
        RESIDUAL: np.array([math.sqrt(law.finer_energy)]),
    }
    load_weights(network, {name: value.astype(np.float32) for name, value in tensors.items()})
    return network
