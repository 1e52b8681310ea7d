"""Training by noisy class statistics: a few Gaussian sums over units, and no descent.

Invariants:

- Every step of the plan is one Gaussian mechanism over all units (q = 1): the sum of their clipped
  contributions plus N(0, (sigma C)^2) on every number. Steps over the same contributions are
  averaged, so that several of them are one release of less noise.
- A unit's contribution is the mean over its images, clipped as a whole to C: a patient of a hundred
  images in five classes moves the sum no further than one of a single image.
- The first step finds the centre and the number of units, the others what is left around it. What a
  contribution is made of besides the unit's own images was released before, with noise.
- Steps are charged, durably, before their sums are used. Nothing is kept in between: a run that was
  stopped after its first charge starts anew.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_agent.training.loop import Job
from edge_agent.training.moments import ClassLaw, NoisySums, estimate
from edge_agent.training.noise import secret_noise
from edge_agent.training.plan import PrivacyPlan, PrivatePreset
from edge_agent.training.sampler import unit_table
from federation.accounting import DpEvent, compose
from federation.learning.generator.architecture import build_network, load_weights, preset_of
from federation.learning.generator.class_gaussian import FACTOR, MEAN, RESIDUAL
from federation.learning.generator.kinds import MomentsPreset
from federation.learning.generator.spectrum import Spectrum, spectrum
from kit.errors import KitError

Floats = NDArray[np.float64]

STEPS, CENTRE_STEPS = 5, 1
# Radii per root of the number of pixel values: no image in [-1, 1] is outside 1, few outside 0.9,
# and most photographs and drawings lie within 0.4 to 0.55 of their mean.
CENTRE_RADIUS, RADIUS = 0.9, 0.4
# Shares of a contribution's squared length: how much of the budget each part has.
COUNT_SHARE = 0.1  # of the first step; the rest is the image
COUNTS_SHARE, SUMS_SHARE, PRODUCTS_SHARE = 0.05, 0.55, 0.4
_UNITS_AT_ONCE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A network that holds what was released, and the run's metrics."""

    average: torch.nn.Module
    step: int
    metrics: list[dict[str, Any]]


def private_preset(n_declared: int) -> PrivatePreset:
    """Return five sums over all units: everyone takes part in every step."""
    return PrivatePreset(
        expected_batch_size=n_declared, steps=STEPS, draws_per_unit=1, max_grad_norm=1.0
    )


def train(job: Job) -> Released:
    """Release the cohort's class statistics and return the generator they make.

    Raises:
        KitError: the run was stopped after its first charge, or asks for what this kind has not.
    """
    _require_possible(job)
    units = _Units(job)
    releases = _Releases(job, len(units.images))
    centre, total = _centre(units, releases)
    law = estimate(_sums(units, releases, centre, total), units.basis.power)
    return Released(
        average=_network(job, law, centre), step=releases.steps, metrics=releases.metrics
    )


def _require_possible(job: Job) -> None:
    if job.flip:
        raise KitError("class statistics know no mirrored images")
    if job.plan is not None and job.plan.steps != STEPS:
        raise KitError(f"class statistics take exactly {STEPS} steps", hint="leave out --steps")
    if job.ledger is not None and job.ledger.charged:
        raise KitError(
            f"{job.ledger.charged} noisy sums of this run were charged, and none of them is kept",
            hint="they stay spent; start a new run with --run NAME",
        )


class _Units:
    """The cohort as coarse coefficients, one unit at a time."""

    def __init__(self, job: Job) -> None:
        preset = preset_of(job.architecture)
        if not isinstance(preset, MomentsPreset):
            raise TypeError("class statistics make generators of their own kind only")
        shape = job.cohort.images.shape[1:]
        self.basis: Spectrum = spectrum(*shape)
        self.pixels = math.prod(shape)
        self.kept = preset.coefficients(shape[0])
        self.declared = job.declared
        table = unit_table(job.cohort.units)
        self.images = np.split(table.order, table.start[1:])  # of each unit
        self._cohort = job.cohort

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
    """The only way from units to numbers: clip, add, charge, add noise."""

    def __init__(self, job: Job, units: int) -> None:
        self._plan, self._ledger, self.units = job.plan, job.ledger, units
        self._progress = job.progress("class statistics", STEPS, 0)
        self._started = time.monotonic()
        self.steps = 0
        self.metrics: list[dict[str, Any]] = []

    def total(self, contributions: Iterator[Floats], *, steps: int) -> Floats:
        """Return the mean of `steps` noisy sums over the same contributions, [size]."""
        clip = 1.0 if self._plan is None else self._plan.max_grad_norm
        exact = sum(clipped(rows, clip).sum(axis=0) for rows in contributions)
        released = np.asarray(exact, dtype=np.float64)
        if self._plan is not None and self._ledger is not None:
            self._ledger.charge(steps)
            released = released + _mean_noise(len(released), self._plan, steps)
        self._note(steps)
        return released

    def noise_std(self, *, steps: int) -> float:
        """Return the noise's standard deviation in each number of `total`."""
        if self._plan is None:
            return 0.0
        return self._plan.noise_multiplier * self._plan.max_grad_norm / math.sqrt(steps)

    @property
    def least_units(self) -> int:
        """How many units there are at least, as far as that is public."""
        return self.units if self._plan is None else self._plan.n_declared

    def _note(self, steps: int) -> None:
        self.steps += steps
        row: dict[str, Any] = {"step": self.steps}
        figures = {}
        if self._plan is not None:
            event = DpEvent(
                sample_rate=self._plan.sample_rate,
                noise_multiplier=self._plan.noise_multiplier,
                steps=self.steps,
            )
            row["epsilon"] = round(compose([event], self._plan.delta), 6)
            figures["epsilon"] = f"{row['epsilon']:.2f}"
        row["seconds"] = round(time.monotonic() - self._started, 3)
        self.metrics.append(row)
        self._progress.update(self.steps, **figures)


