"""Runs of the kind for small cohorts: folder, account, refusals, and what the sums become."""

import numpy as np
import pytest

from edge_agent.training.moments import NoisySums, estimate
from edge_agent.training.plan import plan_for
from edge_agent.training.run import TrainOptions, train_run
from edge_agent.training.trainers import trainer_of
from federation.blueprint import weights
from federation.learning.generator import architecture as networks
from federation.learning.generator.class_gaussian import FACTOR, MEAN
from federation.learning.generator.spectrum import spectrum
from federation.study import ArchitectureRef, PersonalData, Unit
from kit.errors import KitError


@pytest.fixture
def study(make):
    from dataclasses import replace

    moments = ArchitectureRef(kind="class-gaussian", version=1, preset="moments")
    return replace(make["study"](), architectures=(moments,))


@pytest.fixture
def architecture(study):
    return networks.architecture_for(study, "moments")


def plan_of(study, architecture, *, declared=60, unit=Unit.IMAGE, steps=None):
    preset = trainer_of(architecture).private_preset(declared, architecture.side_px)
    return plan_for(study, n_declared=declared, unit=unit, preset=preset, steps=steps)


@pytest.fixture
def options(study, architecture):
    return TrainOptions(
        declared_labels=("left", "right"), plan=plan_of(study, architecture), steps=None
    )


def tensors_of(folder, architecture):
    data = (folder / "weights.safetensors").read_bytes()
    return weights.read(data, networks.expected_tensors(architecture))


def test_a_run_leaves_the_closed_list_of_files_and_charges_its_plan(
    tmp_path, study, architecture, cohort, options, ledger
):
    result = train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    assert ledger.charged == sum(event.steps for event in options.plan.events) == 2
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        ".lock",
        "architecture.json",
        "metrics.jsonl",
        "options.json",
        "privacy.json",
        "samples.png",
        "weights.safetensors",
    }
    assert result.privacy["epsilon"] <= study.privacy.epsilon
    again = train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    assert again.was_finished
    assert ledger.charged == 2


def test_rows_of_undeclared_classes_are_zero_and_declared_ones_are_not(
    tmp_path, study, architecture, cohort, options, ledger
):
    train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    rows = tensors_of(tmp_path / "run", architecture)[MEAN]
    assert rows[2].view(np.uint32).any() == np.False_
    assert (np.abs(rows[:2]).sum(axis=1) > 0).all()


def test_a_few_hundred_images_give_classes_that_can_be_told_apart(
    tmp_path, study, architecture, make, ledger
):
    cohort = make["cohort"](count=240)
    options = TrainOptions(
        declared_labels=("left", "right"), plan=plan_of(study, architecture, declared=200)
    )
    train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    found = tensors_of(tmp_path / "run", architecture)[MEAN]
    exact = spectrum(1, 8, 8).coefficients(cohort.images)[:, :36]
    means = np.array([exact[cohort.labels == label].mean(axis=0) for label in (0, 1)])
    apart = np.linalg.norm(means[0] - means[1])
    for label in (0, 1):
        assert np.linalg.norm(found[label] - means[label]) < 0.25 * apart


def test_without_privacy_the_statistics_are_those_of_the_images(
    tmp_path, architecture, study, make
):
    from dataclasses import replace

    allowing = make["study"](personal_data=PersonalData.ALLOWED)
    allowing = replace(allowing, architectures=study.architectures)
    cohort = make["cohort"](count=120)
    options = TrainOptions(declared_labels=("left", "right"), plan=None)
    train_run(tmp_path / "run", allowing, architecture, cohort, options, None)
    tensors = tensors_of(tmp_path / "run", architecture)
    exact = spectrum(1, 8, 8).coefficients(cohort.images)[:, :36]
    for label in (0, 1):
        mean = exact[cohort.labels == label].mean(axis=0)
        assert np.linalg.norm(tensors[MEAN][label] - mean) < 0.1 * np.linalg.norm(mean)
    within = np.concatenate(
        [exact[cohort.labels == k] - exact[cohort.labels == k].mean(0) for k in (0, 1)]
    )
    energy = float((tensors[FACTOR] ** 2).sum())
    assert energy == pytest.approx(float((within**2).sum() / len(within)), rel=0.35)


