import math
from dataclasses import replace

import pytest

from edge_agent.training.plan import MIN_UNITS, PrivacyPlan, plan_for
from edge_agent.training.preset import learning_rate, private_preset, sums_share
from federation.accounting import compose
from federation.study import Unit
from kit.errors import KitError


def test_plan_follows_from_the_declared_number_alone(study):
    plan = plan_for(study, n_declared=400, unit=Unit.IMAGE)
    assert plan == plan_for(study, n_declared=400, unit=Unit.IMAGE)
    assert plan.sample_rate == plan.expected_batch_size / 400
    assert plan.delta == 1e-5
    assert plan.epsilon <= study.privacy.epsilon
    assert plan.epsilon > 0.999 * study.privacy.epsilon
    sums, training = plan.events
    assert plan.epsilon == compose([sums, training], plan.delta)
    assert (sums.sample_rate, sums.steps) == (1.0, 1)
    assert (training.sample_rate, training.steps) == (plan.sample_rate, plan.steps)


@pytest.mark.parametrize(("epsilon", "share"), [(8.0, 0.1), (3.0, 0.35), (1.0, 0.5)])
def test_the_class_sums_get_their_share_of_the_budget_and_training_the_rest(make, epsilon, share):
    study = make["study"](epsilon=epsilon)
    plan = plan_for(study, n_declared=400, unit=Unit.IMAGE)
    sums, training = plan.events
    whole = replace(sums, noise_multiplier=sums.noise_multiplier * math.sqrt(share))
    assert compose([whole], plan.delta) == pytest.approx(epsilon, rel=0.1)
    apart = compose([sums], plan.delta) + compose([training], plan.delta)
    assert compose([training], plan.delta) < plan.epsilon < apart


def test_delta_is_the_least_of_study_design_and_number(study, make):
    strict = make["study"](delta=1e-7)
    assert plan_for(study, n_declared=400, unit=Unit.IMAGE, steps=9).delta == 1e-5
    assert plan_for(study, n_declared=20_000, unit=Unit.IMAGE, steps=9).delta == 1 / 2_000_000
    assert plan_for(strict, n_declared=400, unit=Unit.IMAGE, steps=9).delta == 1e-7


def test_a_run_may_cost_less_than_the_study_allows_and_never_more(study):
    wanted = {"n_declared": 400, "unit": Unit.IMAGE}
    whole = plan_for(study, **wanted)
    assert 7.9 < whole.epsilon <= study.privacy.epsilon == 8
    assert plan_for(study, **wanted, epsilon=30.0) == whole
    less = plan_for(study, **wanted, epsilon=3.0, lifetime_delta=1e-6)
    assert less.noise_multiplier > whole.noise_multiplier
    assert less.delta == 1e-6
    assert 2.9 < less.epsilon <= 3.0


def test_expected_batch_grows_with_the_site_and_stays_a_fraction_of_it(study):
    sizes = (32, 100, 384, 1000, 3000, 20_000)
    plans = [plan_for(study, n_declared=n, unit=Unit.IMAGE, steps=5) for n in sizes]
    batches = [plan.expected_batch_size for plan in plans]
    assert batches == sorted(batches)
    assert all(plan.sample_rate <= 1 / 3 for plan in plans)


def test_an_epsilon_that_leaves_nothing_but_noise_is_refused(study):
    wanted = {"n_declared": 400, "unit": Unit.IMAGE}
    assert plan_for(study, **wanted, epsilon=1.0).epsilon <= 1.0
    with pytest.raises(KitError, match="would hide even 128 of them"):
        plan_for(study, **wanted, epsilon=0.02)
    with pytest.raises(KitError, match="no noise keeps"):
        plan_for(study, **wanted, epsilon=1e-9)


@pytest.mark.parametrize("declared", [0, -5, 1, MIN_UNITS - 1])
def test_too_few_units_are_refused(study, declared):
    assert plan_for(study, n_declared=MIN_UNITS, unit=Unit.IMAGE, steps=2).sample_rate < 1
    with pytest.raises(KitError, match="too few"):
        plan_for(study, n_declared=declared, unit=Unit.IMAGE)


def test_plan_reads_back_and_says_why(study):
    plan = plan_for(study, n_declared=400, unit=Unit.IMAGE)
    assert PrivacyPlan.from_table(plan.to_table()) == plan
    for word in ("at least 400 images", "epsilon 8", "delta 1e-05", f"{plan.steps} steps"):
        assert word in plan.reason
    with pytest.raises(KitError):
        PrivacyPlan.from_table({k: v for k, v in plan.to_table().items() if k != "delta"})
    with pytest.raises(KitError):
        PrivacyPlan.from_table(plan.to_table() | {"unit": "hospital"})


@pytest.mark.parametrize(
    "change",
    [
        {"sample_rate": 0.2},
        {"n_declared": 500},
        {"noise_multiplier": 1.0},
        {"steps": 10},
        {"steps": 0},
        {"epsilon": 1.0},
        {"delta": 1e-3},
        {"sums_noise_multiplier": 9.0},
        {"warm_up_steps": -1},
        {"max_grad_norm": 0.0},
        {"max_grad_norm": float("inf")},
        {"draws_per_unit": 0},
    ],
)
def test_figures_that_do_not_belong_together_are_refused(study, change):
    plan = plan_for(study, n_declared=400, unit=Unit.IMAGE)
    assert replace(plan) == plan
    with pytest.raises(KitError):
        replace(plan, **change)


def test_the_preset_follows_from_public_figures_and_the_plan_gives_its_reasons(study):
    plan, preset = plan_for(study, n_declared=400, unit=Unit.IMAGE), private_preset(400, 8)
    assert (plan.expected_batch_size, plan.steps) == (preset.expected_batch_size, preset.steps)
    for word in ("the declared number and time", "10% of the bound", "learning rate is 0.002"):
        assert word in plan.reason


def test_small_images_take_fewer_steps_and_else_the_same():
    small, large = (private_preset(400, side_px) for side_px in (16, 28))
    assert (small.steps, large.steps) == (100, 300)
    assert replace(small, steps=300) == large
    assert private_preset(5000, 16).steps == private_preset(5000, 28).steps == 1000


def test_rate_and_share_follow_the_signal_that_the_noise_leaves():
    assert learning_rate(500.0) == learning_rate(5000.0) == 2e-3
    assert learning_rate(100.0) == pytest.approx(2e-3 / 5)
    assert sums_share(5000.0) == sums_share(500.0) == 0.1
    assert sums_share(250.0) == pytest.approx(0.4)
    assert sums_share(50.0) == 0.5
