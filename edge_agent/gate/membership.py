"""Membership: do the weights tell units that were trained on from units that were held out?

The attack asks the network once per image and noise level (`edge_agent.gate.scores`). Its true
positive rate (TPR) at a false positive rate (FPR) of 1 % is bounded on both sides:

- the threshold is an order statistic of the held-out scores, whose own FPR follows a Beta law, so
  its FPR is at most (at least) 1 % with 95 % confidence, whatever the scores' law;
- the share of trained units over it has a Clopper-Pearson bound at 95 %.

Both together hold with at least 90 %. Under 299 held-out units no threshold is surely at 1 %:
then nothing passes, and the lower end is taken at the least FPR f that is sure, 1 - 0.05^(1/n).

The limit at f is `LEAK_FACTOR` f, and at most e^epsilon f + delta, which is what (epsilon, delta)
allows every attack (Kairouz, Oh, Viswanath 2015, theorem 2.1); at f = 1 % the claim is the
stricter of the two below epsilon 2.3. A run fails if the interval's lower end is over the limit.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_agent.gate.verdict import Check, Outcome

FPR = 0.01
CONFIDENCE = 0.95  # of the threshold, and of the count; both hold with at least 0.90
MIN_HELD_OUT = 299  # 0.99^299 < 0.05: the highest of so many held-out scores surely is at 1 %
LEAK_FACTOR = 10.0  # a TPR of 10 % at an FPR of 1 %; chosen on digits, see docs/privacy.md

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TprInterval:
    """Where the attack's TPR lies: `low` at a rate of `fpr` or less, `high` at one of 1 % or more.

    `point` is what the scores show at an empirical FPR of 1 %.
    """

    fpr: float
    low: float
    high: float
    point: float


def membership(trained: Scores, held_out: Scores, *, epsilon: float | None, delta: float) -> Check:
    """Compare the interval's lower end with what is allowed.

    Args:
        trained: a score per unit that was trained on; higher is likelier a member.
        held_out: a score per unit that was not.
        epsilon: the run's claim; None trained without privacy.
        delta: of the claim; 0 without one.
    """
    name = "membership"
    if not len(held_out) or not len(trained):
        words = "no unit was held out: whether the weights know their units cannot be asked"
        return Check(name=name, outcome=Outcome.CANNOT_TELL, value=0.0, threshold=1.0, words=words)
    found = tpr_interval(trained, held_out)
    limit = LEAK_FACTOR * found.fpr
    if epsilon is not None:
        limit = min(limit, math.exp(min(epsilon, 700.0)) * found.fpr + delta)
    words = (
        f"a simple attack finds {found.low:.1%} to {found.high:.1%} of the trained units"
        f" ({found.point:.1%} seen) at a false positive rate of {FPR:.0%}"
    )
    if len(held_out) < MIN_HELD_OUT:
        words = (
            f"a simple attack finds at least {found.low:.1%} of the trained units at a false"
            f" positive rate of {found.fpr:.1%}, the least that {len(held_out)} held-out units can"
            f" show; {MIN_HELD_OUT} tell more"
        )
    outcome = Outcome.PASSED if len(held_out) >= MIN_HELD_OUT else Outcome.CANNOT_TELL
    if found.low > limit:
        outcome = Outcome.FAILED
    return Check(
        name=name,
        outcome=outcome,
        value=found.low,
        threshold=min(limit, 1.0),
        words=f"{words}; more than {min(limit, 1.0):.1%} would be too many",
    )


def tpr_interval(trained: Scores, held_out: Scores) -> TprInterval:
    """Bound the TPR at `FPR` of the attack "member if the score is over a threshold"."""
    from scipy.stats import beta

    n, m = len(held_out), len(trained)
    ordered = np.sort(held_out)[::-1]
    fpr = max(FPR, 1 - (1 - CONFIDENCE) ** (1 / n))
    ranks = np.arange(1, n + 1)  # the FPR of "over the k-th highest" is Beta(k, n + 1 - k)
    surely_under = np.flatnonzero(beta.cdf(fpr + 1e-12, ranks, n + 1 - ranks) >= CONFIDENCE)
    surely_over = np.flatnonzero(beta.sf(FPR, ranks, n + 1 - ranks) >= CONFIDENCE)
    low = int((trained > ordered[surely_under[-1]]).sum())
    high = m if not len(surely_over) else int((trained >= ordered[surely_over[0]]).sum())
    allowed = math.floor(FPR * n)  # held-out units over an empirical threshold
    return TprInterval(
        fpr=fpr,
        low=0.0 if low == 0 else float(beta.ppf(1 - CONFIDENCE, low, m - low + 1)),
        high=1.0 if high == m else float(beta.ppf(CONFIDENCE, high + 1, m - high)),
        point=float((trained > ordered[allowed]).mean()),
    )
