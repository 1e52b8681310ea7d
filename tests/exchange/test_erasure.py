"""Erasure: taking back never waits for budget, and one patient is found without being named."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coordinator import papers
from edge_agent import batches, erasure, replacement, withdrawal
from edge_agent import runs as agent_runs
from edge_agent.erased import Erased
from edge_agent.runs import RUN
from edge_agent.training.folder import ERASED, LOCK, OPTIONS, PRIVACY, WEIGHTS
from federation.accounting import DpEvent
from federation.blueprint import approval
from federation.release import statement as documents
from federation.study import Unit
from kit import canonical, clock, config
from kit.errors import KitError
from kit.files import exclusive
from pki import certificates, identity
from tests.fakes import runs, site

PATIENT = "Mustermann-Erika"


def charge(home, run, patients):
    """Give a run its id and its account, as `train` does."""
    run_id = f"{run}-0123456789abcdef"
    (home.run(run) / RUN).write_text(json.dumps({"id": run_id}))
    event = DpEvent(sample_rate=0.1, noise_multiplier=4.0, steps=1)
    with agent_runs.open_ledger(home) as ledger:
        account = ledger.reserve(run_id, patients, [event], clock.utc_now(), unit_kind=Unit.PATIENT)
        account.charge(1)
        ledger.settle(run_id)
    return run_id


@pytest.fixture
def studies(enrolled):
    """Two studies with a blueprint of site a each; the patient took part in the first only."""
    home = enrolled.home("a")
    run_id = charge(home, site.STUDY, [PATIENT, "somebody"])
    with enrolled.serving() as coordinator:
        study = site.create_study(coordinator, name="other")
        site.visit(home)
        runs.write_run(home, study, site.LABELS["a"], name="other", seed=21)
        charge(home, "other", ["somebody"])
        first, second = site.submit(home), site.submit(home, "other")
        site.wait_for(lambda: site.settled(enrolled))
    return enrolled, home, run_id, first.blueprint, second.blueprint


def named(home, *patients, reason="she asked"):
    """What a command makes of ids: pseudonyms, and the batch that they are in."""
    names = erasure.asked_for(home, patients or (PATIENT,), reason=reason)
    return replacement.proposal(home, names, None, now=clock.utc_now()).batch


def erase(home, *patients, reason="she asked"):
    batch = named(home, *patients, reason=reason)
    return erasure.carry_out(home, batch, reason=reason, now=clock.utc_now()).found


def runs_with(home, patient):
    [name] = batches.pseudonyms(home, [patient])
    with agent_runs.open_ledger(home) as ledger:
        return ledger.runs_of([name])[name]


def test_erasure_of_a_patient_takes_back_what_she_is_in_and_nothing_else(studies):
    federation, home, run_id, first, second = studies
    with federation.serving():
        found = erase(home)
        assert (found.ledger_runs, found.withdrawn) == ((run_id,), (first,))
        assert (found.cannot_tell, found.runs_erased) == ((), (site.STUDY,))
        states = {s.digest: s.state for s in site.visit(home).blueprints}
        assert states == {first: "revoked", second: "pending"}
        again = erase(home)
        assert (again.withdrawn, again.withdrawn_before) == ((), (first,))
        nobody = erase(home, "Somebody-Else")
        assert (nobody.in_no_run, nobody.ledger_runs, nobody.withdrawn) == (1, (), ())
        assert Erased(home).covers("Somebody-Else")  # whose images may come later
        assert (found.in_no_run, again.in_no_run) == (0, 0)
        both = erase(home, "somebody")
        assert (both.withdrawn, both.withdrawn_before) == ((second,), (first,))


def test_erasure_names_the_patient_nowhere_and_records_what_was_done(studies):
    federation, home, _, first, _ = studies
    with federation.serving():
        found = erase(home)
    [record] = [
        canonical.decode(p.read_bytes()) for p in (home.path / "withdrawals").glob("erasure-*")
    ]
    assert record["ordered"] == [first]
    assert tuple(record["patients"]) == found.patients
    for folder in (federation.hub, home.path):
        for path in folder.rglob("*"):
            assert PATIENT not in path.name
            assert not path.is_file() or PATIENT.encode() not in path.read_bytes(), path


def test_erasure_empties_the_runs_that_the_patient_was_in_and_no_other(studies):
    federation, home, *_ = studies
    folder, other = home.run(site.STUDY), home.run("other")
    (folder / "checkpoint.safetensors").write_bytes(b"half way")
    (folder / "samples").mkdir()
    (folder / "samples" / "0.png").write_bytes(b"sample")
    assert (folder / WEIGHTS).is_file()
    with federation.serving():
        found = erase(home)
        assert (found.runs_erased, found.runs_in_use) == ((site.STUDY,), ())
        kept = {path.name for path in folder.rglob("*")}
        assert kept == {RUN, OPTIONS, PRIVACY, ERASED, LOCK}
        assert (other / WEIGHTS).is_file()
        for use in (site.submit, lambda home: agent_runs.train(home, REQUEST, **TRAIN)):
            with pytest.raises(KitError, match="was erased with a patient"):
                use(home)
        assert site.submit(home, "other").state == "pending"


def test_erasure_of_a_run_that_is_being_trained_ends_it_at_its_next_step(enrolled):
    home = enrolled.home("a")
    run_id = f"{site.STUDY}-0123456789abcdef"
    (home.run(site.STUDY) / RUN).write_text(json.dumps({"id": run_id}))
    event = DpEvent(sample_rate=0.1, noise_multiplier=4.0, steps=3)
    with agent_runs.open_ledger(home) as ledger, enrolled.serving():
        account = ledger.reserve(
            run_id, [PATIENT], [event], clock.utc_now(), unit_kind=Unit.PATIENT
        )
        account.charge(1)
        with exclusive(home.run(site.STUDY) / LOCK, busy="busy"):
            found = erase(home)
            assert (found.runs_erased, found.runs_in_use) == ((), (site.STUDY,))
            with pytest.raises(KitError, match="in use by another process"):
                erasure.require_whole(found)
            with pytest.raises(KitError, match="closed in the ledger"):
                account.charge(1)
        erasure.require_whole(erase(home))
    assert not (home.run(site.STUDY) / WEIGHTS).exists()


def test_a_reason_that_names_the_patient_is_not_taken(studies):
    federation, home, *_ = studies
    with federation.serving():
        for reason in (PATIENT, f"asked by {PATIENT.lower()}."):
            with pytest.raises(KitError, match="reason contains a patient's id"):
                erase(home, reason=reason)
        assert not (home.path / "withdrawals").exists()
        assert erase(home).withdrawn


def test_no_training_takes_an_erased_patient_again(enrolled, tmp_path):
    """By real trainings: the file is named, the patient is not, and a new name does not help."""
    home, data = enrolled.home("a"), tmp_path / "data"
    config.save(home.config_path, dataclasses.replace(home.config, lifetime_epsilon="60.0"))
    rows = write_patients_data(data)
    train(home, data, "first")
    with pytest.raises(KitError, match="cannot be reached"):
        erase(home)  # nobody answers; what is here is done all the same
    assert not (home.run("first") / WEIGHTS).exists()
    told = train(home, data, "second")
    left_out = [line for line in told if "unit erased here" in line]
    assert ["`round/003.png`" in left_out[0], "`round/004.png`" in left_out[1]] == [True, True]
    assert not [line for line in told if PATIENT in line]
    assert ran_with(home) == ["first"]
    renamed = [(file, patient.replace(PATIENT, "new-id")) for file, patient in rows]
    write_map(data, renamed)
    assert [line for line in train(home, data, "third") if "unit erased here" in line]
    assert runs_with(home, "new-id") == frozenset()
    assert len(runs_with(home, "p-0")) == 3  # who stays is in all of them


def ran_with(home):
    return sorted(name.rpartition("-")[0] for name in runs_with(home, PATIENT))


REQUEST = agent_runs.Request(
    study=site.STUDY,
    data=Path("unused"),
    labels=("round",),
    declared_count=60,
    epsilon=None,
    run=site.STUDY,
    preset="tiny",
    without_privacy=False,
    steps=1,
    held_out=0.1,
)
TRAIN = {"now": clock.utc_now(), "tell": lambda _: None}


def train(home, data, name):
    """Train one step of one class; returns what was said."""
    told = []
    request = dataclasses.replace(REQUEST, data=data, run=name)
    agent_runs.train(home, request, now=clock.utc_now(), tell=told.append)
    return told


def write_patients_data(root):
    """Seventy images of one class; two of them are the patient's."""
    (root / "round").mkdir(parents=True)
    rng, rows = np.random.default_rng(5), []
    for number in range(70):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "round" / f"{number:03d}.png")
        patient = PATIENT if number in (3, 4) else f"p-{number}"
        rows.append((f"round/{number:03d}.png", patient))
    write_map(root, rows)
    return rows


