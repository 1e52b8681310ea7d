"""The gate passes real and blurred images, and stops replays, on handwritten digits."""

import json
import math
from contextlib import nullcontext

import numpy as np
import pytest

from edge_agent.gate.near_copies import MIN_HELD_OUT_IMAGES
from edge_agent.gate.pixels import MAX_REFERENCES
from edge_agent.gate.review import review
from edge_agent.gate.verdict import Outcome
from federation.learning.downstream.support import support_size
from federation.learning.methods.federated_factory import review_class
from kit import canonical
from kit.errors import KitError
from tests.gate.cohorts import check, digits, make_cohort

IMAGES, LABELS = digits()
SEEDS = (0, 1, 2)
PASSED, FAILED = Outcome.PASSED, Outcome.FAILED


def outcomes(report):
    return {c.name: c.outcome for c in report.checks if c.outcome is not Outcome.CANNOT_TELL}


class Site:
    """A site with some classes: training images, held-out ones, and a source of choices."""

    def __init__(self, seed: int, classes: tuple[int, ...] = (4, 5, 6)) -> None:
        self.rng = np.random.default_rng(seed)
        order = self.rng.permutation(np.flatnonzero(np.isin(LABELS, classes)))
        held, train = order[: len(order) // 4], order[len(order) // 4 :]
        self.cohort = make_cohort(IMAGES[train], LABELS[train])
        self.held_out, self.held_labels = IMAGES[held], LABELS[held]

    def replay(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.rng.integers(0, len(self.cohort.images), n)
        return self.cohort.images[chosen], self.cohort.labels[chosen]

    def noise(self, like: np.ndarray, scale: float) -> np.ndarray:
        return (like + scale * self.rng.standard_normal(like.shape)).astype(np.float32)


def blur(images: np.ndarray, passes: int) -> np.ndarray:
    for _ in range(passes):
        padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        rows = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
        images = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    return images.astype(np.float32)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [(0, 1, 2, 3), (4, 5, 6), (8,)])
def test_real_images_that_were_not_trained_on_pass(seed: int, classes: tuple[int, ...]) -> None:
    site = Site(seed, classes)
    report = check(site.held_out, site.held_labels, site.cohort)
    assert report.passed, report
    assert outcomes(report) == {"review": PASSED, "support": PASSED, "near-copies": PASSED}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [0.0, 0.01, 0.05, 0.2])
def test_a_replay_of_the_training_images_fails(seed: int, scale: float) -> None:
    site = Site(seed)
    samples, labels = site.replay(150)
    assert check(site.held_out, site.held_labels, site.cohort).passed
    report = check(site.noise(samples, scale), labels, site.cohort)
    assert not report.passed
    assert outcomes(report)["near-copies"] is FAILED


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mirrored_or_blurred_replay_fails(seed: int) -> None:
    site = Site(seed)
    samples, labels = site.replay(150)
    assert not check(samples[..., ::-1], labels, site.cohort).passed
    assert not check(blur(samples, 1), labels, site.cohort).passed


@pytest.mark.parametrize("seed", SEEDS)
def test_a_replay_under_wrong_labels_fails(seed: int) -> None:
    site = Site(seed)
    samples, labels = site.replay(150)
    assert not check(samples, site.rng.permutation(labels), site.cohort).passed


@pytest.mark.parametrize("seed", SEEDS)
def test_blurred_and_noisy_samples_of_a_private_generator_pass(seed: int) -> None:
    site = Site(seed)
    for softened in (blur(site.held_out, 1), blur(site.held_out, 3), blur(site.held_out, 6)):
        for scale in (0.0, 0.1, 0.4):
            samples = site.noise(softened, scale)
            assert check(samples, site.held_labels, site.cohort).passed


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_about_the_class_means_passes(seed: int) -> None:
    site = Site(seed)
    means = {c: site.cohort.images[site.cohort.labels == c].mean(axis=0) for c in (4, 5, 6)}
    samples = np.stack([means[c] for c in site.held_labels])
    assert check(site.noise(samples, 0.2), site.held_labels, site.cohort).passed


