"""The privacy plan: every figure of a private training that must agree with the others.

Invariants:

- Nothing in a plan depends on the private data: all follows from the study, the image shape, and
  two public figures that the operator gives: `n_declared`, a lower bound on the number of units,
  and the run's epsilon. What was spent on a unit before decides who takes part, never the noise.
- A private run makes two kinds of release: first one noisy sum per class over all units
  (`edge_agent.training.class_sums`), then the noisy gradients. Both are in `events`.
- q = B / n_declared is the rate of the Poisson draw, and B the divisor of the noisy sum, however
  many units the site really has.
- epsilon is `federation.accounting`'s for all events at delta; the coordinator recomputes it.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

from edge_agent.training.preset import PrivatePreset, private_preset, signal, sums_share, why
from federation.accounting import DpEvent, compose, noise_multiplier_for
from federation.study import Study, Unit
from kit import canonical
from kit.errors import FormatError, KitError

MIN_UNITS = 32  # below this the noise is many times the sum of all units, whatever the plan
MAX_DELTA = 1e-5
_NOISE_GRID = 1e4  # noise multipliers are rounded up to four decimals
_FIGURE_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """One private training, as far as privacy depends on it.

    Attributes:
        unit: whose presence is hidden.
        n_declared: public lower bound on the number of units.
        sample_rate: q, chance of each unit to be in a step.
        noise_multiplier: sigma, noise standard deviation over `max_grad_norm`.
        steps: noisy steps, all of them charged at most once.
        max_grad_norm: C, the clipping norm of one unit's gradient.
        expected_batch_size: B, units per step on average if there are `n_declared`.
        draws_per_unit: K, noise draws averaged inside a unit's gradient before it is clipped.
        delta: the failure probability the plan is made for, over the lifetime.
        epsilon: of this run alone at `delta`.
        sums_noise_multiplier: noise of the class sums, over the norm 1 of a unit's part in them.
        warm_up_steps: steps on the central images before the first private one; they cost nothing.
    """

    unit: Unit
    n_declared: int
    sample_rate: float
    noise_multiplier: float
    steps: int
    max_grad_norm: float
    expected_batch_size: int
    draws_per_unit: int
    delta: float
    epsilon: float
    sums_noise_multiplier: float
    warm_up_steps: int

    def __post_init__(self) -> None:
        """Refuse figures that do not belong together.

        Raises:
            KitError: q is not B / n_declared, epsilon is not that of the others, or a figure is
                out of its range.
        """
        if min(self.steps, self.expected_batch_size, self.draws_per_unit) < 1:
            raise KitError("a privacy plan has at least one step, unit and draw")
        if self.warm_up_steps < 0:
            raise KitError(f"number of warm-up steps `{self.warm_up_steps}` is negative")
        if not 0 < self.max_grad_norm < math.inf:
            raise KitError(f"clipping norm `{self.max_grad_norm}` is not positive")
        rate = self.expected_batch_size / self.n_declared if self.n_declared > 0 else math.inf
        if not _agree(self.sample_rate, rate):
            raise KitError("the sample rate is not the expected batch over the declared number")
        if not _agree(self.epsilon, compose(self.events, self.delta)):
            raise KitError("the plan's epsilon is not that of its other figures")

    @property
    def events(self) -> tuple[DpEvent, ...]:
        """What the ledger is charged for, in the order of release."""
        return (
            _sums_event(self.sums_noise_multiplier),
            DpEvent(
                sample_rate=self.sample_rate,
                noise_multiplier=self.noise_multiplier,
                steps=self.steps,
            ),
        )

    @property
    def signal(self) -> float:
        """How far the private steps add up over their noise."""
        return signal(self.expected_batch_size, self.steps, self.noise_multiplier)

    @property
    def settings(self) -> str:
        """Name what could have been chosen otherwise, for the ledger's record of trials."""
        return (
            f"{self.steps} steps of {self.expected_batch_size}, {self.draws_per_unit} draws, clip "
            f"{self.max_grad_norm:g}, noise {self.noise_multiplier:g}, {self.warm_up_steps} warm-up"
        )

    @property
    def reason(self) -> str:
        """Say in one line where the figures come from."""
        return (
            f"each of at least {self.n_declared} {self.unit}s joins a step with chance "
            f"{self.sample_rate:.3g} ({self.expected_batch_size} expected), "
            f"{self.draws_per_unit} noise draws inside one clip at {self.max_grad_norm:g}; "
            f"{self.steps} steps with noise {self.noise_multiplier:g} give epsilon "
            f"{self.epsilon:.3g} at delta {self.delta:g} "
            f"(declared number x delta = {self.n_declared * self.delta:.2g}); before them one "
            f"count and mean image per class with noise {self.sums_noise_multiplier:g}, "
            f"{self.warm_up_steps} steps on these means, which cost nothing more; "
            + why(self.signal)
        )

    def to_table(self) -> dict[str, Any]:
        """Return the fields as JSON numbers and strings."""
        return asdict(self) | {"unit": str(self.unit)}

    @classmethod
    def from_table(cls, value: Any) -> Self:
        """Read what `to_table` wrote.

        Raises:
            KitError: a field is missing or unknown, or the figures do not agree.
        """
        table = canonical.fields(value, set(cls.__slots__), what="privacy plan")
        try:
            return cls(**table | {"unit": Unit(table["unit"])})
        except (TypeError, ValueError) as error:
            raise FormatError("a figure of the privacy plan has the wrong type") from error