def test_a_run_that_was_stopped_after_a_charge_starts_anew(
    tmp_path, study, architecture, cohort, options, ledger
):
    spent = type(ledger)()
    spent.charge(1)
    with pytest.raises(KitError, match="none of them is kept"):
        train_run(tmp_path / "spent", study, architecture, cohort, options, spent)
    assert spent.charged == 1
    train_run(tmp_path / "new", study, architecture, cohort, options, ledger)


def test_other_numbers_of_steps_and_mirrored_images_are_refused(
    tmp_path, study, architecture, cohort, options, ledger
):
    from dataclasses import replace

    more = replace(options, plan=plan_of(study, architecture, steps=9))
    for wrong, message in (
        (more, "no other number of steps"),
        (replace(options, flip=True), "mirrored"),
    ):
        with pytest.raises(KitError, match=message):
            train_run(
                tmp_path / message.replace(" ", "-"), study, architecture, cohort, wrong, ledger
            )
        assert ledger.charged == 0
    train_run(tmp_path / "good", study, architecture, cohort, options, ledger)


def sums_of(rng, *, noise, classes=3, kept=36, units=200):
    power = spectrum(1, 8, 8).power
    spread = np.sqrt(power[:kept] * 20)
    means = rng.normal(size=(classes, kept)) * spread
    labels = np.arange(units) % classes
    values = means[labels] + rng.normal(size=(units, kept)) * spread
    counts = np.bincount(labels).astype(float)
    sums = np.array([values[labels == c].sum(axis=0) for c in range(classes)])
    products = rng.normal(size=(kept, kept))
    products = (np.triu(products, 1) + np.triu(products, 1).T) / np.sqrt(2) + np.diag(
        np.diag(products)
    )
    return means, NoisySums(
        counts=counts + noise * rng.normal(size=classes),
        sums=sums + noise * rng.normal(size=sums.shape),
        products=values.T @ values + noise * products,
        counts_std=noise,
        sums_std=noise,
        products_std=noise,
        total=float(units),
        pixels=64,
    )


@pytest.mark.parametrize("noise", [0.0, 1.0, 30.0, 1e4])
def test_an_estimate_is_a_law_however_large_the_noise(noise):
    power = spectrum(1, 8, 8).power
    for seed in range(5):
        _, sums = sums_of(np.random.default_rng(seed), noise=noise)
        law = estimate(sums, power)
        assert np.isfinite(law.means).all()
        assert np.isfinite(law.factor).all()
        values = np.linalg.eigvalsh(law.factor)
        assert values.min() >= -1e-9 * values.max()  # symmetric and positive semi-definite
        assert law.finer_energy >= 0


def test_noise_never_makes_samples_that_are_all_alike():
    power, exact = spectrum(1, 8, 8).power, []
    for noise in (30.0, 100.0, 1e4):
        negative = 0
        for seed in range(40):
            _, sums = sums_of(np.random.default_rng(seed), noise=noise)
            law = estimate(sums, power)
            negative += np.trace(sums.products) < 0
            energy = float((law.factor**2).sum()) + law.finer_energy
            assert energy / 64 > 0.005  # two samples differ by a tenth and more
        exact.append(negative)
    assert max(exact) >= 10, "the noise was never large enough to hide the trace"


def test_shrinking_brings_noisy_means_nearer_to_the_truth():
    power = spectrum(1, 8, 8).power
    raw, shrunk = 0.0, 0.0
    for seed in range(10):
        means, sums = sums_of(np.random.default_rng(seed), noise=60.0)
        law = estimate(sums, power)
        plain = sums.sums / (sums.total / 3)
        raw += float(((plain - means) ** 2).sum())
        shrunk += float(((law.means - means) ** 2).sum())
    assert shrunk < 0.8 * raw