@pytest.mark.parametrize("seed", SEEDS)
def test_one_copy_in_five_fails(seed: int) -> None:
    site = Site(seed)
    samples, labels = site.held_out.copy(), site.held_labels.copy()
    copies, of_class = site.replay(len(samples) // 5)
    samples[: len(copies)], labels[: len(copies)] = copies, of_class
    report = check(samples, labels, site.cohort)
    assert outcomes(report) == {"review": PASSED, "support": PASSED, "near-copies": FAILED}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_collapsed_class_fails_by_its_support(seed: int) -> None:
    site = Site(seed)
    samples, labels = site.held_out.copy(), site.held_labels
    collapsed = np.flatnonzero(labels == 5)
    samples[collapsed] = samples[collapsed[0]]
    report = check(samples, labels, site.cohort)
    assert outcomes(report) == {"review": FAILED, "support": FAILED, "near-copies": PASSED}
    assert all("class 5" in check.words for check in report.checks[:2])


@pytest.mark.parametrize("seed", SEEDS)
def test_held_out_images_say_what_is_usual(seed: int) -> None:
    site = Site(seed)
    half = len(site.held_out) * 3 // 4
    others = make_cohort(site.held_out[:half], site.held_labels[:half], units=names(half, "h"))
    assert len(others.images) >= MIN_HELD_OUT_IMAGES
    fresh, labels = site.held_out[half:], site.held_labels[half:]
    assert check(fresh, labels, site.cohort, others).passed
    for copies, of_class in (site.replay(150), site.replay(150)):
        report = check(site.noise(copies, 0.1), of_class, site.cohort, others)
        assert outcomes(report)["near-copies"] is FAILED


def names(count: int, prefix: str) -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


def test_slices_of_one_patient_do_not_hide_a_replay() -> None:
    site = Site(0)
    patients = [f"p{i}" for i in range(len(site.cohort.images)) for _ in range(3)]
    slices = np.repeat(site.cohort.images, 3, axis=0)
    cohort = make_cohort(site.noise(slices, 0.02), np.repeat(site.cohort.labels, 3), units=patients)
    chosen = site.rng.integers(0, len(slices), 150)
    assert check(site.held_out, site.held_labels, cohort).passed
    report = check(cohort.images[chosen], cohort.labels[chosen], cohort)
    assert outcomes(report)["near-copies"] is FAILED


@pytest.mark.parametrize("sides", [(64, 64), (70, 41), (8, 512)])
def test_large_images_are_judged_as_small_ones(sides: tuple[int, int]) -> None:
    site = Site(0)
    rows, columns = (np.arange(side) * 8 // side for side in sides)

    def enlarge(images: np.ndarray) -> np.ndarray:
        return images[..., rows, :][..., columns]

    cohort = make_cohort(enlarge(site.cohort.images), site.cohort.labels)
    samples, labels = site.replay(150)
    assert check(enlarge(site.held_out), site.held_labels, cohort).passed
    for copies in (samples, samples[..., ::-1], site.noise(samples, 0.1)):
        assert not check(enlarge(copies), labels, cohort).passed


def test_calibration_takes_a_bounded_part_of_many_images() -> None:
    rng = np.random.default_rng(0)
    many = rng.standard_normal((3 * MAX_REFERENCES // 2, 1, 8, 8)).astype(np.float32)
    cohort = make_cohort(many, np.zeros(len(many), dtype=np.int64))
    fresh = rng.standard_normal((100, 1, 8, 8)).astype(np.float32)
    labels = np.zeros(100, dtype=np.int64)
    assert check(fresh, labels, cohort).passed
    assert not check(many[1:200:2][:100], labels[:100], cohort).passed


def test_the_order_of_the_cohort_does_not_matter() -> None:
    site = Site(1)
    mixed = site.rng.permutation(len(site.cohort.images))
    other = site.cohort.part(mixed)
    one = check(site.held_out, site.held_labels, site.cohort)
    two = check(site.held_out, site.held_labels, other)
    assert [c.value for c in one.checks] == pytest.approx([c.value for c in two.checks])


def test_the_report_is_canonical_json() -> None:
    site = Site(0)
    table = json.loads(
        canonical.encode(check(site.held_out, site.held_labels, site.cohort).to_table())
    )
    assert table["passed"] is True
    assert [c["name"] for c in table["checks"]] == [
        "review",
        "support",
        "near-copies",
        "membership",
        "one-run",
    ]


def test_samples_that_are_not_finite_are_refused() -> None:
    site = Site(0)
    assert check(site.held_out, site.held_labels, site.cohort).passed
    for bad in (math.nan, math.inf):
        samples = site.held_out.copy()
        samples[3, 0, 0, 0] = bad
        with pytest.raises(KitError, match="not finite"):
            check(samples, site.held_labels, site.cohort)
    with pytest.raises(KitError, match="no samples"):
        check(site.held_out[:0], site.held_labels[:0], site.cohort)
    with pytest.raises(RuntimeError, match="shapes"):
        check(site.held_out[..., :4], site.held_labels, site.cohort)


def test_a_cohort_of_almost_nobody_is_refused() -> None:
    site = Site(0)
    few = make_cohort(site.cohort.images[:4], site.cohort.labels[:4], units=["a", "b", "c", "d"])
    assert check(site.held_out, site.held_labels, few)
    fewer = make_cohort(site.cohort.images[:4], site.cohort.labels[:4], units=["a", "b", "c", "c"])
    with pytest.raises(KitError, match="under 4 units"):
        check(site.held_out, site.held_labels, fewer)


@pytest.mark.parametrize("support", [5, 50, 500, 5000])
def test_the_birthday_estimate_finds_the_support(support: int) -> None:
    rng = np.random.default_rng(support)
    estimates = [
        support_size(512, len(set(rng.integers(0, support, 512).tolist()))) for _ in range(40)
    ]
    assert 0.8 * support < np.median(estimates) < 1.25 * support


def test_the_birthday_estimate_is_monotone_and_bounded_without_a_collision() -> None:
    estimates = [support_size(64, distinct) for distinct in range(1, 65)]
    assert estimates == sorted(estimates)
    assert estimates[-1] == 64 * 64 / 2


def test_what_intake_would_refuse_does_not_leave() -> None:
    site = Site(0)
    alike = np.repeat(site.held_out[:1], 64, axis=0)
    rng = np.random.default_rng(0)
    for scale, passes in ((0.2, True), (0.01, False)):
        samples = alike + scale * rng.standard_normal(alike.shape).astype(np.float32)
        found = review(samples, np.full(64, 5), minimum_per_class=10)
        assert (found.outcome is PASSED) is passes
        with nullcontext() if passes else pytest.raises(KitError, match="image"):
            review_class(samples, minimum_per_class=10)
    assert "the coordinator would refuse it" in found.words
