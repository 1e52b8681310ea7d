"""Revoking a site takes the keys with it that would open what it once sealed (A2)."""

import pytest
import sqlalchemy as sa

from coordinator import payloads, registry
from coordinator.state import recipient_keys

pytestmark = pytest.mark.both_states


def key_ids(coordinator, site):
    query = sa.select(recipient_keys.c.kid).where(recipient_keys.c.site == site)
    with coordinator.state.read() as tx:
        return [row.kid for row in tx.all(query)]


def test_a_revoked_site_leaves_no_recipient_key_and_the_others_keep_theirs(enrolled):
    with enrolled.open() as coordinator:
        store = payloads.keystore(coordinator)
        gone, kept = key_ids(coordinator, "a"), key_ids(coordinator, "b")
        assert gone
        assert all(store.has(payloads.RECIPIENT, kid) for kid in gone + kept)

        assert registry.revoke_site(coordinator, "a").state == registry.REVOKED

        assert key_ids(coordinator, "a") == []
        assert not any(store.has(payloads.RECIPIENT, kid) for kid in gone)
        assert key_ids(coordinator, "b") == kept
        assert all(store.has(payloads.RECIPIENT, kid) for kid in kept)