def clipped(rows: Floats, norm: float) -> Floats:
    """Return each row, shortened to `norm` if it is longer: one row is one unit."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    shorter = np.minimum(1.0, norm / np.maximum(lengths, np.finfo(np.float64).tiny))
    return np.asarray(rows * shorter, dtype=np.float64)


def _mean_noise(size: int, plan: PrivacyPlan, steps: int) -> Floats:
    """Return the mean of the `steps` noises that were charged, fresh, in float64."""
    std = plan.noise_multiplier * plan.max_grad_norm
    parts = [secret_noise(torch.Size([size]), std=std).numpy() for _ in range(steps)]
    return np.asarray(np.mean(parts, axis=0), dtype=np.float64)


def _centre(units: _Units, releases: _Releases) -> tuple[Floats, float]:
    """Release the mean image's coefficients [d] and the number of units."""
    radius = CENTRE_RADIUS * math.sqrt(units.pixels)
    one, rest = math.sqrt(COUNT_SHARE), math.sqrt(1 - COUNT_SHARE)

    def of_image(found: Floats, _labels: NDArray[np.int64]) -> Floats:
        ones = np.full((len(found), 1), one)
        return np.hstack([ones, clipped(found, radius) * (rest / radius)])

    released = releases.total(units.contributions(of_image), steps=CENTRE_STEPS)
    total = max(released[0] / one, float(releases.least_units))
    return released[1:] * (radius / rest) / total, total


def _sums(units: _Units, releases: _Releases, centre: Floats, total: float) -> NoisySums:
    """Release counts, sums and products of the coefficients about `centre`."""
    radius, kept, classes = RADIUS * math.sqrt(units.pixels), units.kept, len(units.declared)
    shares = (COUNTS_SHARE, SUMS_SHARE, PRODUCTS_SHARE)
    one, two, three = (math.sqrt(share) for share in shares)
    upper = np.triu_indices(kept)
    # off the diagonal each product stands for two: the row then has the length of the whole matrix
    weight = np.where(upper[0] == upper[1], 1.0, math.sqrt(2))

    def of_image(found: Floats, labels: NDArray[np.int64]) -> Floats:
        unit = clipped((found - centre) / radius, 1.0)
        member = (labels[:, None] == np.array(units.declared)).astype(np.float64)
        placed = member[:, :, None] * unit[:, None]
        products = unit[:, upper[0]] * unit[:, upper[1]] * weight
        return np.hstack([one * member, two * placed.reshape(len(unit), -1), three * products])

    steps = STEPS - CENTRE_STEPS
    released = releases.total(units.contributions(of_image), steps=steps)
    counts, sums, products = np.split(released, [classes, classes * (1 + kept)])
    square = np.zeros((kept, kept))
    square[upper] = products / (three * weight) * radius**2
    noise = releases.noise_std(steps=steps)
    return NoisySums(
        counts=counts / one,
        sums=sums.reshape(classes, kept) * (radius / two),
        products=square + np.triu(square, 1).T,
        counts_std=noise / one,
        sums_std=noise * radius / two,
        products_std=noise * radius**2 / three,
        total=total,
        pixels=units.pixels,
    )


def _network(job: Job, law: ClassLaw, centre: Floats) -> torch.nn.Module:
    network = build_network(job.architecture)
    means = np.zeros((job.architecture.num_classes, len(centre)))
    means[list(job.declared)] = centre + law.means
    tensors = {
        MEAN: means,
        FACTOR: law.factor,
        RESIDUAL: np.array([math.sqrt(law.finer_energy)]),
    }
    load_weights(network, {name: value.astype(np.float32) for name, value in tensors.items()})
    return network
