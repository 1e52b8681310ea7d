"""Step 23: the hostile models, each with one fault. They are made here: a real network is too large
to stand among the vectors of the other steps."""

from types import SimpleNamespace

import pytest
import torch

from coordinator import reviews, submissions
from coordinator.intake import limited, model_check, supervisor
from federation.blueprint import weights
from federation.learning.downstream.support import REPLAY_FACTOR
from federation.learning.generator import architecture as networks
from kit.errors import KitError
from tests.fakes import federation, runs, site
from tests.fakes.sealing import append, begin_fields, sealed

STUDY = federation.found().study
NETWORK = networks.Architecture(
    kind=networks.DIFFUSION.name,
    version=networks.DIFFUSION.version,
    preset="tiny",
    channels=1,
    height=8,
    width=8,
    num_classes=len(STUDY.classes),
)
STATEMENT = SimpleNamespace(outputs=("cat",), architecture=NETWORK.to_table())
OUT = "unet.conv_out"


def tensors():
    return runs.random_tensors(NETWORK, STUDY, STUDY.classes, seed=3)


def everything(value):
    def change(arrays):
        for array in arrays.values():
            array[:] = value

    return change


def output(weight, bias):
    def change(arrays):
        arrays[f"{OUT}.weight"][:], arrays[f"{OUT}.bias"][:] = weight, bias

    return change


def one_picture(arrays):
    """Let the edges, where a convolution meets its padding, be dark and the rest bright."""
    arrays["unet.conv_norm_out.weight"][:] = 0
    arrays["unet.conv_norm_out.bias"][:] = 1
    channels = arrays[f"{OUT}.weight"].shape[1]
    inner = 9 * channels * float(torch.nn.functional.silu(torch.tensor(1.0)))
    arrays[f"{OUT}.weight"][:] = 9_000 / inner
    arrays[f"{OUT}.bias"][:] = -9_000 * 7.5 / 9


FAULTS = {
    "large weights everywhere": (everything(500), "not finite"),
    "large negative weights everywhere": (everything(-500), "not finite"),
    "white pictures": (output(0, 100), "constant"),
    "black pictures": (output(0, -9e3), "constant"),
    "one picture for every seed": (one_picture, "the same image"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_step_23_refuses_a_model_that_shows_nothing(fault):
    change, reason = FAULTS[fault]
    good, bad = tensors(), tensors()
    model_check.check(good, STATEMENT, STUDY, b"secret")
    change(bad)
    weights.write(bad)  # step 22 takes it
    with pytest.raises(KitError, match=reason):
        model_check.check(bad, STATEMENT, STUDY, b"secret")


def few_pictures(monkeypatch, count):
    """Let the sampler draw from `count` pictures: a replay, as the check would see it."""
    pictures = torch.rand((count, 1, 8, 8), generator=torch.Generator().manual_seed(0)) * 2 - 1

    def drawn(_network, _architecture, labels, *, seed, **_):
        chosen = torch.randint(
            0, count, (len(labels),), generator=torch.Generator().manual_seed(seed)
        )
        return pictures[chosen]

    monkeypatch.setattr(model_check, "sample", drawn)


def test_step_23_refuses_a_replay_of_fewer_images_than_a_class_must_have(monkeypatch):
    assert STUDY.minimum_per_class * REPLAY_FACTOR >= 8
    few_pictures(monkeypatch, 5000)
    found = model_check.check(tensors(), STATEMENT, STUDY, b"secret")
    assert set(found) == set(STATEMENT.outputs)
    assert all(support.samples == 64 for support in found.values())
    few_pictures(monkeypatch, STUDY.minimum_per_class)
    with pytest.raises(KitError, match="repeats a handful of images: 64 samples show"):
        model_check.check(tensors(), STATEMENT, STUDY, b"secret")


def test_the_verdict_of_a_check_is_read_as_a_stranger_s():
    good = {"cat": [64, 60], "dog": [64, 64]}
    statement = SimpleNamespace(outputs=("cat", "dog"))
    assert supervisor._support(good, statement) == good
    for bad in (
        None,
        {},
        {"cat": [64, 60]},
        good | {"eel": [64, 64]},
        good | {"dog": [64, 65]},
        good | {"dog": [64, 0]},
        good | {"dog": [64]},
        good | {"dog": ["64", 3]},
        good | {"dog": [10**9, 3]},
    ):
        with pytest.raises(limited.CheckFailedError, match="no readable verdict"):
            supervisor._support(bad, statement)


def test_step_23_is_named_in_the_reason_and_refuses_for_good(tmp_path, tmp_path_factory):
    enrolled = site.copy("enrolled", tmp_path, tmp_path_factory.getbasetemp())
    home = enrolled.home("a")
    study, labels = home.study(site.STUDY), site.LABELS["a"]
    white = runs.random_tensors(networks.architecture_for(study, "tiny"), study, labels, seed=3)
    output(0, 100)(white)
    run = runs.write_run(home, study, labels, name="white", tensors=white)
    with enrolled.open() as coordinator:
        refused = take_in(coordinator, home, run)
        control = take_in(coordinator, enrolled.home("b"), site.STUDY)
        shown = {review.site: review.support for review in reviews.list_reviews(coordinator)}
    assert refused.state == "refused"
    assert refused.reason.startswith("step 23: ")
    assert (control.state, control.reason) == ("pending", "")
    assert shown["a"] == ()
    assert [line.split(": ")[0] for line in shown["b"]] == list(site.LABELS["b"])
    assert all("64 samples" in line for line in shown["b"])


def take_in(coordinator, home, run):
    """Bring a run of a site through its whole intake; returns what the site then sees."""
    name, blueprint = home.config.site, sealed(home, run=run)
    digest = blueprint.statement.digest
    submissions.begin(coordinator, name, **begin_fields(home, blueprint))
    append(coordinator, name, digest, 0, blueprint.ciphertext)
    submissions.commit(coordinator, name, digest)
    supervisor.take_in(coordinator, digest)
    return submissions.one_status(coordinator, name, digest)
