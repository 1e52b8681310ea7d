"""A disk that is full to the last byte: what must go on goes on, the rest waits and says so."""

import shutil

import pytest

from coordinator import revocation
from coordinator.reserve import reserve
from edge_agent import withdrawal
from kit import clock
from kit.errors import KitError
from tests.fakes import site
from tests.fakes.disks import fill, small_disk
from tests.fakes.terminal import Terminal


def on_a_small_disk(federation, name, size):
    """Move one home to a disk of its own; a context that ends by unmounting it."""
    home, old = federation.folder / name, federation.folder.parent / f"old-{name}"
    home.rename(old)
    home.mkdir()
    disk = small_disk(home, size)
    disk.__enter__()
    shutil.copytree(old, home, dirs_exist_ok=True)
    return disk


def revoke(federation, name):
    key = federation.roots / "reviewer-reviewer-1.key"
    return ["revoke", federation.digest(name)[:12], "--key", key, "--reason", "gone", "--yes"]


def test_a_full_coordinator_permits_a_revocation_by_its_reserve_and_not_without(released):
    disk = on_a_small_disk(released, "hub", "40m")
    terminal = Terminal(released.folder)
    try:
        words = revoke(released, "c")
        with released.open() as coordinator:
            held = reserve(coordinator.home)
            assert not held.held_bytes
            filler = fill(released.hub)
            refused = terminal.run("coordinator", "hub", *words)  # nothing is held back
            assert refused.code == 1
            assert "coordinator: error: " in refused.err
            assert "Traceback" not in refused.err
            filler.unlink()
            assert "c" in {name for name, state in released.states().items() if state == "approved"}
            assert held.hold()
            filler = fill(released.hub)
            done = terminal.run("coordinator", "hub", *words, "--json")
            assert done.code == 0, done.err
            assert done.json["done"] is True
            assert held.held_bytes > held.size_bytes // 2  # what it did not need is held again
        assert released.states()["c"] == "revoked"
        assert not list(released.hub.glob(f"keystore/*{released.digest('c')}*"))
        filler.unlink()
    finally:
        disk.__exit__(None, None, None)


def test_a_serving_coordinator_on_a_full_disk_tells_and_takes_back_but_takes_nothing_in(pending):
    disk = on_a_small_disk(pending, "hub", "40m")
    try:
        with pending.serving() as coordinator:
            held = reserve(coordinator.home)
            site.wait_for(lambda: held.is_whole)
            filler = fill(pending.hub)
            assert site.visit(pending.home("a")).blueprints[0].state == "pending"
            assert held.is_whole  # a contact needs nothing of it
            study = site.STUDY
            gone = withdrawal.withdraw(pending.home("c"), study, reason="x", now=clock.utc_now())
            assert gone.state == "revoked"
            assert held.held_bytes > held.size_bytes // 2
            site.runs.write_run(
                pending.home("c"),
                pending.home("c").study(study),
                site.LABELS["c"],
                name="new",
                seed=5,
            )
            with pytest.raises(KitError, match="no room for this upload"):
                site.submit(pending.home("c"), run="new")
            filler.unlink()
            site.wait_for(lambda: held.is_whole)
            assert pending.states()["c"] == "revoked"
            with coordinator.state.read() as tx:
                assert tx.tree().size
            assert revocation.destroy_due(coordinator) == 0  # done while the disk was full
    finally:
        disk.__exit__(None, None, None)


def test_a_site_with_a_full_disk_can_withdraw_and_learns_of_withdrawals(released):
    home = released.home("a")
    with released.serving():
        site.visit(home)
        disk = on_a_small_disk(released, "a", "24m")
        try:
            site.visit(home)
            assert home.reserve.is_whole
            filler = fill(home.path)
            terminal = Terminal(released.folder)
            words = ["withdraw", "--study", site.STUDY, "--reason", "x", "--yes"]
            done = terminal.run("edge-agent", "a", *words, "--json", light=True)
            assert done.code == 0, done.err
            assert done.json["state"] == "revoked"
            assert terminal.run("edge-agent", "a", "status", light=True).code == 0
            home.reserve.give_up()
            again = fill(home.path, "again")  # and now nothing is held back
            refused = terminal.run("edge-agent", "a", "status", light=True)
            assert refused.code == 1
            assert "no space left" in refused.err
            filler.unlink()
            again.unlink(missing_ok=True)
            assert site.visit(home).releases[0].withdrawn
            assert home.reserve.is_whole
        finally:
            disk.__exit__(None, None, None)
