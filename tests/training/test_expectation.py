from dataclasses import replace

import pytest

from edge_agent.training.expectation import (
    NOISE_POINTS,
    WARN_POINTS,
    expectation,
    loss,
    strength_for,
)
from edge_agent.training.plan import plan_for
from edge_agent.training.trainers import trainer_of
from federation.learning.generator import architecture as networks
from federation.study import Unit
from kit.errors import KitError


@pytest.fixture
def study_of(make):
    def build(*presets, epsilon=8.0):
        allowed = tuple(networks.reference(preset) for preset in presets)
        return replace(make["study"](epsilon=epsilon), architectures=allowed)

    return build


def expected(study, preset, declared, classes=3):
    architecture = networks.architecture_for(study, preset)
    made = trainer_of(architecture).private_preset(declared, architecture.side_px)
    plan = plan_for(study, n_declared=declared, unit=Unit.IMAGE, preset=made)
    return expectation(study, preset, plan, classes)


@pytest.mark.parametrize("preset", ["tiny", "moments"])
def test_more_patients_and_more_epsilon_lose_less_and_more_classes_more(study_of, preset):
    both = ("tiny", "moments")
    usual = expected(study_of(*both, epsilon=3.0), preset, 100).points
    assert expected(study_of(*both, epsilon=3.0), preset, 200).points < usual
    assert expected(study_of(*both, epsilon=8.0), preset, 100).points < usual
    assert expected(study_of(*both, epsilon=3.0), preset, 100, classes=6).points >= usual


@pytest.mark.parametrize("preset", ["tiny", "moments"])
def test_a_measured_table_rises_in_strength_and_falls_in_loss(study_of, preset):
    trainer = trainer_of(networks.architecture_for(study_of(preset), preset))
    strengths, points = zip(*trainer.measured, strict=True)
    assert list(strengths) == sorted(set(strengths))
    assert list(points) == sorted(set(points), reverse=True)
    for strength, lost in trainer.measured:
        assert loss(trainer, strength) == pytest.approx(lost)
        assert strength_for(trainer, lost) == pytest.approx(strength)
    assert loss(trainer, strengths[0] / 100) == points[0]
    assert loss(trainer, strengths[-1] * 100) == points[-1]


def test_a_small_cohort_is_told_what_works_and_noise_is_refused(study_of):
    found = expected(study_of("tiny", "moments"), "tiny", 60)
    assert found.is_noise
    said = "\n".join(found.lines)
    assert "warning: 60 images in 3 classes" in said
    assert "--preset moments" in said
    assert "digits of 8 px" in said
    assert "it takes about" in said
    with pytest.raises(KitError, match="mostly noise") as refused:
        found.require_accepted(is_accepted=False)
    assert "--accept-expected-loss" in refused.value.hint
    found.require_accepted(is_accepted=True)
    other = expected(study_of("tiny", "moments"), "moments", 60)
    assert not other.is_noise
    other.require_accepted(is_accepted=False)


def test_a_study_without_the_other_kind_is_said_to_lack_it(study_of):
    alone = "\n".join(expected(study_of("tiny"), "tiny", 60).lines)
    assert "its coordinator could make one" in alone
    assert "--preset moments" not in alone


def test_a_large_cohort_hears_one_line_and_no_warning(study_of):
    found = expected(study_of("moments"), "moments", 2000)
    assert found.points < WARN_POINTS < NOISE_POINTS
    assert len(found.lines) == 1
    assert "warning" not in found.lines[0]


def test_what_it_would_take_is_enough(study_of):
    """The offered number of patients, taken, loses what was said."""
    found = expected(study_of("moments", epsilon=1.0), "moments", 100)
    offer = next(line for line in found.lines if "it takes about" in line)
    units = int(offer.split("it takes about ")[1].split()[0])
    assert expected(study_of("moments", epsilon=1.0), "moments", units).points <= 10.5