def plan_for(
    study: Study,
    *,
    n_declared: int,
    unit: Unit,
    epsilon: float | None = None,
    lifetime_delta: float = MAX_DELTA,
    steps: int | None = None,
    preset: PrivatePreset | None = None,
) -> PrivacyPlan:
    """Return the plan for a site that declares at least `n_declared` units.

    The run stays within `epsilon` or the study's, whichever is smaller, at the smallest of the
    study's delta, `lifetime_delta` and what `n_declared` asks for. `preset` holds the kind's free
    choices (diffusion's if None); `steps` overrides its number of steps.

    Raises:
        KitError: `n_declared` or the epsilon is too small for a useful plan.
    """
    if n_declared < MIN_UNITS:
        raise KitError(
            f"{n_declared} declared {unit}s are too few for private training",
            hint=f"it needs {MIN_UNITS} to run at all and several hundred to be useful",
        )
    policy, image = study.privacy, study.image
    preset = preset or private_preset(n_declared, max(image.height, image.width))
    delta = min(policy.delta, MAX_DELTA, lifetime_delta, 1 / (100 * n_declared))
    limit = policy.epsilon if epsilon is None else min(epsilon, policy.epsilon)
    count = preset.steps if steps is None else steps
    rate = preset.expected_batch_size / n_declared

    def least_noise(*first: DpEvent, rate: float, steps: int) -> float:
        least = noise_multiplier_for(
            epsilon=limit, delta=delta, sample_rate=rate, steps=steps, past=first
        )
        return math.ceil(least * _NOISE_GRID) / _NOISE_GRID

    share = preset.sums_share
    if share is None:
        alone = least_noise(rate=rate, steps=count)
        share = sums_share(signal(preset.expected_batch_size, count, alone))
    of_all = least_noise(rate=1.0, steps=1) / math.sqrt(share)
    sums_noise = math.ceil(of_all * _NOISE_GRID) / _NOISE_GRID
    noise = least_noise(_sums_event(sums_noise), rate=rate, steps=count)
    if noise > preset.expected_batch_size:
        raise KitError(
            f"epsilon {limit:g} is too small for {n_declared} {unit}s: noise {noise:.3g} would "
            f"hide even {preset.expected_batch_size} of them",
            hint="it takes more of them, a larger epsilon where study and site allow it, or fewer"
            " steps",
        )
    event = DpEvent(sample_rate=rate, noise_multiplier=noise, steps=count)
    return PrivacyPlan(
        unit=unit,
        n_declared=n_declared,
        sample_rate=rate,
        noise_multiplier=noise,
        steps=count,
        max_grad_norm=preset.max_grad_norm,
        expected_batch_size=preset.expected_batch_size,
        draws_per_unit=preset.draws_per_unit,
        delta=delta,
        epsilon=compose([_sums_event(sums_noise), event], delta),
        sums_noise_multiplier=sums_noise,
        warm_up_steps=min(preset.warm_up_steps, count),
    )


def _sums_event(noise_multiplier: float) -> DpEvent:
    return DpEvent(sample_rate=1.0, noise_multiplier=noise_multiplier, steps=1)


def _agree(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_FIGURE_TOLERANCE)