def write_map(root, rows):
    lines = ["file,patient", *(f"{file},{patient}" for file, patient in rows)]
    (root / "patients.csv").write_text("\n".join(lines) + "\n")


def test_erasure_the_order_and_its_reason_can_be_shown_later(studies):
    """A3: the coordinator keeps the signed order, the site the words and the salt behind it."""
    federation, home, _, first, _ = studies
    with federation.serving() as coordinator:
        erase(home)
        with coordinator.state.read() as tx:
            [kept] = papers.of(tx, first, papers.Paper.WITHDRAWAL)
        payload = documents.open_signed(
            kept.envelope,
            documents.WITHDRAWAL_TYPE,
            certificates.from_pem(kept.chain),
            signer=identity.site(site.FEDERATION, "a"),
            root=coordinator.root,
            now=coordinator.now(),
        )
    order = documents.Withdrawal.from_bytes(payload)
    opening = canonical.decode((home.path / "withdrawals" / f"{first}.reason.json").read_bytes())
    assert opening["reason"] == "she asked"
    salt = bytes.fromhex(opening["salt"])
    assert order.reason_commitment == approval.commitment("she asked", salt)
    assert order.reason_commitment != approval.commitment("she asked!", salt)
    assert opening["order"] == kept.digest


def test_erasure_never_waits_for_budget_or_for_the_ledger(pending):
    home = pending.home("a")
    home.ledger.write_bytes(b"this ledger was damaged")
    with pytest.raises(KitError, match="ledger"), agent_runs.open_ledger(home):
        pass
    with pending.serving():
        done = withdrawal.withdraw(home, site.STUDY, reason="asked", now=clock.utc_now())
        assert done.state == "revoked"


def test_erasure_stops_what_waits_here_even_if_nobody_answers(enrolled):
    home = enrolled.home("a")
    charge(home, site.STUDY, [PATIENT])
    from edge_agent import submission

    item = submission.cleared(home, site.STUDY)
    folder = submission.sealed(home, site.STUDY, item, clock.utc_now())
    assert folder.is_dir()
    with pytest.raises(KitError, match="cannot be reached"):
        erase(home)
    assert not folder.exists()
    assert not list((home.path / "copies").iterdir())


def test_erasure_says_which_blueprints_it_cannot_judge(studies):
    """A home from before the record was kept knows a blueprint without its run."""
    federation, home, _, first, second = studies
    (home.path / "state" / "sent" / f"{second}.json").unlink()
    with federation.serving():
        found = erase(home)
    assert (found.withdrawn, found.cannot_tell) == ((first,), (second,))
