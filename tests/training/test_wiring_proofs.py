"""The wiring of private training, seen from outside: the same thresholds pass on the code as it is
and fail on each planted bug.

The product has no hook for this: a probe stands in for the network and plain descent for Adam, so
that every update shows the noisy mean gradient itself. The probe's gradient on class row c points
along the images of class c and is far longer than the clip, so a drawn unit moves its row by
exactly C / B. Nobody has the last class: its row is noise alone.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from edge_agent.datasets.examples import Cohort
from edge_agent.training import gradients, loop, noise, optimizer
from edge_agent.training.crew import Alone, Crew
from edge_agent.training.loop import Batches, Job, PrivateUpdate
from edge_agent.training.plan import PrivacyPlan
from edge_agent.training.recipe import Recipe
from edge_agent.training.sampler import Indices, unit_table
from federation.accounting import DpEvent, compose
from federation.learning.generator.architecture import Architecture
from federation.study import Unit

SIDE = 8
PEOPLE, OFTEN, NOBODY = range(3)  # classes: many patients of one image, one of forty, none
UNITS, IMAGES_OF_ONE = 143, 40
CLIP, SIGMA, BATCH, DRAWS, STEPS = 0.05, 1.0, 32, 2, 300  # q = 0.2238, and 1 / len(loader) is 0.2
TINY = {"kind": "edm-unet2d", "version": 1, "preset": "tiny", "channels": 1}
TINY |= {"height": SIDE, "width": SIDE, "num_classes": 3}
SUMS_SIGMA = 4.0  # of the class sums
Z = 6.0  # of every two-sided check: a false alarm once in 1e9


class Probe(nn.Module):
    """A network whose output is a row per class: its per-unit gradients are known in advance."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(3, SIDE * SIDE)
        nn.init.zeros_(self.rows.weight)

    def forward(self, noisy: torch.Tensor, _sigma: torch.Tensor, labels: torch.Tensor):
        return self.rows(labels).reshape(noisy.shape)


def cohort_of(people: int = UNITS - 1, images_of_one: int = IMAGES_OF_ONE) -> Cohort:
    count = people + images_of_one
    labels = np.array([PEOPLE] * people + [OFTEN] * images_of_one, dtype=np.int64)
    units = tuple(f"p{i}" for i in range(people)) + ("often",) * images_of_one
    return Cohort(
        images=np.full((count, 1, SIDE, SIDE), 0.75, dtype=np.float32),
        labels=labels,
        units=units,
        digests=tuple(f"d{i}" for i in range(count)),
        unit_kind=Unit.PATIENT,
    )


def plan_of(*, batch: int = BATCH, declared: int = UNITS, sigma: float = SIGMA) -> PrivacyPlan:
    rate = batch / declared
    first = DpEvent(sample_rate=1.0, noise_multiplier=SUMS_SIGMA, steps=1)
    event = DpEvent(sample_rate=rate, noise_multiplier=sigma, steps=STEPS)
    return PrivacyPlan(
        unit=Unit.PATIENT,
        n_declared=declared,
        sample_rate=rate,
        noise_multiplier=sigma,
        steps=STEPS,
        max_grad_norm=CLIP,
        expected_batch_size=batch,
        draws_per_unit=DRAWS,
        delta=1e-5,
        epsilon=compose([first, event], 1e-5),
        sums_noise_multiplier=SUMS_SIGMA,
        warm_up_steps=0,
    )


def job_of(cohort: Cohort, plan: PrivacyPlan) -> Job:
    recipe = Recipe(learning_rate=1.0, ema_decay=0.9, p_mean=-0.5, p_std=1.2, steps=0, batch_size=0)
    return Job(
        folder=None,
        architecture=Architecture.from_table(TINY),
        cohort=cohort,
        recipe=recipe,
        steps=STEPS,
        flip=False,
        plan=plan,
        ledger=None,
        progress=None,
    )


def noisy_means(
    cohort: Cohort, plan: PrivacyPlan, *, steps: int = STEPS, crew: Crew | None = None
) -> np.ndarray:
    """Return what `steps` private updates did, [steps, classes, pixels], in units of C / B."""
    network, crew, job = Probe(), crew or Alone(), job_of(cohort, plan)
    data = Batches.of(job)
    update = PrivateUpdate(network, torch.optim.SGD(network.parameters(), lr=1.0), plan)
    crew.begin(loop.task(job), data.images, data.labels)
    seen = []
    for _ in range(steps):
        update.gradients(data, crew)
        update.apply()
        with torch.no_grad():
            seen.append(-network.rows.weight.numpy().copy())
            network.rows.weight.zero_()
    crew.end()
    return np.stack(seen) * plan.expected_batch_size / plan.max_grad_norm


