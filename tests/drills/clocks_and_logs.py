"""Clocks that are wrong, logs that were rewritten, states that are old."""

import shutil
from datetime import timedelta

from coordinator import backup, enrolments
from edge_agent import installed
from kit import clock
from kit.errors import KitError
from tests.drills.table import drill
from tests.fakes import site


def line_of(action, *arguments, **options):
    """The one line that an action is refused with; it must be refused."""
    try:
        action(*arguments, **options)
    except KitError as error:
        return str(error)
    raise AssertionError(f"{action.__name__} was not refused")


@drill(
    "clock 10 minutes off",
    done="the coordinator's clock 10 min ahead, then 10 min behind the site's; submissions",
    expected="both work",
)
def ten_minutes(federation):
    for name, ahead in (("a", timedelta(minutes=10)), ("b", timedelta(minutes=-10))):
        with federation.serving(ahead=ahead):
            site.visit(federation.home(name))
            assert site.submit(federation.home(name)).state == "received"
    return "contact and submission at +10 and at -10 min"


@drill(
    "clock 2 days off",
    done="the coordinator's clock 2 days ahead, then 2 days behind the site's",
    expected="no contact, in one line; with the clock set, all is well",
)
def two_days(federation):
    home, said = federation.home("a"), []
    for ahead in (timedelta(days=2), timedelta(days=-2)):
        with federation.serving(ahead=ahead):
            said.append(line_of(site.visit, home))
        with federation.serving():
            site.visit(home)
    return "; ".join(line.partition(" at `")[0] for line in said) + "; then fine"


@drill(
    "clock rollback",
    done="a site's clock set back a day after it learnt of a release",
    expected="nothing predicts until the clock is right (A18)",
    stage="released",
)
def rollback(federation):
    home, now = federation.home("a"), clock.utc_now()
    with federation.serving():
        site.visit(home)
        installed.fetch(home, site.STUDY, got=lambda *_: None)
    back = now - timedelta(days=1)
    said = line_of(installed.load, home, site.STUDY, now=back)
    assert "clock" in said, said
    assert installed.load(home, site.STUDY, now=clock.utc_now())
    return f"{said}; at the right time it predicts"


def one_more_entry(federation, name):
    with federation.open() as coordinator:
        enrolments.issue_token(coordinator, name)


@drill(
    "log fork",
    done="two logs with one past, each signed by the true key; the site saw the first, longer one",
    expected="the second is refused, however long it grows",
)
def fork(federation):
    other = federation.clone(federation.folder.parent / "other")
    one_more_entry(federation, "north")
    for name in ("south", "east", "west"):
        one_more_entry(other, name)
    home = federation.home("a")
    with federation.serving():
        first = site.visit(home).trust.size
    federation.hub.rename(other.folder / "first")
    shutil.copytree(other.hub, federation.hub)
    with federation.serving():
        said = line_of(site.visit, home)
    shutil.rmtree(federation.hub)
    (other.folder / "first").rename(federation.hub)
    with federation.serving():
        assert site.visit(home).trust.size == first
    return f"{said}; the first log still answers"


@drill(
    "old backup restored",
    done="backup; a revocation that a site sees; the backup and the newest key store restored",
    expected="that site refuses the old log; what was shredded has no key (A4)",
    stage="released",
)
def old_backup(federation):
    away = federation.folder.parent
    with federation.open() as coordinator:
        made = backup.back_up(coordinator, away / "backups", now=clock.utc_now())
    gone = federation.digest("c")
    with federation.serving() as coordinator:
        site.revocation_of(federation, coordinator, "c")
        site.visit(federation.home("a"))
    federation.hub.rename(away / "lost")
    restored = backup.restore(
        made.snapshot,
        federation.hub,
        keys=away / "lost" / "keys",
        keystore=away / "lost" / "keystore",
    )
    assert restored.unreadable_blueprints == (gone,)
    with federation.serving():
        said = line_of(site.visit, federation.home("a"))
        site.visit(federation.home("b"))
    return f"{said}; one blueprint without a key; a site that saw no more goes on"
