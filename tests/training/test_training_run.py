import json
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from edge_agent.training import checkpoint, loop
from edge_agent.training.plan import plan_for
from edge_agent.training.run import TrainOptions, saved_plan, train_run
from federation.blueprint import weights
from federation.learning.generator.architecture import (
    Architecture,
    architecture_for,
    class_embedding_name,
    expected_tensors,
)
from federation.study import PersonalData, Unit
from kit import canonical
from kit.errors import InterruptedRunError, KitError

FILES = {
    ".lock",
    "options.json",
    "metrics.jsonl",
    "samples.png",
    "privacy.json",
    "weights.safetensors",
    "architecture.json",
}


def test_private_run_writes_exactly_its_files(
    tmp_path, study, architecture, cohort, options, ledger
):
    result = train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES
    assert ledger.charged == 1 + options.plan.steps
    assert not result.was_finished
    privacy = json.loads((tmp_path / "run/privacy.json").read_text())
    assert privacy == result.privacy
    assert privacy["mechanism"] == "gaussian-composition"
    assert [event["steps"] for event in privacy["events"]] == [1, options.plan.steps]
    assert privacy["unit"] == "image"
    assert privacy["epsilon"] == options.plan.epsilon <= 8
    assert privacy["n_times_delta"] == pytest.approx(60e-5)
    assert "if the site ran this code unmodified with secret noise" in privacy["statement"]
    described = canonical.decode((tmp_path / "run/architecture.json").read_bytes())
    assert Architecture.from_table(described) == architecture
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows[:-1]] == [1, 2, 3, 4]
    assert rows[3]["epsilon"] == pytest.approx(options.plan.epsilon, rel=1e-5)
    assert rows[-1]["epsilon_by_opacus"] == pytest.approx(options.plan.epsilon, rel=1e-6)


def test_a7_rows_of_undeclared_classes_leave_as_zeros(
    tmp_path, study, architecture, cohort, options, ledger
):
    train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    data = (tmp_path / "run/weights.safetensors").read_bytes()
    tensors = weights.read(data, expected_tensors(architecture))
    rows = tensors[class_embedding_name(architecture)]
    assert not rows[study.classes.index("absent")].any()
    assert rows[study.classes.index("left")].any()
    assert rows[study.classes.index("right")].any()


def test_a9_no_file_holds_a_seed_or_the_state_of_a_generator(
    tmp_path, study, architecture, cohort, options
):
    interrupting = Interrupting(at=2)
    with pytest.raises(InterruptedRunError):
        train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)
    with safe_open(tmp_path / "run" / checkpoint.NAME, framework="pt") as file:
        kinds = {name.split(".")[0] for name in file.keys()}  # noqa: SIM118
        moments = {n.split(".")[1] for n in file.keys() if n.startswith("adam.")}  # noqa: SIM118
        header = file.metadata()
    assert kinds == {"network", "average", "adam", "released"}
    assert moments == {"step", "exp_avg", "exp_avg_sq"}
    told = {"step", "metrics", "is_warm", "count_noise", "image_noise"}
    assert set(json.loads(header["training"])) == told
    train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)
    for path in (tmp_path / "run").iterdir():
        text = path.read_bytes().lower()
        for word in (b"seed", b"rng", b"generator", b"random", b"entropy"):
            assert word not in text, (path.name, word)


class Interrupting:
    """A ledger that presses ctrl-C at one of its charges."""

    def __init__(self, at, charged=0):
        self.charged, self._at = charged, at

    def charge(self, steps):
        self.charged += steps
        if self.charged == self._at:
            signal.raise_signal(signal.SIGINT)


def test_resumed_run_charges_exactly_the_planned_steps(
    tmp_path, study, architecture, cohort, options
):
    interrupting = Interrupting(at=2)
    with pytest.raises(InterruptedRunError) as caught:
        train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)
    assert "run the same command again" in caught.value.hint
    assert interrupting.charged == 2  # the class sums, and a step
    assert not (tmp_path / "run/weights.safetensors").exists()
    assert saved_plan(tmp_path / "run") == options.plan
    train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)
    assert interrupting.charged == 1 + options.plan.steps
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES


def test_steps_lost_in_a_crash_stay_charged(tmp_path, study, architecture, cohort, options, ledger):
    class Dying(type(ledger)):
        def charge(self, steps):
            super().charge(steps)
            if self.charged == 3:
                raise SystemError("the power went")

    dying = Dying()
    with pytest.raises(SystemError):
        train_run(tmp_path / "run", study, architecture, cohort, options, dying)
    assert dying.charged == 3
    (tmp_path / "run/.checkpoint.safetensors.abc").write_bytes(b"half")  # as a kill leaves it
    train_run(tmp_path / "run", study, architecture, cohort, options, dying)
    assert dying.charged == 1 + options.plan.steps
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line).get("step") for line in lines] == [3, 4, None]


def test_a_run_whose_every_step_was_lost_ships_no_untrained_weights(
    tmp_path, study, architecture, cohort, options, ledger
):
    ledger.charge(1 + options.plan.steps)
    with pytest.raises(KitError, match="5 steps of this run were charged, and no checkpoint"):
        train_run(tmp_path / "lost", study, architecture, cohort, options, ledger)
    assert not (tmp_path / "lost/weights.safetensors").exists()
    train_run(tmp_path / "run", study, architecture, cohort, options, type(ledger)())
    assert (tmp_path / "run/weights.safetensors").exists()


def test_a_ledger_older_than_the_checkpoint_is_refused(
    tmp_path, study, architecture, cohort, options, ledger
):
    interrupting = Interrupting(at=2)
    with pytest.raises(InterruptedRunError):
        train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)
    with pytest.raises(KitError, match="the ledger knows 0 steps"):
        train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)


def test_a9_resumed_runs_draw_fresh_noise(tmp_path, study, architecture, cohort, options):
    interrupting = Interrupting(at=2)
    with pytest.raises(InterruptedRunError):
        train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)
    kept = (tmp_path / "run" / checkpoint.NAME).read_bytes()
    averages = []
    for copy in ("one", "two"):
        folder = tmp_path / copy
        folder.mkdir()
        (folder / checkpoint.NAME).write_bytes(kept)
        state = loop.train(job(folder, architecture, cohort, options, Interrupting(-1, charged=2)))
        averages.append(torch.cat([p.flatten() for p in state.average.parameters()]))
    assert not torch.equal(*averages)
    distinct = float((averages[0] != averages[1]).float().mean())
    assert distinct > 0.99


def job(folder, architecture, cohort, options, ledger):
    from edge_agent.training.recipe import recipe_for
    from edge_agent.training.run import show_progress

    return loop.Job(
        folder=folder,
        architecture=architecture,
        cohort=cohort,
        recipe=recipe_for(architecture, plan=options.plan),
        steps=options.plan.steps,
        flip=False,
        plan=options.plan,
        ledger=ledger,
        progress=show_progress,
        declared=(0, 1),
        minimum_per_class=10,
    )


def test_finished_run_is_left_as_it_is(tmp_path, study, architecture, cohort, options, ledger):
    train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    again = train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    assert again.was_finished
    assert ledger.charged == 1 + options.plan.steps
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_folder_of_other_options_is_refused(tmp_path, study, architecture, cohort, options, ledger):
    train_run(tmp_path / "run", study, architecture, cohort, options, ledger)
    other = replace(options, flip=True)
    with pytest.raises(KitError, match="another flip"):
        train_run(tmp_path / "run", study, architecture, cohort, other, ledger)
    images = np.ascontiguousarray(cohort.images[:61])
    fewer = replace(
        cohort,
        images=images,
        labels=cohort.labels[:61],
        units=cohort.units[:61],
        digests=cohort.digests[:61],
    )
    with pytest.raises(KitError, match="another cohort"):
        train_run(tmp_path / "run", study, architecture, fewer, options, ledger)


def test_loss_that_is_not_finite_is_refused_uncharged(
    tmp_path, study, architecture, cohort, options, ledger
):
    images = cohort.images.copy()
    images[:, :, 3, 3] = np.nan
    broken = replace(cohort, images=images)
    with pytest.raises(KitError, match="values that are not finite") as caught:
        train_run(tmp_path / "bad", study, architecture, broken, options, ledger)
    assert caught.value.hint
    assert ledger.charged == 0
    assert {p.name for p in (tmp_path / "bad").iterdir()} == {"options.json", ".lock"}
    train_run(tmp_path / "good", study, architecture, cohort, options, ledger)


def test_damaged_checkpoint_is_refused_with_a_hint(
    tmp_path, study, architecture, cohort, options, ledger
):
    interrupting = Interrupting(at=2)
    with pytest.raises(InterruptedRunError):
        train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)
    whole = (tmp_path / "run" / checkpoint.NAME).read_bytes()
    (tmp_path / "run" / checkpoint.NAME).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KitError, match="cannot be read") as caught:
        train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)
    assert "stay spent" in caught.value.hint
    (tmp_path / "run" / checkpoint.NAME).write_bytes(whole)
    train_run(tmp_path / "run", study, architecture, cohort, options, interrupting)


