"""A run's verdict: about its very weights, the same however often it is asked, and never undone."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from edge_agent import runs
from edge_agent.gate import examination
from edge_agent.home import Home
from edge_agent.outgoing import of_run
from edge_agent.training.folder import GATE, HELD_OUT, WEIGHTS
from kit import canonical, clock
from kit.errors import KitError
from kit.files import sha256_file
from tests.fakes import site
from tests.gate.cohorts import digits

COUNT, SHARE = 150, 0.3


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A site's folder with a run that was trained and tested once, and what was said meanwhile."""
    folder = tmp_path_factory.mktemp("trained")
    home = site.copy("enrolled", folder, tmp_path_factory.getbasetemp()).home("a")
    images, labels = digits()
    chosen = np.flatnonzero(labels < 2)[:COUNT]  # zeros and ones are the study's first two classes
    pixels = ((images[chosen, 0] + 1) * 127.5).round().astype(np.uint8)
    data = folder / "digits.npz"
    np.savez(data, train_images=pixels, train_labels=labels[chosen][:, None].astype(np.uint8))
    with pytest.raises(KitError, match="fewer images than the 160 declared"):
        train(home, data, declared_count=160)
    shutil.rmtree(home.run("real"))
    outcome, said = train(home, data)
    return home.path, data, outcome, said


@pytest.fixture
def home(trained, tmp_path):
    return Home(shutil.copytree(trained[0], tmp_path / "a"))


@pytest.fixture
def data(trained):
    return trained[1]


@pytest.fixture
def outcome(trained, home):
    return dataclasses.replace(trained[2], folder=home.run("real"))


@pytest.fixture
def said(trained):
    return trained[3]


def train(home, data, *, run="real", **changes):
    options = {
        "study": site.STUDY,
        "data": data,
        "labels": site.LABELS["a"],
        "declared_count": COUNT,
        "run": run,
        "preset": "",
        "without_privacy": False,
        "steps": 2,
        "held_out": SHARE,
    }
    said = []
    request = runs.Request(**options | changes)
    outcome = runs.train(home, request, now=clock.utc_now(), tell=said.append)
    return outcome, said


def verdicts(home, folder):
    with runs.open_ledger(home) as ledger:
        return ledger.verdicts(canonical.digest((folder / WEIGHTS).read_bytes()))


def test_a_run_holds_units_out_and_only_pass_or_fail_leaves_it_a11(home, outcome, said):
    report = json.loads((outcome.folder / GATE).read_bytes())
    out = json.loads((outcome.folder / HELD_OUT).read_text())["excluded"]
    assert 20 < len(out) < 70
    names = [check["name"] for check in report["checks"]]
    assert names == ["review", "support", "near-copies", "membership", "one-run"]
    assert f"that {len(out)} held-out units can show" in " ".join(said)
    leaving = of_run(home, "real")
    assert leaving.gate.passed is report["passed"] is outcome.gate_passed is True
    unsure = [c["name"] for c in report["checks"] if c["outcome"] == "cannot tell"]
    assert "one-run" in unsure  # too few units to refute such an epsilon
    told = f"passed; cannot tell: {', '.join(unsure)} (why: `"
    assert outcome.gate.startswith(told)
    assert outcome.gate.endswith(f"/{GATE}`)")
    assert outcome.gate in outcome.to_text()
    assert leaving.gate.report == canonical.digest((outcome.folder / GATE).read_bytes())
    sent = f"{leaving.architecture} {leaving.outputs} {leaving.privacy} {leaving.gate}"
    assert str(outcome.privacy["epsilon"]) in sent
    for private in (report["salt"], *(check["value"] for check in report["checks"])):
        assert private not in sent.replace(",", "").split()
    assert len(report["salt"]) == 64


def test_held_out_units_count_as_declared_and_are_charged(home, outcome):
    assert (outcome.units, outcome.privacy["n_declared"]) == (COUNT, COUNT)
    with runs.open_ledger(home) as ledger:
        assert [run.units for run in ledger.runs()] == [COUNT]


def test_asked_again_the_gate_says_the_same(home, data, outcome, said):
    first = (outcome.folder / GATE).read_bytes()
    assert not [line for line in train(home, data)[1] if line.startswith("gate: ")]
    (outcome.folder / GATE).unlink()
    again, repeated = train(home, data)
    assert (outcome.folder / GATE).read_bytes() == first
    gate = [line for line in repeated if line.startswith("gate: ")]
    assert gate == [line for line in said if line.startswith("gate: ")]
    assert again.was_finished
    with runs.open_ledger(home) as ledger:
        assert len(ledger.verdicts(sha256_file(outcome.folder / WEIGHTS))) == 1


def test_weights_that_failed_once_have_failed(home, data, outcome):
    assert of_run(home, "real").gate.passed
    failed = (outcome.folder / GATE).read_bytes().replace(b'"passed": true', b'"passed": false', 1)
    with runs.open_ledger(home) as ledger:
        assert not examination.settle(outcome.folder, failed, ledger)
    (outcome.folder / GATE).unlink()
    again, said = train(home, data)
    assert not again.gate_passed
    assert again.gate.startswith("FAILED")
    assert "failed before" in said[-1]
    assert not of_run(home, "real").gate.passed


def test_a_verdict_is_about_the_weights_it_was_asked_about(home, outcome):
    assert of_run(home, "real").gate.passed
    assert of_run(home, site.STUDY).gate.passed
    (outcome.folder / WEIGHTS).write_bytes((home.run(site.STUDY) / WEIGHTS).read_bytes())
    with pytest.raises(KitError, match="not asked about these very weights"):
        of_run(home, "real")


def test_a_run_that_lost_its_coins_is_not_asked_again(home, data, outcome):
    assert train(home, data)[0].gate_passed
    (outcome.folder / HELD_OUT).unlink()
    with pytest.raises(KitError, match="started with another cohort"):
        train(home, data)


def test_another_share_is_another_run(home, data):
    assert train(home, data)[0].was_finished
    with pytest.raises(KitError, match=r"started with --held-out 0\.3"):
        train(home, data, held_out=0.1)
    with pytest.raises(KitError, match="cannot be held out"):
        train(home, data, run="other", held_out=0.6)


def test_a_run_that_was_started_before_coins_were_tossed_goes_on(home, data):
    fresh = {"run": "old", "without_privacy": False, "held_out": 0.0}
    shutil.rmtree(home.path / "ledger")
    home.ledger_mark.unlink()
    outcome, said = train(home, data, **fresh)
    assert "gate: cannot tell: no unit was held out" in " ".join(said)
    for file in (HELD_OUT, GATE):
        (outcome.folder / file).unlink()
    again, _ = train(home, data, **fresh | {"held_out": SHARE})
    assert again.was_finished
    assert again.gate_passed
