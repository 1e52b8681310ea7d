"""The coordinator answers a submission from one log, and every contact from another."""

import shutil
import sqlite3

import pytest

from edge_agent import contact, inspection
from edge_agent.errors import TrustError
from tests.fakes import site


def settle(path):
    """Bring everything into the one file."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def test_a_log_that_forgets_a_submission_it_gave_a_receipt_for_is_noticed(enrolled):
    home = enrolled.home("a")
    with enrolled.serving():
        site.visit(home)
    state = enrolled.hub / "state.sqlite"
    settle(state)
    shutil.copy(state, enrolled.folder / "before.sqlite")
    with enrolled.serving():
        assert site.submit(home).state == "received"
        site.wait_for(lambda: site.settled(enrolled))
        kept = len(contact.receipts(home))
        assert kept
    true = enrolled.folder / "true.sqlite"
    settle(state)
    shutil.copy(state, true)
    for journal in enrolled.hub.glob("state.sqlite-*"):
        journal.unlink()
    shutil.copy(enrolled.folder / "before.sqlite", state)
    with enrolled.serving():
        with pytest.raises(TrustError, match="no longer shows the log entry"):
            site.visit(home)
        with pytest.raises(TrustError):
            inspection.audit(home, offline=False)
    for journal in enrolled.hub.glob("state.sqlite-*"):
        journal.unlink()
    shutil.copy(true, state)
    with enrolled.serving():
        assert site.visit(home).trust.size
        assert len(contact.receipts(home)) > kept - 1
