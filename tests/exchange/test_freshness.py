"""How fresh the repository is: what a site and the coordinator are told to do, and when."""

import shutil
from datetime import timedelta

import pytest

from coordinator import metrics
from coordinator import repository as signing
from edge_agent import freshness, inspection, repository
from federation.repository import roles
from federation.repository.client import RepositoryError
from kit import canonical, clock
from kit.errors import KitError
from tests.fakes import site

DAY = timedelta(days=1)


@pytest.fixture
def visited(enrolled):
    """Site a after a contact, and when that was."""
    with enrolled.serving():
        site.visit(enrolled.home("a"))
    return enrolled.home("a"), clock.utc_now()


def test_fresh_metadata_need_nothing_and_then_a_contact_in_time(visited):
    home, now = visited
    found = freshness.freshness(home, now=now)
    assert (found.role, found.warning) == ("timestamp", "")
    assert 2.9 * DAY < found.expires - now <= roles.TIMESTAMP_LIFE
    assert freshness.warnings(home, now=now) == ()
    [line] = freshness.warnings(home, now=now + 2.5 * DAY)
    assert "`timestamp` expires on" in line
    assert "edge-agent status" in line
    with pytest.raises(KitError, match=r"`timestamp` expired on .* keeps serving") as error:
        freshness.freshness(home, now=now + 4 * DAY)
    assert "edge-agent status" in error.value.hint
    assert "expired on" in freshness.warnings(home, now=now + 4 * DAY)[0]


def test_metadata_that_were_never_fetched_or_did_not_hold_are_said(visited):
    home, now = visited
    folder = home.path / "state" / "repository"
    assert freshness.freshness(home, now=now)
    problem = canonical.encode({"problem": "somebody rolled it back"})
    (folder / "problem.json").write_bytes(problem)
    with pytest.raises(RepositoryError, match="rolled it back"):
        freshness.freshness(home, now=now)
    assert freshness.warnings(home, now=now)[0].startswith("somebody rolled it back; nothing is")
    shutil.rmtree(folder)
    with pytest.raises(KitError, match="were ever fetched") as error:
        freshness.freshness(home, now=now)
    assert "edge-agent status" in error.value.hint
    assert repository.versions(home) == {}


def test_what_people_sign_is_said_a_month_before_and_to_whom(visited):
    home, _ = visited
    ends = repository.expiries(home)
    assert set(ends) == {"root", "targets", "snapshot", "timestamp", *roles.DELEGATED}
    late = ends["targets"] - 29 * DAY
    only = {"timestamp": late + 3 * DAY, "targets": ends["targets"]}
    assert "coordinator repository sign" in freshness._soon(only, late)
    assert freshness._soon(only, late - 2 * DAY) == ""


def test_status_and_the_coordinator_say_it_too(enrolled):
    home = enrolled.home("a")
    with enrolled.serving():
        told = inspection.status(home, now=clock.utc_now())
        assert told.warnings == ()
        late = inspection.standing(home, site.visit(home), now=clock.utc_now() + 2.5 * DAY)
        assert any("`timestamp` expires on" in line for line in late.warnings)
    with enrolled.open() as coordinator:
        now = clock.utc_now()
        fresh = signing.standing(coordinator)
        assert fresh.warnings == ()
        assert clock.parse_rfc3339(fresh.timestamp_expires) > now
        found = metrics.registry(coordinator)
        name = "coordinator_repository_expiry_timestamp_seconds"
        ends = {role: found.get_sample_value(name, {"role": role}) for role in roles.TOP}
    assert ends["timestamp"] < ends["targets"] < ends["root"]
    with enrolled.open(ahead=160 * DAY) as coordinator:
        [line] = signing.standing(coordinator).warnings
    assert "`targets` expires on" in line
    assert "coordinator repository sign`" in line
