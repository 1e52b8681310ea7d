"""Erasure: taking back never waits for budget, and one patient is found without being named."""

import json

import pytest

from coordinator import papers
from edge_agent import runs as agent_runs
from edge_agent import withdrawal
from edge_agent.runs import RUN
from federation.accounting import DpEvent
from federation.blueprint import approval
from federation.release import statement as documents
from federation.study import Unit
from kit import canonical, clock
from kit.errors import KitError
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


def erase(home, patient=PATIENT):
    return withdrawal.withdraw_patient(home, patient, reason="she asked", now=clock.utc_now())


def test_erasure_of_a_patient_takes_back_what_she_is_in_and_nothing_else(studies):
    federation, home, run_id, first, second = studies
    with federation.serving():
        found = erase(home)
        assert (found.ledger_runs, found.withdrawn) == ((run_id,), (first,))
        assert (found.cannot_tell, found.local_runs) == ((), (site.STUDY,))
        states = {s.digest: s.state for s in site.visit(home).blueprints}
        assert states == {first: "revoked", second: "pending"}
        again = erase(home)
        assert (again.withdrawn, again.withdrawn_before) == ((), (first,))
        with pytest.raises(KitError, match="took part in no run"):
            erase(home, "Somebody-Else")
        both = erase(home, "somebody")
        assert (both.withdrawn, both.withdrawn_before) == ((second,), (first,))


def test_erasure_names_the_patient_nowhere_and_records_what_was_done(studies):
    federation, home, _, first, _ = studies
    with federation.serving():
        found = erase(home)
    [record] = [
        canonical.decode(p.read_bytes()) for p in (home.path / "withdrawals").glob("erasure-*")
    ]
    assert record["withdrawn"] == [first]
    assert record["patient"] == found.patient
    for folder in (federation.hub, home.path):
        for path in folder.rglob("*"):
            assert PATIENT not in path.name
            assert not path.is_file() or PATIENT.encode() not in path.read_bytes(), path


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
