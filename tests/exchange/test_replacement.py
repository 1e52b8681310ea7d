"""Erasures with a replacement (A11): one command, a batch is one retraining, nobody sees why."""

import dataclasses
import json
import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa

from coordinator import logbook, papers, state
from coordinator.home import CONFIG, CoordinatorConfig
from coordinator.papers import Paper
from edge_agent import batches, erasure, inspection, replacement
from edge_agent import runs as agent_runs
from edge_agent.erased import Erased
from edge_agent.training.folder import WEIGHTS
from federation import dsse
from federation.auditlog.events import Kind
from federation.blueprint.statement import Statement
from federation.release.statement import WITHDRAWAL_TYPE
from kit import canonical, clock, config
from kit.errors import KitError
from tests.exchange.test_erasure import PATIENT, runs_with, write_patients_data
from tests.exchange.test_erasure import REQUEST as OPTIONS
from tests.fakes import runs, site
from tests.fakes.commands import run

OTHER = "p-10"
LIFETIME = 20.0  # one run of 8 and one more fit, a third does not


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Site a trained on seventy images, two of them the patient's, and sent what came out."""
    folder, base = tmp_path_factory.mktemp("replacement"), tmp_path_factory.getbasetemp()
    federation = site.copy("enrolled", folder, base)
    home, data = federation.home("a"), folder / "data"
    settings = dataclasses.replace(home.config, lifetime_epsilon=str(LIFETIME))
    config.save(home.config_path, settings)
    write_patients_data(data)
    train(home, data, "first", accept_expected_loss=True)
    with federation.serving():
        site.submit(home, "first")
        site.wait_for(lambda: site.settled(federation))
    assert federation.states() == {"a": "pending"}
    return federation, data


@pytest.fixture
def sent(stage, tmp_path):
    federation, _ = stage
    return federation.clone(tmp_path / "federation")


def train(home, data, name, **changes):
    request = dataclasses.replace(OPTIONS, data=data, run=name, **changes)
    return agent_runs.train(home, request, now=clock.utc_now(), tell=lambda _: None)


def withdraw(home, *words, typed=None):
    given = ("edge-agent", "withdraw", "--home", home.path, "--reason", "asked", *words)
    return run(*given, typed=typed)


def ledger_of(home):
    with agent_runs.open_ledger(home) as ledger:
        return ledger.status()


def spent(home, patient):
    with agent_runs.open_ledger(home) as ledger:
        return ledger.spent([patient])


def blueprints(federation):
    """Every statement of the site that the coordinator holds, and its state."""
    with federation.open() as coordinator, coordinator.state.read() as tx:
        rows = tx.all(sa.select(state.blueprints).order_by(state.blueprints.c.seq))
    return [(Statement.from_bytes(row.statement), row.state) for row in rows]


def names_of(run_ids):
    return sorted(run_id.rpartition("-")[0] for run_id in run_ids)


def records(home):
    folder = home.path / "withdrawals"
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def test_a11_one_command_takes_back_trains_without_and_sends_again(sent, tmp_path):
    """Two requests are one retraining, charged to those who stay and to nobody else."""
    federation = sent
    home, ids = federation.home("a"), tmp_path / "ids"
    ids.write_text(f"\ufeff{PATIENT}\n{OTHER}\n\n")  # as some editors write it
    once = spent(home, "p-0")
    with federation.serving():
        done = withdraw(home, "--patients", ids, "--replace", "--yes", "--json")
        assert done.code == 0, done.err
        result = json.loads(done.out)
        [made] = result["replacements"]
        assert (made["run"], made["step"]) == ("first-r2", "submitted")
        assert "a reviewer, then a build" in made["waits_for"]
        site.wait_for(lambda: site.settled(federation))
        (old, before), (new, after) = blueprints(federation)
        assert (before, after, new.digest) == ("revoked", "pending", made["blueprint"])
        assert [e.blueprint for e in standing(home).erasures] == [new.digest]
    account = ledger_of(home)
    assert names_of(run.run_id for run in account.runs) == ["first", "first-r2"]
    assert names_of(runs_with(home, PATIENT)) == names_of(runs_with(home, OTHER)) == ["first"]
    assert names_of(runs_with(home, "p-0")) == ["first", "first-r2"]
    assert spent(home, PATIENT) == once < spent(home, "p-0") <= LIFETIME
    assert {run.charged for run in account.runs} == {account.runs[0].reserved}
    assert same_figures(old, new)  # whoever sees both learns nothing of who left
    assert PATIENT not in done.out + done.err
    site.approve(federation, "a")
    with federation.serving():
        [row] = standing(home).erasures
        assert row.waits_for == "a build at the coordinator"
        site.build(federation)
        assert standing(home).erasures == ()


