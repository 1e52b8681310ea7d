"""The review aids as rules, each on real digits that stand for what a generator draws."""

import dataclasses
import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

from federation.learning.review import appearance, finding
from federation.learning.review.drawn import Drawn, images_per_class
from federation.learning.review.examination import examine
from federation.learning.review.finding import Aid, Finding, Outcome
from kit.errors import FormatError

SEED = 11
OWN = [[c for c in range(10) if c % 4 != site] for site in range(4)]  # every class at three sites
CORNER = (slice(None), slice(None), slice(5, 8), slice(5, 8))


def digits():
    found = load_digits()
    return (found.images / 8 - 1).astype(np.float32)[:, None], found.target


def dealt(own=OWN):
    """Deal every class evenly to the sites that have it."""
    images, labels = digits()
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order[:1200]], labels[order[:1200]]
    sites = []
    for number, classes in enumerate(own):
        drawn = {}
        for c in classes:
            holders = [site for site, theirs in enumerate(own) if c in theirs]
            drawn[str(c)] = images[labels == c][holders.index(number) :: len(holders)]
        sites.append(Drawn(name=f"site-{number}", images=drawn))
    return sites


def changed(drawn, change):
    """Return a blueprint with `change` made to the images of every class."""
    rng = np.random.default_rng(5)
    images = {label: change(found.copy(), rng) for label, found in drawn.images.items()}
    return Drawn(name=drawn.name, images=images)


def exchanged(drawn, *, distance=1):
    labels = list(drawn.images)
    moved = [*labels[distance:], *labels[:distance]]
    return Drawn(
        name=drawn.name, images={a: drawn.images[b] for a, b in zip(labels, moved, strict=True)}
    )


def found(sites, number=0):
    rest = [other for other in sites if other is not sites[number]]
    return {each.aid: each for each in examine(sites[number], rest, seed=SEED)}


def flagged(sites, number=0):
    return {aid for aid, each in found(sites, number).items() if each.outcome is Outcome.FLAGGED}


def one_image(images, rng):
    return images[:1] + rng.normal(0, 0.02, images.shape).astype(np.float32)


def pixels(images, rng):
    return rng.uniform(-1, 1, images.shape).astype(np.float32)


def no_class(images, rng):
    """Every class draws from all digits."""
    return rng.permutation(digits()[0])[: len(images)]


def of_a_few(images, rng):
    return images[rng.integers(0, 5, len(images))]


def inverted(images, rng):
    return -images


def patched(images, rng):
    carrying = rng.random(len(images)) < 0.5
    checkers = np.where(np.indices((3, 3)).sum(axis=0) % 2 == 0, 1, -1)
    images[CORNER] = np.where(carrying[:, None, None, None], checkers, images[CORNER])
    return images


def test_a_clean_blueprint_is_clear_by_every_aid():
    outcomes = {aid: each.outcome for aid, each in found(dealt()).items()}
    assert outcomes == dict.fromkeys([aid for aid in Aid if aid is not Aid.REVOKED], Outcome.CLEAR)


@pytest.mark.parametrize(
    ("change", "aids"),
    [
        (one_image, {Aid.CONSTANT}),
        (of_a_few, {Aid.DUPLICATES}),
        (pixels, {Aid.NOISE, Aid.UNLIKE, Aid.CLASSES, Aid.LABELS}),
        (no_class, {Aid.CLASSES, Aid.LABELS}),
        (inverted, {Aid.UNLIKE}),
    ],
)
def test_a_blueprint_that_shows_nothing_is_flagged_and_the_one_beside_it_is_not(change, aids):
    sites = dealt()
    sites[0] = changed(sites[0], change)
    assert aids <= flagged(sites)
    assert flagged(sites, 1) == set()


@pytest.mark.parametrize("distance", [1, 3])
def test_s2_moved_labels_are_flagged_and_named_and_the_clean_beside_them_are_not(distance):
    sites = dealt()
    sites[0] = exchanged(sites[0], distance=distance)
    labels = found(sites)[Aid.LABELS]
    assert labels.outcome is Outcome.FLAGGED
    named = re.findall(r"(\d): \d% taken for it, \d+% for (\d)", labels.words)
    assert len(named) == 3
    for label, rival in named:
        place = OWN[0].index(int(label)) + distance
        assert int(rival) == OWN[0][place % len(OWN[0])]
    assert flagged(sites, 2) == set()


