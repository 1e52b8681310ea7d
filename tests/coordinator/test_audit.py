"""S13: `audit verify` holds every table against the log, and names each difference."""

import pytest

from coordinator import audit, logbook
from coordinator.errors import StateError
from kit.errors import KitError
from tests.fakes import site, states
from tests.fakes.records import publish, submit, take_in

EDITS = {
    "UPDATE blueprints SET state = 'approved'": r"blueprint `\w+` is approved in its table and pen",
    "DELETE FROM blueprints": r"blueprint `\w+` is missing in its table and pending on the log",
    "UPDATE releases SET withdrawn = TRUE": r"release `\w+` is withdrawn in its table and curr",
    "UPDATE blueprints SET destroyed = 'x'": r"payload `\w+` is shredded in its table and missing",
    "UPDATE sites SET state = 'revoked' WHERE id = 'a'": r"site `s-\w+` is revoked in its table",
    "UPDATE sites SET witness_key = BLOB": r"witness key `s-\w+` is",
    "DELETE FROM sites WHERE id = 'b'": r"site `s-\w+` is missing in its table and active",
    "UPDATE studies SET open = FALSE": r"study `\w+` is closed in its table and open on the log",
    "UPDATE studies SET manifest = BLOB": r"study `\w+` is altered in its table",
    "UPDATE recipient_keys SET kid = 'x' || substr(kid, 2)": r"recipient key `\w+` is current",
    "INSERT INTO papers SELECT 'x', digest, 'withdrawal', BLOB, BLOB FROM blueprints": (
        r"the withdrawal of `\w+` is not the one on the log"
    ),
    "UPDATE meta SET value = '7' WHERE name = 'revocations'": "revocation list `7` is",
    "INSERT INTO lost VALUES ('s-1', 'site')": "site `s-1` is revoked in its table and missing",
}


pytestmark = pytest.mark.both_states


@pytest.fixture(scope="module")
def stage(tmp_path_factory, state_kind):
    base = tmp_path_factory.getbasetemp()
    federation = site.copy("enrolled", tmp_path_factory.mktemp("audit"), base)
    take_in(federation, submit(federation, "a"))
    publish(federation)
    return federation


@pytest.mark.parametrize("edit", EDITS)
def test_a_table_that_says_what_the_log_does_not_is_named(stage, edit):
    with stage.open() as coordinator:
        assert audit.verify(coordinator).size == len(logbook.events(coordinator))
    good = states.keep(stage.hub)
    with stage.database() as database:
        database.execute(edit)
    try:
        with stage.open() as coordinator, pytest.raises(StateError, match=EDITS[edit]) as refusal:
            audit.verify(coordinator)
        assert "outside this program" in refusal.value.hint
    finally:
        states.put_back(stage.hub, good)
    with stage.open() as coordinator:
        assert audit.verify(coordinator)


def test_an_approval_or_reason_that_was_altered_is_named(stage, tmp_path):
    copy = stage.clone(tmp_path / "copy")
    site.approve(copy, "a")
    with copy.open() as coordinator:
        audit.verify(coordinator)
    for edit, words in (
        ("UPDATE approvals SET reason = 'other words'", "reason of an approval"),
        ("DELETE FROM approvals", r"approval `\w+` is missing in its table and signed"),
    ):
        with copy.database() as database:
            database.execute(edit)
        with copy.open() as coordinator, pytest.raises(StateError, match=words):
            audit.verify(coordinator)


def test_an_altered_subtree_root_is_found_and_serves_no_proof(stage, tmp_path):
    copy = stage.clone(tmp_path / "copy")
    with copy.database() as database:
        with pytest.raises(database.refusal, match="append-only"):
            database.execute("UPDATE log_nodes SET hash = BLOB")
        database.allow_edits("log_nodes")
        database.execute("DELETE FROM log_nodes WHERE level >= 3")
    with copy.open() as coordinator:
        with pytest.raises(KitError, match="subtree root"):
            audit.verify(coordinator)
        with pytest.raises(KitError, match="has holes"):
            logbook.checkpoint(coordinator)
