"""A lower bound on epsilon from the one run there is (Steinke, Nasr, Jagielski 2023).

m units were chosen at random, and each of them was trained on or held out by a fair coin of its
own (`edge_agent.training.held_out`). Guesses of r of these coins by anybody who sees the weights
are right about as often as (epsilon, delta) allows: with delta 0, v right ones are no likelier
than under Binomial(r, e^epsilon / (1 + e^epsilon)) (arXiv:2305.08846, theorem 5.2 and its
appendix D with delta).

r guesses, all right, refute no more than epsilon = ln(p^(1/r) / (1 - p^(1/r))): about 3.1 with
100 of them and 5.4 with 1,000 at the p used here. A bound of 0 says that this attack found
nothing; it says nothing of a claim of 8.
"""

import math

import numpy as np
from numpy.typing import NDArray

from edge_agent.gate.verdict import Check, Outcome

ERROR = 0.05  # chance to refute a true claim
SHARES = (1.0, 0.5, 0.125)  # of the coins that are guessed: the highest and the lowest scores
_BISECTIONS = 20
_MAX_EPSILON = 20.0


def one_run(
    scores: NDArray[np.float64],
    was_included: NDArray[np.bool_],
    *,
    epsilon: float | None,
    delta: float,
) -> Check:
    """Compare the lower bound with the claimed epsilon.

    Args:
        scores: one per unit whose coin was tossed, in an order that the coins had no part in;
            higher is likelier trained on.
        was_included: what the coins said.
        epsilon: the run's claim; None trained without privacy.
        delta: of the claim; 0 without one.
    """
    name = "one-run"
    if len(scores) < 2:
        words = "no unit was held out by a coin: one run shows no lower bound on epsilon"
        return Check(name=name, outcome=Outcome.CANNOT_TELL, value=0.0, threshold=0.0, words=words)
    found = lower_bound(scores, was_included, delta=delta)
    most = largest_bound(len(scores), delta=delta)
    words = (
        f"{len(scores)} coins show an epsilon of at least {found:.2f}"
        f" (every one guessed would show {most:.2f})"
    )
    if epsilon is None:
        outcome, words = Outcome.CANNOT_TELL, f"{words}; nothing is claimed that it could refute"
    elif found > epsilon:
        outcome, words = Outcome.FAILED, f"{words}; the run claims {epsilon:.3g}"
    elif most <= epsilon:
        outcome = Outcome.CANNOT_TELL
        words = f"{words}; too few to refute the claim of {epsilon:.3g}"
    else:
        outcome, words = Outcome.PASSED, f"{words}; the run claims {epsilon:.3g}"
    threshold = _MAX_EPSILON if epsilon is None else epsilon
    return Check(name=name, outcome=outcome, value=found, threshold=threshold, words=words)


def lower_bound(
    scores: NDArray[np.float64], was_included: NDArray[np.bool_], *, delta: float
) -> float:
    """Return the best lower bound over `SHARES`, each with its part of `ERROR`."""
    order = np.argsort(scores, kind="stable")
    best = 0.0
    for guesses in _counts(len(scores)):
        out, included = order[: guesses // 2], order[len(order) - (guesses - guesses // 2) :]
        right = int((~was_included[out]).sum() + was_included[included].sum())
        best = max(best, _epsilon_of(len(scores), guesses, right, delta))
    return best


def largest_bound(canaries: int, *, delta: float) -> float:
    """Return what `lower_bound` would say if every guess were right."""
    return max(_epsilon_of(canaries, r, r, delta) for r in _counts(canaries))


def p_value(*, canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return the chance of so many right guesses under (epsilon, delta) (appendix D)."""
    from scipy.stats import binom

    rate = 1 / (1 + math.exp(-epsilon))
    beta = float(binom.sf(right - 1, guesses, rate))
    if not delta:
        return beta
    mass = np.cumsum(binom.pmf(right - np.arange(1, right + 1), guesses, rate))
    alpha = float((mass / np.arange(1, right + 1)).max(initial=0.0))
    return min(1.0, beta + 2 * canaries * delta * alpha)


def _epsilon_of(canaries: int, guesses: int, right: int, delta: float) -> float:
    """Return the largest epsilon that so many right guesses refute; 0 if none."""

    def refutes(epsilon: float) -> bool:
        found = p_value(
            canaries=canaries, guesses=guesses, right=right, epsilon=epsilon, delta=delta
        )
        return found < ERROR / len(SHARES)

    if not refutes(0.0):
        return 0.0
    low, high = 0.0, _MAX_EPSILON
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if refutes(middle) else (low, middle)
    return low


def _counts(canaries: int) -> list[int]:
    return sorted({max(1, round(share * canaries)) for share in SHARES})
