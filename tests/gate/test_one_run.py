"""The bound from one run: the published figures, and randomised response as the tight mechanism."""

import math

import numpy as np
import pytest

from edge_agent.gate import one_run as audit
from edge_agent.gate.verdict import Outcome


@pytest.mark.parametrize(
    ("guesses", "right", "epsilon"),
    [(100, 1.0, 3.49), (100, 0.9, 1.63), (1000, 0.95, 2.70), (1000, 0.7, 0.73), (500, 0.99, 3.85)],
)
def test_the_p_value_solves_to_the_epsilon_that_it_refutes(guesses, right, epsilon):
    """At delta 0 and 95 %: the least epsilon under which so many right guesses have 5 %."""
    told = {
        shift: audit.p_value(
            canaries=guesses,
            guesses=guesses,
            right=round(right * guesses),
            epsilon=epsilon + shift,
            delta=0.0,
        )
        for shift in (-0.02, 0.02)
    }
    assert told[-0.02] < 0.05 < told[0.02]


def test_delta_and_more_canaries_weaken_what_is_refuted():
    def p(canaries, delta):
        return audit.p_value(canaries=canaries, guesses=100, right=95, epsilon=2.0, delta=delta)

    assert p(100, 0.0) == p(10_000, 0.0) < p(100, 1e-3) < p(10_000, 1e-3)
    assert p(1000, 0.5) == 1.0


def randomised_response(epsilon, *, units, seed):
    """Scores whose law given the coin is exactly epsilon-DP: the coin, or a lie."""
    rng = np.random.default_rng(seed)
    coins = rng.random(units) < 0.5
    honest = rng.random(units) < 1 / (1 + math.exp(-epsilon))
    return np.where(coins == honest, 1.0, -1.0) + 0.01 * rng.random(units), coins


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_a_true_claim_is_refuted_no_oftener_than_the_error_allows(epsilon):
    found = [
        audit.lower_bound(*randomised_response(epsilon, units=400, seed=seed), delta=0.0)
        for seed in range(100)
    ]
    assert np.mean([bound > epsilon for bound in found]) <= audit.ERROR + 0.03
    assert np.mean(found) > epsilon / 2  # and the bound is worth something


def test_a_false_claim_fails_and_a_true_one_passes():
    scores, coins = randomised_response(3.0, units=1000, seed=0)
    assert audit.one_run(scores, coins, epsilon=1.0, delta=1e-5).outcome is Outcome.FAILED
    assert audit.one_run(scores, coins, epsilon=3.2, delta=1e-5).outcome is Outcome.PASSED


def test_too_few_coins_say_that_they_cannot_refute():
    scores, coins = randomised_response(50.0, units=100, seed=0)
    told = audit.one_run(scores, coins, epsilon=8.0, delta=1e-5)
    assert told.outcome is Outcome.CANNOT_TELL
    assert "too few to refute the claim of 8" in told.words
    assert 2 < told.value <= audit.largest_bound(100, delta=1e-5) < 3.5
    assert audit.one_run(scores[:1], coins[:1], epsilon=8.0, delta=0).outcome is Outcome.CANNOT_TELL


def test_without_a_claim_nothing_is_refuted_but_the_bound_is_shown():
    scores, coins = randomised_response(3.0, units=1000, seed=0)
    told = audit.one_run(scores, coins, epsilon=None, delta=0.0)
    assert told.outcome is Outcome.CANNOT_TELL
    assert told.value > 2


def test_coins_that_nothing_knows_show_no_bound():
    rng = np.random.default_rng(0)
    found = [
        audit.lower_bound(rng.random(300), rng.random(300) < 0.5, delta=0.0) for _ in range(100)
    ]
    assert np.mean([bound > 0 for bound in found]) <= audit.ERROR + 0.03
