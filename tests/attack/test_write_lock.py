"""One site's statement takes its time to refuse; nobody else waits for that."""

import pytest

from coordinator import submissions
from coordinator.state import limits
from federation.blueprint import envelope
from federation.blueprint.errors import RefusalError
from kit.errors import KitError
from tests.fakes import sealing

pytestmark = pytest.mark.both_states


def test_a_statement_is_verified_without_the_write_lock(enrolled, monkeypatch):
    home = enrolled.home("a")
    blueprint = sealing.sealed(home)
    real, writes = envelope.verify_statement, []
    monkeypatch.setattr(limits, "WAIT_FOR_LOCK_MS", 100)

    def verify(*arguments):
        with enrolled.open() as another, another.write() as tx:
            writes.append(tx.now)
        return real(*arguments)

    monkeypatch.setattr(envelope, "verify_statement", verify)
    with enrolled.open() as coordinator:
        fields = sealing.begin_fields(home, blueprint)
        assert submissions.begin(coordinator, "a", **fields).state == "receiving"
        assert len(writes) == 1
        with (
            coordinator.write(),
            enrolled.open() as another,
            pytest.raises(KitError, match="cannot be used"),
            another.write(),
        ):
            pass


def test_what_changed_during_the_verification_is_checked_again(enrolled, monkeypatch):
    home = enrolled.home("a")
    first, second = sealing.sealed(home), sealing.sealed(home)
    real = envelope.verify_statement

    def overtaken_by(other):
        def verify(*arguments):
            monkeypatch.setattr(envelope, "verify_statement", real)
            with enrolled.open() as another:
                submissions.begin(another, "a", **sealing.begin_fields(home, other))
            return real(*arguments)

        return verify

    with enrolled.open() as coordinator:
        monkeypatch.setattr(envelope, "verify_statement", overtaken_by(second))
        with pytest.raises(RefusalError, match="sequence number was used before"):
            submissions.begin(coordinator, "a", **sealing.begin_fields(home, first))
        third = sealing.sealed(home)
        monkeypatch.setattr(envelope, "verify_statement", overtaken_by(third))
        again = submissions.begin(coordinator, "a", **sealing.begin_fields(home, third))
        assert (again.state, again.durable) == ("receiving", 0)