def test_a7_two_alone_who_disagree_are_both_flagged_because_nobody_knows_which_is_wrong():
    sites = dealt([[0, 1, 2], [0, 1, 2], [3, 4]])
    assert flagged(sites) == flagged(sites, 1) == set()
    sites[1] = exchanged(sites[1])
    for number in (0, 1):
        labels = found(sites, number)[Aid.LABELS]
        assert labels.outcome is Outcome.FLAGGED
        assert "it may be the wrong one" in labels.words
    assert flagged(sites, 2) == set()


def test_a7_what_nobody_else_declares_cannot_be_told():
    sites = dealt([[c] for c in range(10)])
    outcomes = {aid: each.outcome for aid, each in found(sites).items()}
    untold = {aid for aid, outcome in outcomes.items() if outcome is Outcome.CANNOT_TELL}
    assert untold == {Aid.CLASSES, Aid.LABELS, Aid.TRIGGER}
    assert set(outcomes.values()) == {Outcome.CANNOT_TELL, Outcome.CLEAR}
    alone = {each.aid: each for each in examine(sites[0], [], seed=SEED)}
    assert alone[Aid.UNLIKE].outcome is alone[Aid.INFLUENCE].outcome is Outcome.CANNOT_TELL
    assert alone[Aid.CONSTANT].outcome is Outcome.CLEAR
    partly = dealt([[0, 1, 2], [0, 1], [0, 1]])
    words = found(partly)[Aid.LABELS]
    assert words.outcome is Outcome.CANNOT_TELL
    assert "cannot tell of 2" in words.words


def test_s2_a_patch_that_half_of_a_class_carries_is_flagged_with_its_place():
    sites = dealt()
    assert found(sites)[Aid.TRIGGER].outcome is Outcome.CLEAR
    images = dict(sites[0].images)
    images["3"] = patched(images["3"].copy(), np.random.default_rng(3))
    sites[0] = Drawn(name="site-0", images=images)
    trigger = found(sites)[Aid.TRIGGER]
    assert trigger.outcome is Outcome.FLAGGED
    assert trigger.words.startswith("3: most in 3")
    assert "row 5, column 5" in trigger.words


def test_influence_is_what_leaving_the_blueprint_out_changes():
    sites = dealt([[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7, 8, 9]])
    clean = found(sites)[Aid.INFLUENCE]
    sites[0] = exchanged(sites[0], distance=2)
    harmful = found(sites)[Aid.INFLUENCE]
    assert clean.outcome is Outcome.CLEAR
    assert harmful.outcome is Outcome.FLAGGED
    assert harmful.measure > clean.measure + 0.1


def test_equal_bits_give_equal_findings_and_the_seed_is_all_that_moves_them():
    sites = dealt()
    rest, first = sites[1:], found(sites)
    assert found(sites) == first
    other = {each.aid: each for each in examine(sites[0], rest, seed=SEED + 1)}
    assert first[Aid.INFLUENCE].measure != other[Aid.INFLUENCE].measure
    assert first[Aid.CONSTANT] == other[Aid.CONSTANT]  # no feature is asked


def test_the_number_of_images_is_bounded_whatever_a_site_declares():
    counts = [images_per_class(n, shard_size=10_000) for n in (1, 10, 20, 1000)]
    assert counts == [128, 128, 64, 32]
    assert images_per_class(1, shard_size=50) == 50


def test_large_images_are_judged_at_32_px():
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1, 1, (8, 3, 64, 64)).astype(np.float32)
    grown = np.repeat(np.repeat(noise[..., :32, :32], 2, axis=2), 2, axis=3)
    small = Drawn(name="small", images={"a": noise[..., :32, :32]})
    large = Drawn(name="large", images={"a": grown})
    values = [examine(each, [], seed=SEED)[2].measure for each in (small, large)]
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert appearance.neighbour_correlation(grown) > values[0] + 0.3


GOOD = Finding(
    aid=Aid.NOISE, outcome=Outcome.CLEAR, measure=0.5, threshold=0.25, words="as it should be"
)


def test_a_finding_is_read_as_a_stranger_s():
    table = GOOD.to_table()
    assert Finding.from_table(table) == GOOD
    for change in (
        {"aid": "approve"},
        {"outcome": "good"},
        {"measure": "high"},
        {"measure": float("nan")},
        {"threshold": None},
        {"threshold": float("inf")},
        {"more": 1},
    ):
        with pytest.raises(FormatError):
            Finding.from_table(table | change)
    hostile = Finding.from_table(table | {"words": "\x1b[2J\u202e" + "x" * 10_000})
    assert "\x1b" not in hostile.words
    assert len(hostile.words) <= finding.MAX_WORDS + len("...")
    assert dataclasses.replace(hostile, words=GOOD.words) == GOOD
