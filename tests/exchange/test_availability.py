"""Availability: silence is a warning, and the end of a lease where the study sets one."""

from datetime import timedelta

import pytest

from edge_agent import contact, installed
from kit import clock
from kit.errors import KitError
from tests.fakes import site


def fetched(federation, name="a"):
    home = federation.home(name)
    with federation.serving():
        installed.fetch(home, site.STUDY, got=lambda *_: None)
    return home


def load(home, *, days=0):
    return installed.load(home, site.STUDY, now=clock.utc_now() + timedelta(days=days))


def test_availability_what_is_installed_serves_on_without_a_coordinator_and_warns(released, capsys):
    home = fetched(released)
    assert load(home, days=13).model
    assert "the last contact" not in capsys.readouterr().err
    # A year later the certificates that proved the release have expired as well.
    assert load(home, days=400).model
    assert "the last contact was 400 days ago" in capsys.readouterr().err


@pytest.fixture
def leased(tmp_path, monkeypatch):
    """A released federation whose study wants a contact every five days."""
    made = site.create_study

    def create_study(coordinator, **changes):
        return made(coordinator, **changes | {"lease_days": 5})

    monkeypatch.setattr(site, "create_study", create_study)
    folder = tmp_path / "leased"
    folder.mkdir()
    site._make_enrolled(folder)
    federation = site.Federation(folder)
    site._make_pending(federation)
    for name in site.LABELS:
        site.approve(federation, name)
    site.build(federation)
    return federation


def test_availability_a_lease_ends_by_silence_and_a_contact_renews_it(leased):
    home = fetched(leased)
    assert home.study(site.STUDY).safeguards.lease_days == 5
    assert load(home, days=4).model
    with pytest.raises(KitError, match="the lease of the installed release is over") as refusal:
        load(home, days=6)
    assert "edge-agent status" in refusal.value.hint
    with leased.serving() as coordinator:
        coordinator.ahead = timedelta(minutes=50)
        site.visit(home)
    last = clock.parse_rfc3339(contact.known(home).newest_time)
    assert installed.load(home, site.STUDY, now=last + timedelta(days=5)).model
    with pytest.raises(KitError, match="at least every 5 days"):
        installed.load(home, site.STUDY, now=last + timedelta(days=5, seconds=1))
