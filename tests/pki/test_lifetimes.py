"""Who is told what runs out, and when."""

from datetime import timedelta

import pytest

from pki import certificates, identity, keys, lifetimes
from pki.lifetimes import Lifetime, Urgency
from tests.fakes.federation import NAME, NOW


def thing(days, *, renews_in=None):
    return Lifetime(
        name="the root certificate",
        expires=NOW + timedelta(days=days),
        remedy="found a new federation",
        renews_from=None if renews_in is None else NOW + timedelta(days=renews_in),
    )


@pytest.mark.parametrize(
    ("days", "urgency"),
    [
        (61, None),
        (60, Urgency.DAYS_60),
        (31, Urgency.DAYS_60),
        (30, Urgency.DAYS_30),
        (8, Urgency.DAYS_30),
        (7, Urgency.DAYS_7),
        (0.5, Urgency.DAYS_7),
        (0, Urgency.EXPIRED),
        (-3, Urgency.EXPIRED),
    ],
)
def test_what_cannot_renew_itself_is_announced_60_30_and_7_days_before(days, urgency):
    found = lifetimes.warnings([thing(days)], now=NOW)
    assert [warning.urgency for warning in found] == ([urgency] if urgency else [])
    for warning in found:
        assert "the root certificate" in warning.line
        assert "found a new federation" in warning.line


def test_what_renews_itself_is_silent_until_it_should_have():
    assert lifetimes.warnings([thing(50, renews_in=1)], now=NOW) == []
    assert lifetimes.warnings([thing(50, renews_in=-0.5)], now=NOW) == []
    [late] = lifetimes.warnings([thing(50, renews_in=-2)], now=NOW)
    assert late.urgency is Urgency.DAYS_60
    [over] = lifetimes.warnings([thing(-1, renews_in=5)], now=NOW)
    assert over.urgency is Urgency.EXPIRED


def test_the_most_urgent_comes_first():
    found = lifetimes.warnings([thing(40), thing(3), thing(-1), thing(20)], now=NOW)
    assert [warning.days for warning in found] == [0, 3, 20, 40]


def test_a_certificate_is_to_be_renewed_at_two_thirds_of_its_life():
    root = certificates.new_root(NAME, now=NOW)
    leaf = certificates.issue_signing(
        root, identity.site(NAME, "a"), keys.new_signing_key().public_key(), now=NOW
    )
    due = lifetimes.renewal_due(leaf)
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert abs((due - leaf.not_valid_before_utc) / life - 2 / 3) < 1e-9
