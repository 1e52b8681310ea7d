"""Full disks at either side."""

import contextlib
import shutil

from coordinator.reserve import reserve
from edge_agent import installed, withdrawal
from kit import clock
from kit.errors import KitError
from tests.drills.clocks_and_logs import line_of
from tests.drills.table import drill
from tests.fakes import site
from tests.fakes.disks import fill, small_disk

STUDY = site.STUDY


@contextlib.contextmanager
def moved_to_a_small_disk(federation, name, size):
    """Put one home on a disk of its own for the length of a block."""
    home, old = federation.folder / name, federation.folder.parent / f"old-{name}"
    home.rename(old)
    home.mkdir()
    with small_disk(home, size):
        shutil.copytree(old, home, dirs_exist_ok=True)
        yield


@drill(
    "disk full at the coordinator",
    done="the disk filled to the last byte; an upload, a withdrawal, then room again",
    expected="the upload waits, the withdrawal is done, the same upload then arrives",
    stage="pending",
)
def coordinator_disk(federation):
    home = federation.home("c")
    with moved_to_a_small_disk(federation, "hub", "48m"), federation.serving() as coordinator:
        site.wait_for(lambda: reserve(coordinator.home).is_whole)
        filler = fill(federation.hub)
        state = withdrawal.withdraw(home, STUDY, reason="x", now=clock.utc_now()).state
        assert state == "revoked"
        site.runs.write_run(home, home.study(STUDY), site.LABELS["c"], name="again", seed=11)
        said = line_of(site.submit, home, run="again")
        filler.unlink()
        site.wait_for(lambda: reserve(coordinator.home).is_whole)
        assert site.submit(home, run="again").state == "received"
        site.wait_for(lambda: site.settled(federation))
        assert federation.states()["c"] == "pending"
    return f"withdrawn; {said}; later received and taken in"


@drill(
    "disk full at a site",
    done="the disk full while a release is fetched; then a withdrawal; then room again",
    expected="nothing half-installed, the withdrawal is done, the same fetch works",
    stage="released",
)
def site_disk(federation):
    home = federation.home("a")
    with federation.serving():
        site.visit(home)
        with moved_to_a_small_disk(federation, "a", "24m"):
            site.visit(home)
            assert home.reserve.is_whole
            filler = fill(home.path)
            home.releases.mkdir(exist_ok=True)
            said = line_of(installed.fetch, home, STUDY, got=lambda *_: None)
            with contextlib.suppress(KitError):
                installed.load(home, STUDY, now=clock.utc_now())
                raise AssertionError("half a release was installed")
            filler.unlink(missing_ok=True)
            release = installed.fetch(home, STUDY, got=lambda *_: None).release
            assert home.reserve.hold()
            filler = fill(home.path)
            with home.reserve.drawn_on():
                gone = withdrawal.withdraw(home, STUDY, reason="x", now=clock.utc_now())
            assert gone.state == "revoked"
            filler.unlink()
    return f"{said.partition(' of `')[0]}; then {release[:12]} installed; withdrawn on a full disk"