def along(rows: np.ndarray) -> np.ndarray:
    """Project onto the direction of the images: the number of drawn units, plus noise."""
    return -rows.sum(axis=-1) / math.sqrt(SIDE * SIDE)


@dataclass(frozen=True)
class Evidence:
    """What a reader of the updates can tell; each is true of Poisson-subsampled DP-SGD."""

    noise_is_sigma_c: bool
    noise_is_fresh: bool
    draw_has_mean_qn: bool
    draw_has_binomial_variance: bool
    one_patient_counts_once: bool
    one_unit_moves_the_sum_by_at_most_c: bool


def evidence(crew: Crew | None = None) -> Evidence:
    plan, cohort = plan_of(), cohort_of()
    seen, again = (noisy_means(cohort, plan, crew=crew) for _ in range(2))
    q, people = plan.sample_rate, UNITS - 1
    silent = seen[:, NOBODY].ravel() / SIGMA
    drawn, often = along(seen[:, PEOPLE]), along(seen[:, OFTEN])
    variance = people * q * (1 - q) + SIGMA**2
    return Evidence(
        noise_is_sigma_c=_near((silent**2).mean(), 1, math.sqrt(2 / silent.size)),
        noise_is_fresh=not np.array_equal(seen[:, NOBODY], again[:, NOBODY]),
        draw_has_mean_qn=_near(drawn.mean(), q * people, math.sqrt(variance / STEPS)),
        draw_has_binomial_variance=_near(
            drawn.var(ddof=1), variance, variance * math.sqrt(2 / STEPS)
        ),
        one_patient_counts_once=_near(often.mean(), q, math.sqrt((q * (1 - q) + SIGMA**2) / STEPS)),
        one_unit_moves_the_sum_by_at_most_c=_sensitivity() <= 1 + 1e-4,
    )


def _near(value: float, expected: float, deviation: float) -> bool:
    return abs(value - expected) <= Z * deviation


def _sensitivity() -> float:
    """Return how far one more unit moves the clipped sum of a whole draw, in units of C."""
    torch.manual_seed(3)
    network = mixing_probe()
    plan = plan_of()
    sums = []
    for rows in (9, 8):  # with the last unit, and without
        private = optimizer.private_adam(
            network,
            learning_rate=1.0,
            noise_multiplier=SIGMA,
            max_grad_norm=CLIP,
            expected_batch_size=plan.expected_batch_size,
        )
        gradients.attach(network, draws=1)
        x = torch.linspace(-1, 1, 9 * SIDE * SIDE).reshape(9, 1, SIDE, SIDE)[:rows] ** 3
        private.zero_grad(set_to_none=True)
        (network(x) - 5).square().sum().backward()
        private.accumulate()
        sums.append(torch.cat([p.summed_grad.flatten() for p in network.parameters()]).double())
        private.zero_grad(set_to_none=True)
        for parameter in network.parameters():
            parameter.summed_grad = None
    return float((sums[0] - sums[1]).norm()) / CLIP


def mixing_probe() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 1, 3))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Layers this small only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unmutated(one_thread: None) -> Evidence:
    return evidence()


def test_the_code_as_it_is_passes_every_check(unmutated: Evidence) -> None:
    assert unmutated == Evidence(*[True] * 6)


# Planted bugs --------------------------------------------------------------------------------


def no_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        optimizer, "secret_noise", lambda shape, *, std: torch.zeros(shape, dtype=torch.float64)
    )


def noise_without_the_clip(patch: pytest.MonkeyPatch) -> None:
    real = optimizer.secret_noise
    patch.setattr(optimizer, "secret_noise", lambda shape, *, std: real(shape, std=std / CLIP))


def clip_at_twice_c(patch: pytest.MonkeyPatch) -> None:
    real = optimizer.SecretNoiseOptimizer.accumulate

    def accumulate(self) -> None:
        self.max_grad_norm *= 2
        real(self)
        self.max_grad_norm /= 2

    patch.setattr(optimizer.SecretNoiseOptimizer, "accumulate", accumulate)


def fixed_batches(patch: pytest.MonkeyPatch) -> None:
    def draw(units: int, *, sample_rate: float) -> Indices:
        return np.random.default_rng().choice(units, round(units * sample_rate), replace=False)

    patch.setattr(loop, "poisson_draw", draw)


def one_over_the_length_of_the_loader(patch: pytest.MonkeyPatch) -> None:
    real = loop.poisson_draw
    patch.setattr(
        loop,
        "poisson_draw",
        lambda units, *, sample_rate: real(units, sample_rate=1 / math.ceil(1 / sample_rate)),
    )


