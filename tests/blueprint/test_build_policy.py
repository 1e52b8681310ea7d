"""The build policy: versions, ranges, and which blueprints it can make something of."""

from dataclasses import replace

import pytest

from federation.build_policy import BuildPolicy, Calibration, Mode, Variation
from federation.study import Study
from kit import canonical
from kit.errors import FormatError

FIRST = {
    "version": 1,
    "shard_size": 16,
    "sampler_steps": 3,
    "classifier": "resnet-small",
    "classifier_steps": 5,
}
SECOND = FIRST | {
    "version": 2,
    "mode": "monolithic",
    "augmentation": "standard",
    "calibration": "temperature",
    "held_out": 2,
}


def test_a_policy_of_version_1_reads_back_as_written_and_means_what_it_always_did(world):
    policy = BuildPolicy.of(FIRST)
    assert policy.to_table() == FIRST
    assert (policy.mode, policy.augmentation) == (Mode.MONOLITHIC, Variation.STANDARD)
    assert (policy.calibration, policy.held_out) == (Calibration.NONE, 0)
    study = replace(world.study, build=policy)
    assert canonical.decode(study.to_bytes())["build"] == FIRST
    assert Study.from_bytes(study.to_bytes()) == study


def test_a_policy_of_version_2_reads_back_and_every_figure_is_part_of_the_digest(world):
    policy = BuildPolicy.of(SECOND)
    assert policy.to_table() == SECOND
    study = replace(world.study, build=policy)
    assert Study.from_bytes(study.to_bytes()) == study
    changes = {
        "shard_size": 17,
        "sampler_steps": 4,
        "classifier": "resnet-large",
        "classifier_steps": 6,
        "mode": "experts",
        "augmentation": "none",
        "calibration": "none",
        "held_out": 3,
    }
    others = [replace(study, build=BuildPolicy.of(SECOND | {n: v})) for n, v in changes.items()]
    assert len({study.digest, *(other.digest for other in others)}) == len(changes) + 1


@pytest.mark.parametrize(
    "change",
    [
        {"version": 3},
        {"version": True},
        {"version": 1},
        {"mode": "mixture"},
        {"augmentation": "flips"},
        {"calibration": "isotonic"},
        {"held_out": 1},
        {"held_out": 9},
        {"held_out": True},
        {"shard_size": 100_001},
        {"classifier_steps": 0},
        {"classifier": "../x"},
        {"more": 1},
    ],
)
def test_a_policy_with_one_wrong_field_is_refused(change):
    assert BuildPolicy.of(SECOND).version == 2
    with pytest.raises(FormatError):
        BuildPolicy.of(SECOND | change)


def test_version_1_takes_no_field_of_version_2():
    assert BuildPolicy.of(FIRST).version == 1
    with pytest.raises(FormatError):
        BuildPolicy.of(FIRST | {"mode": "experts"})


def test_experts_want_two_classes_of_a_blueprint_and_one_classifier_does_not():
    policy = BuildPolicy.of(SECOND)
    policy.require_outputs(("a",))
    experts = replace(policy, mode=Mode.EXPERTS)
    experts.require_outputs(("a", "b"))
    with pytest.raises(FormatError, match="single class") as refusal:
        experts.require_outputs(("a",))
    assert "monolithic" in refusal.value.hint