def same_figures(old, new):
    """What the two statements say of privacy, but for the ledger's head and the gate's digest."""
    first, second = (dataclasses.asdict(s.privacy) for s in (old, new))
    for table in (first, second):
        assert table.pop("ledger_head")
        assert table.pop("ledger_counter")
    return first == second and old.architecture == new.architecture and old.outputs == new.outputs


def standing(home):
    return inspection.status(home, now=clock.utc_now())


def test_a11_an_order_looks_the_same_whoever_asked(sent):
    """A patient's erasure, several at once, and a site's own reasons: one form, one length."""
    federation = sent
    other = federation.home("b")
    with federation.serving() as coordinator:
        site.submit(other)
        site.wait_for(lambda: site.settled(federation))
        home = federation.home("a")
        assert withdraw(home, "--patient", PATIENT, "--patient", OTHER, "--yes").code == 0
        assert withdraw(other, "--study", site.STUDY, "--yes").code == 0
        orders = [
            dsse.parse(next(h.path.glob("withdrawals/*.dsse.json")).read_bytes(), WITHDRAWAL_TYPE)
            for h in (home, other)
        ]
        tables = [canonical.decode(order.payload) for order in orders]
        assert set(tables[0]) == set(tables[1])
        assert len(orders[0].payload) == len(orders[1].payload)
        revoked = [e for e in logbook.events(coordinator) if e.kind is Kind.BLUEPRINT_REVOKED]
        assert len(revoked) == 2
        assert set(revoked[0].details) == set(revoked[1].details)


_DYING = """
import os, signal, sys
from edge_agent import batches, erased
from edge_agent.cli import run

point, save = sys.argv[1], batches.Batch.save

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def dying(self, home):
    if point in (str(self.step), *(str(item.step) for item in self.replacements)):
        die()
    return save(self, home)

if point == "requested":
    erased.Erased.add_pseudonyms = die
else:
    batches.Batch.save = dying
sys.exit(run(sys.argv[2:]))
"""


def test_a11_killed_before_any_step_is_noted_the_same_command_goes_on(sent):
    federation = sent
    home = federation.home("a")
    words = ("withdraw", "--home", home.path, "--patient", PATIENT, "--reason", "asked")
    seen = []
    with federation.serving():
        for point in ("requested", "withdrawn", "trained", "submitted"):
            command = [sys.executable, "-c", _DYING, point, *words, "--replace", "--yes"]
            ended = subprocess.run(
                [str(word) for word in command], capture_output=True, check=False, timeout=300
            )
            assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
            [batch] = batches.every(home)
            seen.append((str(batch.step), str(batch.replacements[0].step)))
            states = [state for _, state in blueprints(federation)]
            assert states[0] == ("pending" if point == "requested" else "revoked")
        assert seen == [("requested", "requested")] * 2 + [
            ("withdrawn", "requested"),
            ("withdrawn", "trained"),
        ]
        done = withdraw(home, "--patient", PATIENT, "--replace")  # agreed to before: asks nobody
        assert done.code == 0, done.err
        assert "going on with the erasure of" in done.err
        site.wait_for(lambda: site.settled(federation))
        assert [state for _, state in blueprints(federation)] == ["revoked", "pending"]
    account = ledger_of(home)
    assert names_of(run.run_id for run in account.runs) == ["first", "first-r2"]
    assert all(run.charged == run.reserved and run.is_settled for run in account.runs)
    with federation.open() as coordinator, coordinator.state.read() as tx:
        assert len(papers.of(tx, batches.every(home)[0].ordered[0], Paper.WITHDRAWAL)) == 1


