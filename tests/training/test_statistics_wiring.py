"""The wiring of class statistics, seen from outside: the same checks pass on the code as it is and
fail on each planted bug.

The product has no hook for this. What is looked at is what `estimate` is given, which is all that
training ever sees of the images, and the sums below it with the noise taken out by the test.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from edge_agent.datasets.examples import Cohort
from edge_agent.training import statistics
from edge_agent.training.loop import Job
from edge_agent.training.moments import NoisySums
from edge_agent.training.plan import PrivacyPlan
from edge_agent.training.recipe import recipe_for
from edge_agent.training.sampler import unit_table
from federation.accounting import DpEvent, compose
from federation.learning.generator import architecture as networks
from federation.study import Unit
from kit.progress import Progress

SIDE, PEOPLE, IMAGES_OF_ONE = 8, 40, 30
FIRST_SIGMA, SIGMA, CLIP = 3.0, 2.0, 1.0
HERE, NOBODY = 0, 1  # declared classes: one of everybody, one of nobody
Z = 6.0
RUNS = 30


def architecture():
    named = networks.reference("moments")
    table = {"kind": named.kind, "version": named.version, "preset": named.preset}
    shape = {"channels": 1, "height": SIDE, "width": SIDE, "num_classes": 3}
    return networks.Architecture.from_table(table | shape)


def cohort_of(people: int = PEOPLE, *, images_of_one: int = 0, scale: float = 1.0) -> Cohort:
    """`people` patients of one grey image each, and one of many bright striped images."""
    rng = np.random.default_rng(1)
    plain = rng.uniform(-0.3, 0.3, (people, 1, SIDE, SIDE)) * scale
    stripes = np.broadcast_to(np.where(np.arange(SIDE) % 4 < 2, 1.0, -1.0), (SIDE, SIDE))
    bright = np.broadcast_to(stripes, (images_of_one, 1, SIDE, SIDE))
    images = np.concatenate([plain, bright]).astype(np.float32)
    units = tuple(f"p{i}" for i in range(people)) + ("often",) * images_of_one
    return Cohort(
        images=images,
        labels=np.full(len(images), HERE, dtype=np.int64),
        units=units,
        digests=tuple(f"d{i}" for i in range(len(images))),
        unit_kind=Unit.PATIENT,
    )


def plan_of(declared: int = PEOPLE) -> PrivacyPlan:
    events = [
        DpEvent(sample_rate=1.0, noise_multiplier=sigma, steps=1) for sigma in (FIRST_SIGMA, SIGMA)
    ]
    return PrivacyPlan(
        unit=Unit.PATIENT,
        n_declared=declared,
        sample_rate=1.0,
        noise_multiplier=SIGMA,
        steps=1,
        max_grad_norm=CLIP,
        expected_batch_size=declared,
        draws_per_unit=1,
        delta=1e-5,
        epsilon=compose(events, 1e-5),
        sums_noise_multiplier=FIRST_SIGMA,
        warm_up_steps=0,
    )


class Account:
    def __init__(self):
        self.charged, self.by = 0, []

    def charge(self, steps):
        self.charged += steps
        self.by.append(steps)


def job_of(cohort: Cohort, account=None) -> Job:
    described = architecture()
    return Job(
        folder=None,
        architecture=described,
        cohort=cohort,
        recipe=recipe_for(described, plan=plan_of()),
        steps=1,
        flip=False,
        plan=plan_of(),
        ledger=account or Account(),
        progress=lambda title, total, done: Progress(title, total, done=done),
        declared=(HERE, NOBODY),
    )


def given_to_estimate(cohort: Cohort) -> NoisySums:
    seen: list[NoisySums] = []
    real = statistics.estimate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "estimate", lambda s, p: seen.append(s) or real(s, p))
        statistics.train(job_of(cohort))
    return seen[0]


def exact_sums(cohort: Cohort) -> list[np.ndarray]:
    """Return what the two sums are before their noise, about one and the same centre."""
    seen: list[np.ndarray] = []
    total, real_first = statistics._Releases.total, statistics._first

    def watched(self, contributions):
        seen.append(total(self, contributions))
        return seen[-1]

    def fixed(units, releases):
        first = real_first(units, releases)
        return replace(first, centre=np.zeros(units.kept), total=float(PEOPLE))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics._Releases, "total", watched)
        patch.setattr(statistics, "_first", fixed)
        patch.setattr(
            statistics, "secret_noise", lambda shape, *, std: torch.zeros(shape, dtype=torch.double)
        )
        statistics.train(job_of(cohort))
    return seen


@dataclass(frozen=True)
class Evidence:
    noise_is_sigma_c: bool
    noise_is_fresh: bool
    one_unit_moves_a_sum_by_at_most_c: bool
    a_contribution_is_the_units_alone: bool


def evidence() -> Evidence:
    cohort = cohort_of()
    noises = np.array([noise_of(given_to_estimate(cohort)) for _ in range(RUNS)])
    count = noises.size
    is_right = abs(noises.std() - 1) < Z / math.sqrt(2 * count) and abs(noises.mean()) < Z / (
        math.sqrt(count)
    )
    centred = noises - noises.mean(axis=0)
    agreement = np.corrcoef(centred if centred.any() else noises + 1e-9 * np.eye(*noises.shape))
    others = agreement[np.triu_indices(RUNS, 1)]
    is_fresh = bool(noises.std(axis=0).min() > 0.3) and bool(
        np.abs(others).max() < Z / math.sqrt(noises.shape[1])
    )
    moved = [moves(cohort_of(), cohort_of(images_of_one=IMAGES_OF_ONE))]
    moved.append(moves(cohort_of(scale=3.0), cohort_of(scale=3.0, images_of_one=IMAGES_OF_ONE)))
    lengths = [float(np.linalg.norm(part)) for both in moved for part in both]
    return Evidence(
        noise_is_sigma_c=bool(is_right),
        noise_is_fresh=is_fresh,
        one_unit_moves_a_sum_by_at_most_c=0.9 * CLIP < max(lengths) <= CLIP * (1 + 1e-9),
        a_contribution_is_the_units_alone=all(
            np.allclose(one, other, atol=1e-9) for one, other in zip(*moved, strict=True)
        ),
    )


def noise_of(sums: NoisySums) -> np.ndarray:
    """Return what is noise alone, in units of sigma C: sums and count of a class of nobody.

    Counts get 0.25 of the first contribution's squared length, class sums 0.58 of the second's.
    """
    radius = 0.4 * math.sqrt(SIDE * SIDE)
    image = sums.sums[NOBODY] / (radius / math.sqrt(0.58) * SIGMA * CLIP)
    return np.append(image, sums.counts[NOBODY] / (FIRST_SIGMA * CLIP / 0.5))


def moves(without: Cohort, present: Cohort) -> list[np.ndarray]:
    pairs = zip(exact_sums(without), exact_sums(present), strict=True)
    return [there - here for here, there in pairs]


@pytest.fixture(scope="module")
def unmutated() -> Evidence:
    return evidence()


def test_the_code_as_it_is_passes_every_check(unmutated: Evidence) -> None:
    assert unmutated == Evidence(
        noise_is_sigma_c=True,
        noise_is_fresh=True,
        one_unit_moves_a_sum_by_at_most_c=True,
        a_contribution_is_the_units_alone=True,
    )


def no_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        statistics, "secret_noise", lambda shape, *, std: torch.zeros(shape, dtype=torch.double)
    )


def noise_of_half_sigma(patch: pytest.MonkeyPatch) -> None:
    real = statistics.secret_noise
    patch.setattr(statistics, "secret_noise", lambda shape, *, std: real(shape, std=std / 2))


def noise_of_a_seed(patch: pytest.MonkeyPatch) -> None:
    def seeded(shape: torch.Size, *, std: float) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        return torch.randn(shape, generator=generator, dtype=torch.double) * std

    patch.setattr(statistics, "secret_noise", seeded)


def per_image_instead_of_per_patient(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        statistics, "unit_table", lambda units: unit_table([str(i) for i in range(len(units))])
    )


def no_clip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(statistics, "clipped", lambda rows, _norm: rows)


def clip_at_twice_c(patch: pytest.MonkeyPatch) -> None:
    real = statistics.clipped
    patch.setattr(statistics, "clipped", lambda rows, norm: real(rows, 2 * norm))


def intensities_scaled_by_the_brightest(patch: pytest.MonkeyPatch) -> None:
    """Normalise by a statistic of the images: everybody's contribution depends on one."""
    real = statistics._Units.__init__

    def scaled(self, job: Job, cohort: Cohort, classes: tuple[int, ...]) -> None:
        brightest = np.abs(cohort.images).max()
        real(self, job, replace(cohort, images=cohort.images / brightest), classes)

    patch.setattr(statistics._Units, "__init__", scaled)


