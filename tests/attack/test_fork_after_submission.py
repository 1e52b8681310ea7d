"""The coordinator answers a submission from one log, and every contact from another."""

import pytest

from edge_agent import contact, inspection
from edge_agent.errors import TrustError
from tests.fakes import site, states


def test_a_log_that_forgets_a_submission_it_gave_a_receipt_for_is_noticed(enrolled):
    home = enrolled.home("a")
    with enrolled.serving():
        site.visit(home)
    before = states.keep(enrolled.hub)
    with enrolled.serving():
        assert site.submit(home).state == "received"
        site.wait_for(lambda: site.settled(enrolled))
        kept = len(contact.receipts(home))
        assert kept
    true = states.keep(enrolled.hub)
    states.put_back(enrolled.hub, before)
    with enrolled.serving():
        with pytest.raises(TrustError, match="no longer shows the log entry"):
            site.visit(home)
        with pytest.raises(TrustError):
            inspection.audit(home, offline=False)
    states.put_back(enrolled.hub, true)
    with enrolled.serving():
        assert site.visit(home).trust.size
        assert len(contact.receipts(home)) > kept - 1