def test_a11_asked_twice_changes_nothing(sent):
    federation = sent
    home = federation.home("a")
    with federation.serving():
        assert withdraw(home, "--patient", PATIENT, "--yes").code == 0
        kept, head = records(home), ledger_of(home).head
        assert len(batches.every(home)) == 1
        for words in ((), ("--replace",)):
            again = withdraw(home, "--patient", PATIENT, "--yes", "--json", *words)
            assert again.code == 0, again.err
            assert json.loads(again.out)["withdrawn"] == []
    assert (records(home), ledger_of(home).head) == (kept, head)


def test_a11_without_a_replacement_nothing_waits_for_the_budget(sent):
    """What stands against a replacement is found before anything is taken back."""
    federation = sent
    home = federation.home("a")
    asks = ("--patient", PATIENT, "--replace")
    tight = {"lifetime_epsilon": "9.0"}
    with federation.serving():
        refused = {
            "has fewer patients than the 400 declared": ("--declared-count", 400),
            "fewer than the 60 declared": (),
        }
        for words, given in refused.items():
            if not given:
                config.save(home.config_path, dataclasses.replace(home.config, **tight))
            done = withdraw(home, *asks, *given, "--yes")
            assert done.code == 1
            assert words in done.err
            assert "without --replace it is taken back at once" in done.err
            assert records(home) == {}
            assert not Erased(home).covers(PATIENT)
        said_no = withdraw(home, *asks, typed="n\n")
        assert "nothing was withdrawn" in said_no.err
        assert records(home) == {}
        offered = withdraw(home, *asks, typed="y\ny\n")
        assert offered.code == 0, offered.err
        assert "no replacement: study `shapes`: " in offered.err
        assert [state for _, state in blueprints(federation)] == ["revoked"]
    assert names_of(run.run_id for run in ledger_of(home).runs) == ["first"]


def test_a12_a_class_that_would_fall_under_the_minimum_has_no_replacement(sent):
    federation = sent
    home = federation.home("a")
    names = erasure.asked_for(home, [f"p-{number}" for number in range(60, 70)], reason="asked")
    path = home.run("first") / agent_runs.DATA_REPORT
    wanted = replacement.Options(declared_count=50)
    report = json.loads(path.read_text())
    found = replacement.proposal(home, names, wanted, now=clock.utc_now())  # sixty are left
    assert any("it declares 50 patients where 60 were" in line for line in found.lines)
    manifest = home.study(site.STUDY)
    strict = dataclasses.replace(manifest, minimum_per_class=61)
    rehearsal = agent_runs.rehearse(
        home,
        found.batch.replacements[0].request,
        is_erased=Erased(home).beside(names).covers,
        tell=lambda _: None,
    )
    assert report["classes"][0]["units"] == 69
    with pytest.raises(KitError, match="would be left with 59 patients, and the study wants 61"):
        replacement._check_classes(home, strict, "first", rehearsal)
    replacement._check_classes(home, manifest, "first", rehearsal)


def test_a11_requests_are_collected_and_carried_out_as_one(sent):
    federation = sent
    home = federation.home("a")
    for patient in (PATIENT, OTHER, PATIENT):
        said = withdraw(home, "--patient", patient, "--collect", "--json")
        assert said.code == 0, said.err
    assert json.loads(said.out)["collected"] == 2
    assert PATIENT.encode() not in b"".join(records(home).values())
    assert Erased(home).covers(PATIENT)
    with federation.serving():
        [row] = standing(home).erasures
        assert (row.patients, row.waits_for) == (2, "its batch: `edge-agent withdraw --collected`")
        assert [state for _, state in blueprints(federation)] == ["pending"]  # nothing left yet
        done = withdraw(home, "--collected", "--yes", "--json")
        assert done.code == 0, done.err
        assert len(json.loads(done.out)["patients"]) == 2
        assert [state for _, state in blueprints(federation)] == ["revoked"]
        assert standing(home).erasures == ()
    [batch] = batches.every(home)
    assert len(batch.ordered) == 1
    assert withdraw(home, "--collected", "--yes").code == 1  # nobody is left


def test_a11_who_is_in_no_run_is_told_so_here_and_seen_alike_outside(sent):
    """The coordinator gets the same contact; a training that meets the person later leaves them."""
    federation = sent
    home = federation.home("a")
    with federation.serving():
        said = withdraw(home, "--patient", "Somebody-Else", typed="y\n")
        assert said.code == 0, said.err
        assert "of 1, 1 took part in no run here: is every id exactly" in said.err
        assert [state for _, state in blueprints(federation)] == ["pending"]
    assert Erased(home).covers("Somebody-Else")


