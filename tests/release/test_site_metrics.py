"""What a site may say of a release: little, rounded, once (A11)."""

import itertools

import pytest

from federation.release import site_metrics
from federation.release.site_metrics import SiteMetrics
from kit import canonical
from kit.errors import FormatError

GOOD = SiteMetrics(
    release="a" * 64,
    study_digest="b" * 64,
    images=400,
    accuracy_percent=90,
    balanced_accuracy_percent=80,
    time="2026-01-01T00:00:00Z",
    salt="c" * 64,
)


def changed(**values):
    return canonical.encode(canonical.decode(GOOD.to_bytes()) | values)


def test_a_report_reads_back_and_is_named_by_its_bytes():
    assert SiteMetrics.from_bytes(GOOD.to_bytes()) == GOOD
    assert GOOD.digest == canonical.digest(GOOD.to_bytes())
    assert SiteMetrics.from_bytes(changed(balanced_accuracy_percent=None)) != GOOD


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 2},
        {"extra": 1},
        {"release": "x"},
        {"images": 0},
        {"images": 50},
        {"images": 401},
        {"images": True},
        {"accuracy_percent": 91},
        {"accuracy_percent": 95},
        {"accuracy_percent": 110},
        {"accuracy_percent": None},
        {"accuracy_percent": "90"},
        {"balanced_accuracy_percent": 85},
        {"balanced_accuracy_percent": -10},
        {"time": "now"},
        {"salt": ""},
        {"salt": "c" * 32},
    ],
)
def test_a11_a_report_that_says_more_than_it_may_is_refused(wrong):
    assert SiteMetrics.from_bytes(changed()) == GOOD
    with pytest.raises(FormatError):
        SiteMetrics.from_bytes(changed(**wrong))


def test_a11_a_share_is_no_finer_than_the_images_can_tell_it():
    steps = {100: 20, 350: 20, 400: 10, 1500: 10, 1550: 5, 38_400: 5, 38_450: 1}
    assert {n: site_metrics.grain_percent(n) for n in steps} == steps
    grains = site_metrics.GRAINS_PERCENT
    assert all(not b % a for a, b in itertools.pairwise(grains))
    for images, grain in steps.items():
        assert grain >= 100 * 1.96 / images**0.5
    for few in (0, 50, 95):
        with pytest.raises(FormatError, match="too few"):
            site_metrics.grain_percent(few)


def test_a11_one_patient_more_or_less_is_said_by_hardly_any_figure():
    """Of all figures that 1,000 images can have, one image moves one in fifty, and never the count
    but at a multiple of 50."""
    images = 1000
    moved = sum(
        site_metrics.rounded_percent(right / images, images=images)
        != site_metrics.rounded_percent((right - 1) / (images - 1), images=images - 1)
        for right in range(1, images + 1)
    )
    assert moved <= images / 50
    assert [site_metrics.rounded_images(n) for n in (149, 150, 199, 200)] == [100, 150, 150, 200]