@pytest.mark.parametrize(
    ("plant", "caught_by"),
    [
        (no_noise, "noise_is_sigma_c"),
        (noise_of_half_sigma, "noise_is_sigma_c"),
        (noise_of_a_seed, "noise_is_fresh"),
        (per_image_instead_of_per_patient, "one_unit_moves_a_sum_by_at_most_c"),
        (no_clip, "one_unit_moves_a_sum_by_at_most_c"),
        (clip_at_twice_c, "one_unit_moves_a_sum_by_at_most_c"),
        (intensities_scaled_by_the_brightest, "a_contribution_is_the_units_alone"),
    ],
)
def test_a_planted_bug_is_caught(plant: Callable, caught_by: str, unmutated: Evidence) -> None:
    with planted(plant):
        found = evidence()
    assert not getattr(found, caught_by)
    assert getattr(unmutated, caught_by)


@contextmanager
def planted(plant: Callable[[pytest.MonkeyPatch], None]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        yield


def test_every_sum_is_charged_before_it_is_used() -> None:
    account = Account()
    order: list[str] = []
    noise = statistics.secret_noise

    def watched(shape: torch.Size, *, std: float) -> torch.Tensor:
        order.append(f"noise after {account.charged}")
        return noise(shape, std=std)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "secret_noise", watched)
        statistics.train(job_of(cohort_of(), account))
    assert account.by == [1, 1]
    assert order == ["noise after 1", "noise after 2"]


def test_noisy_counts_decide_which_classes_are_trained_on() -> None:
    """A12: the class of nobody is left out, and no exact count is looked at."""
    job = replace(job_of(cohort_of()), minimum_per_class=15)
    seen: list[tuple[int, ...]] = []
    real = statistics._network

    def watched(job, law, centre, classes):
        seen.append(classes)
        return real(job, law, centre, classes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_network", watched)
        for noise in (0.0, 10.0):  # of a count: twice that
            patch.setattr(
                statistics,
                "secret_noise",
                lambda shape, *, std, noise=noise: torch.full(shape, noise, dtype=torch.double),
            )
            statistics.train(replace(job, ledger=Account()))
    assert seen == [(HERE,), (HERE, NOBODY)]
