"""The interval covers the attack's true rate, and the limit follows from the claim."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from edge_agent.gate.membership import FPR, LEAK_FACTOR, MIN_HELD_OUT, membership, tpr_interval
from edge_agent.gate.verdict import Outcome

DRAWS = np.random.default_rng


def scores(seed, *, trained, held_out, shift):
    rng = DRAWS(seed)
    return rng.normal(shift, 1, trained), rng.normal(0, 1, held_out)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("held_out", [MIN_HELD_OUT, 800])
def test_the_interval_covers_the_true_rate_as_often_as_it_says(shift, held_out):
    """Gaussian scores have TPR(f) = 1 - Phi(Phi^-1(1 - f) - shift); each end holds in 90 %."""
    truth = float(norm.sf(norm.isf(FPR) - shift))
    found = [
        tpr_interval(*scores(seed, trained=400, held_out=held_out, shift=shift))
        for seed in range(300)
    ]
    assert all(interval.fpr == pytest.approx(FPR, rel=1e-3) for interval in found)
    assert np.mean([interval.low <= truth for interval in found]) >= 0.9
    assert np.mean([interval.high >= truth for interval in found]) >= 0.9
    assert all(i.low <= i.high for i in found)


def test_with_few_held_out_units_the_lower_end_holds_at_the_rate_that_they_can_show():
    fpr = tpr_interval(*scores(0, trained=100, held_out=40, shift=0.0)).fpr
    assert (1 - fpr) ** 40 == pytest.approx(0.05)
    truth = float(norm.sf(norm.isf(fpr) - 1.0))
    found = [tpr_interval(*scores(s, trained=100, held_out=40, shift=1.0)) for s in range(300)]
    assert np.mean([interval.low <= truth for interval in found]) >= 0.9


@pytest.mark.parametrize(
    ("epsilon", "limit"), [(None, 0.1), (8.0, 0.1), (1.0, 0.0272), (0.1, 0.011)]
)
def test_the_limit_follows_from_the_claim_where_that_is_stricter(epsilon, limit):
    trained, held_out = scores(0, trained=1000, held_out=400, shift=0.0)
    found = membership(trained, held_out, epsilon=epsilon, delta=1e-5)
    assert found.outcome is Outcome.PASSED
    assert found.threshold == pytest.approx(limit, abs=1e-3)
    bound = LEAK_FACTOR * FPR if epsilon is None else math.exp(epsilon) * FPR + 1e-5
    assert found.threshold <= bound + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_weights_that_know_their_units_fail_and_those_that_do_not_pass(seed):
    assert (
        membership(
            *scores(seed, trained=500, held_out=400, shift=0.0), epsilon=None, delta=0
        ).outcome
        is Outcome.PASSED
    )
    assert (
        membership(
            *scores(seed, trained=500, held_out=400, shift=4.0), epsilon=None, delta=0
        ).outcome
        is Outcome.FAILED
    )


@pytest.mark.parametrize("seed", range(3))
def test_under_about_300_held_out_units_nothing_passes_and_only_the_blatant_fails(seed):
    for shift in (0.0, 1.0):
        trained, held_out = scores(seed, trained=360, held_out=MIN_HELD_OUT - 1, shift=shift)
        told = membership(trained, held_out, epsilon=8.0, delta=1e-5)
        assert told.outcome is Outcome.CANNOT_TELL
        assert f"{MIN_HELD_OUT} tell more" in told.words
    trained, held_out = scores(seed, trained=60, held_out=60, shift=9.0)
    assert membership(trained, held_out, epsilon=None, delta=0).outcome is Outcome.FAILED
    few = membership(trained, held_out[:5], epsilon=None, delta=0)
    assert few.outcome is Outcome.CANNOT_TELL


def test_without_held_out_units_nothing_is_told():
    trained, nobody = scores(0, trained=50, held_out=0, shift=9.0)
    found = membership(trained, nobody, epsilon=8.0, delta=1e-5)
    assert found.outcome is Outcome.CANNOT_TELL
    assert "no unit was held out" in found.words


def test_equal_scores_find_nobody():
    found = tpr_interval(np.zeros(400), np.zeros(400))
    assert (found.low, found.point) == (0.0, 0.0)
