"""Privacy arithmetic both sides agree on: Renyi DP of the Poisson-subsampled Gaussian mechanism.

The edge computes its noise with it, the coordinator recomputes every declared epsilon with it.
NumPy only. `Opacus` and `dp-accounting` give the same values (see the tests); what differs here is
the method: the moment of Mironov, Talwar and Zhang 2019 (arXiv:1908.10530, section 3.3) is
integrated directly, one formula for whole and fractional orders.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.errors import KitError

Curve = NDArray[np.float64]

# The orders that Opacus searches, and a few higher ones for very small epsilons.
ORDERS: tuple[float, ...] = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *(float(order) for order in range(12, 64)),
    *(72.0, 96.0, 128.0, 192.0, 256.0, 512.0),
)

_TAIL = 13.0  # standard deviations kept on either side: the rest is below 1e-37
_POINTS_PER_SCALE = 24  # the trapezoid rule converges exponentially; 8 would do
_MAX_NOISE_MULTIPLIER = 1e6
# Integrating costs 1 / sigma^2: a second here, hours for a declared 0.001. No useful promise lies
# below.
_MIN_NOISE_MULTIPLIER = 0.1
_RELATIVE_STEP = 1e-5
_BLOCK = 1 << 13  # points in memory at once: a stranger's statement decides how many there are


@dataclass(frozen=True, slots=True, kw_only=True)
class DpEvent:
    """`steps` releases of a Poisson-subsampled Gaussian sum over units.

    sample_rate: chance of each unit to be in a step, independently of all others.
    noise_multiplier: standard deviation of the noise divided by the clipping norm.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse what is no mechanism.

        Raises:
            KitError: a value is out of its range or not finite.
        """
        if not 0 < self.sample_rate <= 1:
            raise KitError(f"sample rate `{self.sample_rate}` is not in (0, 1]")
        if not _MIN_NOISE_MULTIPLIER <= self.noise_multiplier <= _MAX_NOISE_MULTIPLIER:
            raise KitError(f"noise multiplier `{self.noise_multiplier}` is out of range")
        if self.steps < 0:
            raise KitError(f"number of steps `{self.steps}` is negative")


def work(event: DpEvent) -> float:
    """Return what `rdp_curve` costs, in integrations at a noise multiplier of 1: 1 / sigma^2.

    Without subsampling there is nothing to integrate.
    """
    return 0.0 if event.sample_rate == 1 else event.noise_multiplier**-2


def rdp_curve(event: DpEvent) -> Curve:
    """Return the Renyi divergence bound of `event` at every order of `ORDERS`; curves add up.

    Mironov, Talwar, Zhang 2019, section 3.3: log(A_alpha) / (alpha - 1) per step.
    """
    q, sigma = event.sample_rate, event.noise_multiplier
    if q == 1:  # the plain Gaussian mechanism, Mironov 2017, corollary 3
        one_step = [order / (2 * sigma**2) for order in ORDERS]
    else:
        one_step = [_log_moment(q, sigma, order) / (order - 1) for order in ORDERS]
    curve: Curve = np.maximum(np.array(one_step), 0.0) * event.steps
    return curve


def epsilon_of(curve: Curve, delta: float) -> float:
    """Convert a Renyi curve to (epsilon, delta)-DP: Balle et al. 2020, theorem 21.

    Raises:
        KitError: `delta` is not in (0, 1).
    """
    if not 0 < delta < 1:
        raise KitError(f"delta `{delta}` is not in (0, 1)")
    if not curve.any():
        return 0.0
    order = np.array(ORDERS)
    bounds = curve - (math.log(delta) + np.log(order)) / (order - 1) + np.log1p(-1 / order)
    return max(0.0, float(bounds.min()))


def epsilon(*, sample_rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """Return the epsilon that `steps` subsampled Gaussian releases cost at `delta`."""
    event = DpEvent(sample_rate=sample_rate, noise_multiplier=noise_multiplier, steps=steps)
    return epsilon_of(rdp_curve(event), delta)


def curve_of(events: Iterable[DpEvent]) -> Curve:
    """Return the Renyi curve of all `events` together, each of which may follow from earlier ones.

    Mironov 2017 (arXiv:1702.07476), proposition 1: curves add, epsilons never do.
    """
    return sum(map(rdp_curve, events), np.zeros(len(ORDERS)))


def compose(events: Iterable[DpEvent], delta: float) -> float:
    """Return the epsilon of all `events` together at `delta`."""
    return epsilon_of(curve_of(events), delta)


def noise_multiplier_for(
    *,
    epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    past: Sequence[DpEvent] = (),
) -> float:
    """Return the least noise multiplier (to 1e-5, rounded up) that keeps all within `epsilon`.

    `past` are the events already charged to the same units.

    Raises:
        KitError: the past alone has spent `epsilon`, or no noise suffices.
    """
    spent = curve_of(past)

    def fits(sigma: float) -> bool:
        event = DpEvent(sample_rate=sample_rate, noise_multiplier=sigma, steps=steps)
        return epsilon_of(spent + rdp_curve(event), delta) <= epsilon

    low, high = _MIN_NOISE_MULTIPLIER, 1.0
    while not fits(high):
        low, high = high, 2 * high
        if high > _MAX_NOISE_MULTIPLIER:
            raise KitError(
                f"no noise keeps these steps within epsilon {epsilon:g} at delta {delta:g}",
                hint="the budget of these units is spent, or the study's epsilon is too small",
            )
    while high - low > _RELATIVE_STEP * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _log_moment(q: float, sigma: float, order: float) -> float:
    """Return log A_alpha, A_alpha = E[((1 - q) + q exp((2z - 1) / (2 sigma^2)))^alpha].

    The expectation is over z ~ N(0, sigma^2); trapezoid rule in logarithms. The integrand's poles
    lie at a distance pi sigma^2 from the real line, hence the step.
    """
    step = min(sigma, sigma**2) / _POINTS_PER_SCALE
    count = math.ceil((order + 2 * _TAIL * sigma) / step) + 1
    sums = []
    for first in range(0, count, _BLOCK):
        z = np.arange(first, min(first + _BLOCK, count)) * step - _TAIL * sigma
        log_density = -(z**2) / (2 * sigma**2) - math.log(sigma * math.sqrt(2 * math.pi))
        log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * z - 1) / (2 * sigma**2))
        terms = log_density + order * log_ratio
        peak = float(terms.max())
        sums.append(peak + math.log(float(np.exp(terms - peak).sum())))
    return float(np.logaddexp.reduce(sums)) + math.log(step)