def test_run_without_privacy_needs_a_study_that_allows_it(tmp_path, architecture, cohort, make):
    options = TrainOptions(declared_labels=("left", "right"), plan=None, steps=2)
    with pytest.raises(KitError, match="takes no blueprint trained without privacy"):
        train_run(tmp_path / "no", make["study"](), architecture, cohort, options, None)
    allowing = make["study"](personal_data=PersonalData.ALLOWED)
    result = train_run(tmp_path / "yes", allowing, architecture, cohort, options, None)
    assert result.privacy["mechanism"] == "none"
    assert "contains personal data" in result.privacy["statement"]
    assert {p.name for p in (tmp_path / "yes").iterdir()} == FILES


def test_run_without_privacy_resumes(tmp_path, architecture, cohort, make, monkeypatch):
    study = make["study"](personal_data=PersonalData.ALLOWED)
    options = TrainOptions(declared_labels=("left", "right"), plan=None, steps=3)

    class Stopping:
        def __init__(self, *_):
            pass

        def update(self, done, **_):
            if done == 2:
                signal.raise_signal(signal.SIGINT)

    run = (tmp_path / "run", study, architecture, cohort, options, None)
    with pytest.raises(InterruptedRunError, match="step 2 of 3"):
        train_run(*run, progress=Stopping)
    train_run(*run)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line).get("step") for line in lines] == [1, 2, 3, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"declared_labels": ("left",)}, "undeclared classes"),
        ({"declared_labels": ("left", "right", "middle")}, "not classes of study"),
        ({"declared_labels": ()}, "not classes of study"),
    ],
)
def test_labels_that_were_not_declared_are_refused(
    tmp_path, study, architecture, cohort, options, ledger, change, message
):
    other = replace(options, **change)
    with pytest.raises(KitError, match=message):
        train_run(tmp_path / "bad", study, architecture, cohort, other, ledger)
    assert not (tmp_path / "bad").exists()
    train_run(tmp_path / "good", study, architecture, cohort, options, ledger)


def test_fewer_units_than_declared_are_refused(tmp_path, study, architecture, make, ledger):
    plan = plan_for(study, n_declared=60, unit=Unit.PATIENT, steps=2)
    options = TrainOptions(declared_labels=("left", "right"), plan=plan)
    grouped = make["cohort"](count=120, per_unit=4)
    with pytest.raises(KitError, match="fewer patients than the 60 declared"):
        train_run(tmp_path / "bad", study, architecture, grouped, options, ledger)
    pairs = make["cohort"](count=120, per_unit=2)
    train_run(tmp_path / "good", study, architecture, pairs, options, ledger)


def test_plan_for_another_unit_is_refused(tmp_path, study, architecture, cohort, options, ledger):
    patients = replace(options, plan=replace(options.plan, unit=Unit.PATIENT))
    with pytest.raises(KitError, match="protects a patient"):
        train_run(tmp_path / "bad", study, architecture, cohort, patients, ledger)
    train_run(tmp_path / "good", study, architecture, cohort, options, ledger)


@pytest.mark.parametrize("is_private", [True, False])
def test_three_channels_28_px_and_five_classes_run(tmp_path, make, ledger, is_private):
    classes = ("a", "b", "c", "d", "e")
    study = make["study"](
        classes=classes, channels=3, side=28, preset="small", personal_data=PersonalData.ALLOWED
    )
    cohort = make["cohort"](count=50, classes=5, channels=3, side=28)
    plan = plan_for(study, n_declared=40, unit=Unit.IMAGE, steps=1) if is_private else None
    options = TrainOptions(declared_labels=classes, plan=plan, flip=True, steps=1)
    described = architecture_for(study, "small")
    result = train_run(
        tmp_path / "run", study, described, cohort, options, ledger if is_private else None
    )
    assert result.privacy["mechanism"] == ("gaussian-composition" if is_private else "none")
    assert ledger.charged == 2 * int(is_private)


def test_training_without_privacy_lowers_the_loss(tmp_path, architecture, cohort, make):
    study = make["study"](personal_data=PersonalData.ALLOWED)
    options = TrainOptions(declared_labels=("left", "right"), plan=None, steps=40)
    train_run(tmp_path / "run", study, architecture, cohort, options, None)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()[:-1]
    losses = [json.loads(line)["loss"] for line in lines]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
