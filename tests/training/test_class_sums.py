"""The first release of a private run: what one unit may move, that noise is on it, and that every
use of it comes after the noise. The planted bugs come from outside; the product has no hook."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from edge_agent.datasets.examples import Cohort
from edge_agent.training import checkpoint, class_sums, loop
from edge_agent.training.class_sums import release, sums
from edge_agent.training.run import train_run
from edge_agent.training.sampler import unit_table
from federation.study import Unit
from kit.errors import InterruptedRunError, KitError
from tests.training.test_training_run import Interrupting

SIGMA, Z = 3.0, 6.0
CLASSES = np.array([0, 1, 2])


def cohort_of(units: list[tuple[list[int], float]], *, side: int = 8) -> Cohort:
    """Return a cohort of units, each given by the classes of its images and their grey value."""
    labels = np.array([label for classes, _ in units for label in classes], dtype=np.int64)
    grey = np.array([value for classes, value in units for _ in classes], dtype=np.float32)
    return Cohort(
        images=np.broadcast_to(grey[:, None, None, None], (len(grey), 1, side, side)).copy(),
        labels=labels,
        units=tuple(f"p{i}" for i, (classes, _) in enumerate(units) for _ in classes),
        digests=tuple(f"d{i}" for i in range(len(grey))),
        unit_kind=Unit.PATIENT,
    )


CROWD = [([0], 0.2)] * 30 + [([1], -0.4)] * 20
ONE_MORE = [  # the vectors of largest norm that a patient can have
    ([0], 1.0),
    ([2], -1.0),
    ([1] * 50, 1.0),
    ([0, 0, 1, 2], -1.0),
    ([0, 1, 2] * 9, 0.5),
    ([0], 7.0),  # beyond what a pixel may be
]


@dataclass(frozen=True)
class Evidence:
    one_unit_moves_the_sums_by_at_most_one: bool
    noise_is_sigma: bool
    noise_is_fresh: bool


def evidence() -> Evidence:
    crowd = sums(cohort_of(CROWD), CLASSES)
    moved = [float(np.linalg.norm(sums(cohort_of([*CROWD, u]), CLASSES) - crowd)) for u in ONE_MORE]
    empty = cohort_of([([2], 0.0)])
    # rows 0 and 1 have no unit: their pixels are noise alone
    found = [release(empty, CLASSES, noise_multiplier=SIGMA) for _ in range(20)]
    pixels = np.stack([f.images[:2] / f.image_noise for f in found])
    deviation = math.sqrt(2 / pixels.size)
    return Evidence(
        one_unit_moves_the_sums_by_at_most_one=max(moved) <= 1 + 1e-9,
        noise_is_sigma=abs((pixels**2).mean() - 1) < Z * deviation,
        noise_is_fresh=not np.array_equal(pixels[0], pixels[1]),
    )


def no_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        class_sums, "secret_noise", lambda shape, *, std: torch.zeros(shape, dtype=torch.float64)
    )


def noise_that_is_reused(patch: pytest.MonkeyPatch) -> None:
    def noise(shape, *, std):
        return std * torch.randn(shape, generator=torch.Generator().manual_seed(4)).double()

    patch.setattr(class_sums, "secret_noise", noise)


def a_unit_per_image(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        class_sums, "unit_table", lambda units: unit_table([str(i) for i in range(len(units))])
    )


def no_bound_on_the_pixels(patch: pytest.MonkeyPatch) -> None:
    def vector(image, share):
        scale = class_sums.IMAGE_PART / math.sqrt(len(image))
        return np.concatenate([[class_sums.COUNT_PART * share], image * scale])

    patch.setattr(class_sums, "_vector", vector)


def counts_beside_the_bound(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(class_sums, "COUNT_PART", 1.0)


@pytest.mark.parametrize(
    ("plant", "caught_by"),
    [
        (no_noise, "noise_is_sigma"),
        (noise_that_is_reused, "noise_is_fresh"),
        (a_unit_per_image, "one_unit_moves_the_sums_by_at_most_one"),
        (no_bound_on_the_pixels, "one_unit_moves_the_sums_by_at_most_one"),
        (counts_beside_the_bound, "one_unit_moves_the_sums_by_at_most_one"),
    ],
)
def test_a_bug_planted_in_the_first_release_is_caught(plant: Callable, caught_by: str) -> None:
    assert evidence() == Evidence(*[True] * 3)
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        found = evidence()
    assert not getattr(found, caught_by)


def test_the_bound_on_a_unit_is_met_and_not_by_far() -> None:
    crowd = sums(cohort_of(CROWD), CLASSES)
    moved = sums(cohort_of([*CROWD, ([1] * 50, 1.0)]), CLASSES) - crowd
    assert np.linalg.norm(moved) == pytest.approx(1, rel=1e-6)


def test_counts_and_means_are_those_of_the_units_but_for_the_noise() -> None:
    cohort = cohort_of([([0], 0.6)] * 4000 + [([1], -0.2)] * 3000 + [([0, 1], 0.2)] * 1000, side=16)
    found = release(cohort, CLASSES, noise_multiplier=SIGMA)
    assert np.abs(found.counts - [4500, 3500, 0]).max() < Z * found.count_noise
    assert found.images.shape == (3, 1, 8, 8)
    means = found.means()
    assert np.abs(means[0] - (4000 * 0.6 + 500 * 0.2) / 4500).max() < 0.1
    assert np.abs(means[1] - (-3000 * 0.2 + 500 * 0.2) / 3500).max() < 0.1
    assert np.abs(means).max() <= 1


def test_a12_no_exact_count_decides_whether_a_class_is_trained_on() -> None:
    minimum = 10
    at_the_boundary = cohort_of([([0], 0.1)] * minimum + [([1], 0.1)] * 200)
    decided = np.stack(
        [release(at_the_boundary, CLASSES, noise_multiplier=2.0).enough(minimum) for _ in range(60)]
    )
    assert 5 < decided[:, 0].sum() < 55  # a fair coin: neither one more nor one less shows
    assert decided[:, 1].all()
    with pytest.MonkeyPatch.context() as patch:
        no_noise(patch)
        exact = release(at_the_boundary, CLASSES, noise_multiplier=2.0)
    assert exact.enough(minimum).tolist() == [True, True, False]


def test_a_class_that_seems_too_small_takes_no_part(
    tmp_path, study, architecture, cohort, options, ledger, monkeypatch
):
    seen = []
    real = loop.Batches.of.__func__

    def of(cls, job):
        seen.append(sorted(set(job.cohort.labels.tolist())))
        return real(cls, job)

    monkeypatch.setattr(loop.Batches, "of", classmethod(of))
    train_run(tmp_path / "both", study, architecture, cohort, options, ledger)
    many = replace(study, minimum_per_class=1000)
    with pytest.raises(KitError, match="no declared class seems to have 1000 units") as caught:
        train_run(tmp_path / "none", many, architecture, cohort, options, type(ledger)())
    assert "is charged" in caught.value.hint
    few = cohort.labels == 1
    few[np.flatnonzero(few)[0]] = False
    thin = replace(
        cohort,
        images=np.concatenate([cohort.images[~few]] * 2),
        labels=np.concatenate([cohort.labels[~few]] * 2),
        units=tuple(f"u{i}" for i in range(2 * int((~few).sum()))),
        digests=tuple(f"d{i}" for i in range(2 * int((~few).sum()))),
    )
    larger = replace(study, minimum_per_class=30)
    train_run(tmp_path / "one", larger, architecture, thin, options, type(ledger)())
    assert seen == [[0, 1], [0]]


def test_the_first_release_is_made_once_and_used_after_a_resume(
    tmp_path, study, architecture, cohort, options
):
    interrupting = Interrupting(at=1)
    with pytest.raises(InterruptedRunError, match="warm-up"):
        train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)
    assert interrupting.charged == 1
    released = _released(tmp_path / "run")
    interrupting._at = 3
    with pytest.raises(InterruptedRunError, match="step 2 of 4"):
        train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)
    assert all(
        np.array_equal(a, b) for a, b in zip(released, _released(tmp_path / "run"), strict=True)
    )
    train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)
    assert interrupting.charged == 1 + options.plan.steps


def test_a_release_that_was_charged_and_lost_is_not_made_again(
    tmp_path, study, architecture, cohort, options, ledger
):
    ledger.charge(1)
    with pytest.raises(KitError, match="1 steps of this run were charged, and no checkpoint"):
        train_run(tmp_path / "lost", study, architecture, cohort, options, ledger)
    train_run(tmp_path / "run", study, architecture, cohort, options, type(ledger)())


def _released(folder) -> tuple[np.ndarray, np.ndarray]:
    from safetensors import safe_open

    with safe_open(folder / checkpoint.NAME, framework="np") as file:
        return file.get_tensor("released.counts"), file.get_tensor("released.images")