def capped_batch(patch: pytest.MonkeyPatch) -> None:
    real = loop.poisson_draw
    patch.setattr(
        loop,
        "poisson_draw",
        lambda units, *, sample_rate: real(units, sample_rate=sample_rate)[:BATCH],
    )


def a_unit_per_image(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(loop, "unit_table", lambda units: unit_table([str(i) for i in range(len(units))]))


def noise_per_micro_batch(patch: pytest.MonkeyPatch) -> None:
    real = optimizer.SecretNoiseOptimizer.accumulate

    def accumulate(self) -> None:
        real(self)
        for parameter in self.params:
            std = self.noise_multiplier * self.max_grad_norm
            parameter.summed_grad += noise.secret_noise(parameter.shape, std=std)

    patch.setattr(optimizer.SecretNoiseOptimizer, "accumulate", accumulate)


def batch_norm(patch: pytest.MonkeyPatch) -> None:
    def probe() -> nn.Module:
        mixed = nn.BatchNorm2d(8, affine=False)
        return nn.Sequential(nn.Conv2d(1, 8, 3), mixed, nn.SiLU(), nn.Conv2d(8, 1, 3))

    patch.setitem(globals(), "mixing_probe", probe)
    patch.setattr(gradients, "_BatchNorm", ())  # the refusal that stands in its way


def noise_that_is_reused_after_resume(patch: pytest.MonkeyPatch) -> None:
    class Restored:
        """A generator whose state came from a checkpoint, as each new update is made."""

        state = np.random.default_rng(11)

    real = optimizer.SecretNoiseOptimizer.__init__

    def start(self, *arguments, **named) -> None:
        real(self, *arguments, **named)
        Restored.state = np.random.default_rng(11)

    patch.setattr(optimizer.SecretNoiseOptimizer, "__init__", start)
    patch.setattr(
        optimizer,
        "secret_noise",
        lambda shape, *, std: torch.from_numpy(Restored.state.normal(0, std, tuple(shape))),
    )


@pytest.mark.parametrize(
    ("plant", "caught_by"),
    [
        (no_noise, "noise_is_sigma_c"),
        (noise_without_the_clip, "noise_is_sigma_c"),
        (clip_at_twice_c, "one_unit_moves_the_sum_by_at_most_c"),
        (fixed_batches, "draw_has_binomial_variance"),
        (one_over_the_length_of_the_loader, "draw_has_mean_qn"),
        (capped_batch, "draw_has_binomial_variance"),
        (a_unit_per_image, "one_patient_counts_once"),
        (noise_per_micro_batch, "noise_is_sigma_c"),
        (batch_norm, "one_unit_moves_the_sum_by_at_most_c"),
        (noise_that_is_reused_after_resume, "noise_is_fresh"),
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
        patch.setattr(loop, "rows_per_pass", lambda _device, *, side_px: 16)  # several passes
        plant(patch)
        yield


# A two-run audit with a Dirac canary -----------------------------------------------------------

AUDIT_RUNS = 700
CONFIDENCE = 0.999


def audited_mu() -> tuple[float, float]:
    """Return bounds on mu: how far one step tells a federation with the canary from one without.

    Nasr et al. 2023 (arXiv:2302.07956), with the trade-off curve of Gaussian DP: the canary's
    gradient has a direction of its own, everyone is in the step (q = 1), and the statistic is the
    update along it. Clopper-Pearson intervals on both error rates.
    """
    people = 20
    plan = plan_of(batch=people, declared=people)
    alone = along(noisy_means(cohort_of(people, 0), plan, steps=AUDIT_RUNS)[:, OFTEN])
    present = along(noisy_means(cohort_of(people - 1, 1), plan, steps=AUDIT_RUNS)[:, OFTEN])
    middle = 0.5 / SIGMA
    false_alarms, hits = int((alone > middle).sum()), int((present > middle).sum())
    low_hits, high_hits = _rate(hits)
    low_alarms, high_alarms = _rate(false_alarms)
    quantile = stats.norm.ppf
    return (
        float(quantile(low_hits) - quantile(high_alarms)),
        float(quantile(high_hits) - quantile(low_alarms)),
    )


def _rate(count: int) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low = stats.beta.ppf(tail, count, AUDIT_RUNS - count + 1) if count else 0.0
    high = stats.beta.ppf(1 - tail, count + 1, AUDIT_RUNS - count) if count < AUDIT_RUNS else 1.0
    return float(low), float(high)


def test_a_dirac_canary_shows_what_the_accountant_says_and_no_more() -> None:
    claimed = 1 / SIGMA
    low, high = audited_mu()
    assert low <= claimed <= high
    assert low > claimed / 2  # the audit sees: it would notice half as much noise
    with planted(clip_at_twice_c):
        assert audited_mu()[0] > claimed
    with planted(no_noise):
        assert audited_mu()[0] > claimed