def test_a11_an_erasure_is_not_undone(sent):
    federation = sent
    home = federation.home("a")
    settings = config.load(federation.hub / CONFIG, CoordinatorConfig)
    longer = dataclasses.replace(settings, revocation_grace_hours=72)
    config.save(federation.hub / CONFIG, longer)
    with federation.serving():
        for words, code in ((("--study", site.STUDY), 0), (("--patient", PATIENT), 1)):
            assert withdraw(home, *words, "--yes").code == 0
            undone = withdraw(home, "--study", site.STUDY, "--undo")
            assert undone.code == code, undone.err
        assert "made with a patient who was erased here; it stays withdrawn" in undone.err


def test_a11_another_erasure_meanwhile_is_asked_anew_and_a_failed_gate_sends_nothing(sent):
    federation = sent
    home = federation.home("a")
    names = erasure.asked_for(home, [PATIENT], reason="asked")
    with federation.serving():
        found = replacement.proposal(home, names, replacement.Options(), now=clock.utc_now())
        begun = erasure.carry_out(home, found.batch, reason="asked", now=clock.utc_now())
        request = begun.batch.replacements[0].request
        agent_runs.train(home, request, now=clock.utc_now(), tell=lambda _: None)
        assert withdraw(home, "--patient", OTHER, "--yes").code == 0  # who was in it
        assert not (home.run("first-r2") / WEIGHTS).exists()
        asked = withdraw(home, "--patient", PATIENT, "--replace")
        assert "nobody is at a terminal" in asked.err
        assert "run `first-r2` was erased with another patient meanwhile" in asked.err
        runs_before = len(ledger_of(home).runs)
        found = replacement.proposal(home, names, replacement.Options(), now=clock.utc_now())
        request = found.batch.replacements[0].request
        assert request.run == "first-r3"
        found.batch.save(home)
        agent_runs.train(home, request, now=clock.utc_now(), tell=lambda _: None)
        runs.give_verdict(home, "first-r3", passed=False)
        failed = withdraw(home, "--patient", PATIENT, "--replace", "--yes")
        assert failed.code == 1
        assert "the gate of run `first-r3` did not pass: nothing is sent" in failed.err
        assert len(ledger_of(home).runs) == runs_before + 1
        assert [state for _, state in blueprints(federation)] == ["revoked"]


def test_a11_a_replacement_that_is_not_asked_for_again_is_given_up_once_agreed(sent):
    home = sent.home("a")
    names = erasure.asked_for(home, [PATIENT], reason="asked")
    found = replacement.proposal(home, names, replacement.Options(), now=clock.utc_now())
    found.batch.save(home)  # and killed there
    plain = replacement.proposal(home, names, None, now=clock.utc_now())
    assert (plain.batch.id, plain.is_agreed) == (found.batch.id, False)
    assert not any(each.is_open for each in plain.batch.replacements)
    assert "`first-r2` is given up" in plain.lines[-1]
    going_on = replacement.proposal(home, names, replacement.Options(), now=clock.utc_now())
    assert (going_on.batch, going_on.is_agreed) == (found.batch, True)


def test_somebody_erased_while_a_run_reads_its_images_is_not_trained_on(sent, stage, monkeypatch):
    home, (_, data) = sent.home("a"), stage
    read = agent_runs._ready

    def meanwhile(*args, **kwargs):
        found = read(*args, **kwargs)
        Erased(home).add(OTHER)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(agent_runs, "_ready", meanwhile)
        with pytest.raises(KitError, match="erased here while this run's images were read"):
            train(home, data, "second", accept_expected_loss=True)
    assert not (home.run("second") / WEIGHTS).exists()
    assert {run.is_settled for run in ledger_of(home).runs} == {True}
    once = spent(home, "p-0")
    train(home, data, "third", accept_expected_loss=True)
    assert (home.run("third") / WEIGHTS).is_file()
    assert spent(home, OTHER) == once < spent(home, "p-0")  # nothing was charged for the second
