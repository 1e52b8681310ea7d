"""What an operator asks for becomes a build policy of the newest version, or is refused."""

import pytest

from federation.build_policy import Calibration, Mode, Variation
from kit.errors import KitError
from tests.fakes import site


def test_what_is_not_said_is_calibrated_on_a_tenth_and_what_is_said_stands(enrolled):
    with enrolled.open() as coordinator:
        plain = site.create_study(coordinator, name="plain", shard_size=300).build
        said = site.create_study(
            coordinator,
            name="said",
            shard_size=300,
            mode="experts",
            classifier="resnet-large",
            augmentation="symmetric",
            calibration="none",
            held_out=7,
        ).build
    assert (plain.version, plain.mode, plain.classifier) == (2, Mode.MONOLITHIC, "resnet-small")
    assert plain.augmentation is Variation.STANDARD
    assert (plain.calibration, plain.held_out) == (Calibration.TEMPERATURE, 30)
    assert (said.mode, said.classifier, said.held_out) == (Mode.EXPERTS, "resnet-large", 7)
    assert (said.augmentation, said.calibration) == (Variation.SYMMETRIC, Calibration.NONE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "mixture"}, "mixture"),
        ({"classifier": "resnet-50"}, "resnet-50"),
        ({"augmentation": "flips"}, "flips"),
        ({"calibration": "isotonic"}, "isotonic"),
        ({"held_out": 5}, "held_out"),
    ],
)
def test_a_word_or_a_figure_that_no_build_knows_is_refused_before_anything_is_signed(
    enrolled, change, message
):
    with enrolled.open() as coordinator:
        site.create_study(coordinator, name="good", held_out=4)
        with pytest.raises(KitError, match=message):
            site.create_study(coordinator, name="bad", **change)
