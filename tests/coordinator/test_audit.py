"""S13: `audit verify` holds every table against the log, and names each difference."""

import shutil
import sqlite3

import pytest

from coordinator import audit, logbook
from coordinator.errors import StateError
from kit.errors import KitError
from tests.fakes import site
from tests.fakes.records import publish, submit, take_in

EDITS = {
    "UPDATE blueprints SET state = 'approved'": r"blueprint `\w+` is approved in its table and pen",
    "DELETE FROM blueprints": r"blueprint `\w+` is missing in its table and pending on the log",
    "UPDATE releases SET withdrawn = 1": r"release `\w+` is withdrawn in its table and current on",
    "UPDATE blueprints SET destroyed = 'x'": r"payload `\w+` is shredded in its table and missing",
    "UPDATE sites SET state = 'revoked' WHERE id = 'a'": r"site `s-\w+` is revoked in its table",
    "UPDATE sites SET witness_key = randomblob(32)": r"witness key `s-\w+` is",
    "DELETE FROM sites WHERE id = 'b'": r"site `s-\w+` is missing in its table and active",
    "UPDATE studies SET open = 0": r"study `\w+` is closed in its table and open on the log",
    "UPDATE studies SET manifest = x'00'": r"study `\w+` is altered in its table",
    "UPDATE recipient_keys SET kid = hex(randomblob(32))": r"recipient key `\w+` is current",
    "INSERT INTO papers SELECT 'x', digest, 'withdrawal', x'00', x'' FROM blueprints": (
        r"the withdrawal of `\w+` is not the one on the log"
    ),
    "UPDATE meta SET value = '7' WHERE name = 'revocations'": "revocation list `7` is",
    "INSERT INTO lost VALUES ('s-1', 'site')": "site `s-1` is revoked in its table and missing",
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    federation = site.copy("enrolled", tmp_path_factory.mktemp("audit"), base)
    take_in(federation, submit(federation, "a"))
    publish(federation)
    return federation


@pytest.mark.parametrize("edit", EDITS)
def test_a_table_that_says_what_the_log_does_not_is_named(stage, edit):
    path = stage.hub / "state.sqlite"
    with stage.open() as coordinator:
        assert audit.verify(coordinator).size == len(logbook.events(coordinator))
    database = sqlite3.connect(path)
    good = sqlite3.connect(":memory:")
    database.backup(good)
    database.execute(edit)
    database.commit()
    try:
        with stage.open() as coordinator, pytest.raises(StateError, match=EDITS[edit]) as refusal:
            audit.verify(coordinator)
        assert "outside this program" in refusal.value.hint
    finally:
        good.backup(database)
        database.close()
    with stage.open() as coordinator:
        assert audit.verify(coordinator)


def test_an_approval_or_reason_that_was_altered_is_named(stage, tmp_path):
    copy = site.Federation(tmp_path / "copy")
    shutil.copytree(stage.folder, copy.folder)
    site.approve(copy, "a")
    with copy.open() as coordinator:
        audit.verify(coordinator)
    for edit, words in (
        ("UPDATE approvals SET reason = 'other words'", "reason of an approval"),
        ("DELETE FROM approvals", r"approval `\w+` is missing in its table and signed"),
    ):
        database = sqlite3.connect(copy.hub / "state.sqlite")
        database.execute(edit)
        database.commit()
        database.close()
        with copy.open() as coordinator, pytest.raises(StateError, match=words):
            audit.verify(coordinator)


def test_an_altered_subtree_root_is_found_and_serves_no_proof(stage, tmp_path):
    copy = site.Federation(tmp_path / "copy")
    shutil.copytree(stage.folder, copy.folder)
    database = sqlite3.connect(copy.hub / "state.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute("UPDATE log_nodes SET hash = x'00'")
    database.execute("DROP TRIGGER log_nodes_no_delete")
    database.execute("DELETE FROM log_nodes WHERE level >= 3")
    database.commit()
    database.close()
    with copy.open() as coordinator:
        with pytest.raises(KitError, match="subtree root"):
            audit.verify(coordinator)
        with pytest.raises(KitError, match="has holes"):
            logbook.checkpoint(coordinator)
