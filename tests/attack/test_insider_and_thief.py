"""Somebody with the database, and somebody with an old token or none."""

from datetime import timedelta

import pytest

from coordinator import enrolments, plans
from coordinator.errors import NotAllowedError, StateError
from coordinator.state import limits
from edge_agent import enrolment
from kit.errors import KitError
from pki import certificates, keys
from pki.enrolment import secret_hash
from tests.fakes import site


def test_a_state_that_no_reviewer_signed_for_is_not_built_from(released):
    site.build(released)
    digest = released.digest("c")
    mine = "FROM approvals WHERE blueprint = ?"
    with released.database() as database:
        taken = database.execute(f"SELECT * {mine}", (digest,)).fetchall()
        database.execute(f"DELETE {mine}", (digest,))
        assert released.states()["c"] == "approved"  # what an insider writes into the row
        with pytest.raises(StateError, match="called approved, but not by 1 reviewers") as refusal:
            site.build(released)
        assert "audit list" in refusal.value.hint
        row = list(taken[0])
        row[0] = digest
        row[3] = database.execute("SELECT envelope FROM approvals LIMIT 1").fetchone()[0]
        marks = ", ".join("?" * len(row))
        database.execute(f"INSERT INTO approvals VALUES ({marks})", row)
        with pytest.raises(KitError, match="about another study or blueprint"):
            site.build(released)
        database.execute(f"DELETE {mine}", (digest,))
        database.execute(f"INSERT INTO approvals VALUES ({marks})", taken[0])
    with released.open() as coordinator:
        assert len(plans.propose(coordinator, site.STUDY).inputs) == 3


def fresh_request(secret):
    return {
        "token": secret_hash(secret),
        "tls_request": certificates.request(keys.new_tls_key()),
        "signing_request": certificates.request(keys.new_signing_key()),
        "witness_key": keys.public_bytes(keys.new_signing_key()),
    }


def test_a_copy_of_a_token_shuts_a_confirmed_site_out_for_a_day_only(tmp_path):
    federation = site.found(tmp_path)
    with federation.open() as coordinator:
        token = enrolments.issue_token(coordinator, "a")
        mine, thief = fresh_request(token.secret), fresh_request(token.secret)
        assert not enrolments.enrol(coordinator, **mine).confirmed
        code = enrolment.enrolment.confirmation_code(
            mine["tls_request"], mine["signing_request"], mine["witness_key"]
        )
        enrolments.confirm(coordinator, "a", code)
        coordinator.ahead = timedelta(hours=25)
        with pytest.raises(NotAllowedError, match="not known here or was used up"):
            enrolments.enrol(coordinator, **thief)
        assert enrolments.enrol(coordinator, **mine).confirmed  # who asked late is still served
        coordinator.ahead = timedelta(hours=23)
        with pytest.raises(NotAllowedError, match="the site is revoked"):
            enrolments.enrol(coordinator, **thief)


def test_a_stranger_without_a_token_does_not_wait_for_the_write_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "WAIT_FOR_LOCK_MS", 100)
    federation = site.found(tmp_path)
    with federation.open() as coordinator:
        token = enrolments.issue_token(coordinator, "a")
        with federation.open() as another, another.write():
            with pytest.raises(NotAllowedError, match="not known here"):
                enrolments.enrol(coordinator, **fresh_request(bytes(32)))
            with pytest.raises(KitError, match="state cannot be used"):
                enrolments.enrol(coordinator, **fresh_request(token.secret))
        assert not enrolments.enrol(coordinator, **fresh_request(token.secret)).confirmed
