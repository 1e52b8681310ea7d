import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from coordinator import payloads, state, submissions
from coordinator.intake import limited, supervisor
from edge_agent.exchange import Exchange
from kit.errors import KitError
from tests.fakes import runs, site
from tests.fakes.sealing import append, begin_fields, sealed

TINY = limited.Limits(memory_bytes=48 << 20, timeout_s=60)
HASTY = limited.Limits(memory_bytes=256 << 20, timeout_s=0.01)


def receive(coordinator, home, *, run=site.STUDY):
    """Bring a blueprint to `received`, its intake not begun."""
    name, blueprint = home.config.site, sealed(home, run=run)
    digest = blueprint.statement.digest
    submissions.begin(coordinator, name, **begin_fields(home, blueprint))
    append(coordinator, name, digest, 0, blueprint.ciphertext)
    assert submissions.commit(coordinator, name, digest).state == "received"
    return digest


def hidden_branch(home):
    """A run that the first process refuses: its undeclared rows are not zero."""
    study = home.study(site.STUDY)
    weights = runs.random_tensors(
        runs.networks.architecture_for(study, "tiny"), study, study.classes, seed=5
    )
    return runs.write_run(
        home, study, site.LABELS[home.config.site], name="hidden", tensors=weights
    )


def status(coordinator, name, digest):
    return submissions.one_status(coordinator, name, digest)


def left_behind(coordinator, digest):
    home = coordinator.home
    files = [
        site.payload_file(coordinator, digest),
        home.received(digest),
        site.shards_folder(coordinator, digest),
    ]
    has_key = payloads.keystore(coordinator).has(payloads.BLUEPRINT, digest)
    return [path.name for path in files if path.exists()] + ["key"] * has_key


@pytest.mark.parametrize(
    ("limits", "reason"), [(TINY, "memory limit or crash"), (HASTY, "took longer than 0.01 s")]
)
def test_a_check_beyond_its_limits_refuses_and_the_server_goes_on(
    enrolled, monkeypatch, limits, reason
):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        digest = receive(coordinator, home)
    monkeypatch.setattr(supervisor, "BYTE_LIMITS", limits)
    with enrolled.serving() as coordinator:
        site.wait_for(lambda: site.settled(enrolled))
        found = status(coordinator, "a", digest)
        assert found.state == "refused"
        assert reason in found.reason
        assert left_behind(coordinator, digest) == []
        with Exchange.open(home) as exchange:
            assert exchange.contact(0).blueprints[0].reason == found.reason


def test_the_same_payload_passes_its_byte_check_within_the_true_limits(enrolled, monkeypatch):
    monkeypatch.setattr(supervisor, "MODEL_LIMITS", HASTY)
    with enrolled.open() as coordinator:
        digest = receive(coordinator, enrolled.home("a"))
        supervisor.take_in(coordinator, digest)
        found = status(coordinator, "a", digest)
    # It came as far as the second process, which alone was given no time.
    assert (found.state, found.reason) == ("refused", "the check took longer than 0.01 s")


def test_a_check_that_was_stopped_from_outside_refuses_nothing(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        digest = receive(coordinator, home, run=hidden_branch(home))
        stopper = threading.Thread(target=stop_first_child)
        stopper.start()
        with pytest.raises(KitError, match="stopped from outside"):
            supervisor.take_in(coordinator, digest)
        stopper.join()
        assert status(coordinator, "a", digest).state == "received"
        supervisor.take_in(coordinator, digest)
        assert "step 22" in status(coordinator, "a", digest).reason


def stop_first_child():
    own = Path(f"/proc/{os.getpid()}/task")
    while True:
        for task in own.iterdir():
            for child in (task / "children").read_text().split():
                if b"byte_check" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGTERM)
                    return


def test_what_a_crash_left_of_a_refused_payload_is_shredded_later(enrolled, monkeypatch):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        digest = receive(coordinator, home, run=hidden_branch(home))
        with monkeypatch.context() as patch:
            patch.setattr(payloads, "destroy", _killed)
            with pytest.raises(SystemExit):
                supervisor.take_in(coordinator, digest)
        assert status(coordinator, "a", digest).state == "refused"
        assert "key" in left_behind(coordinator, digest)
    with enrolled.serving() as coordinator:
        site.wait_for(lambda: not left_behind(coordinator, digest))


def _killed(*_):
    raise SystemExit("killed")


BRIEF = {"byte": limited.Limits(memory_bytes=256 << 20, timeout_s=6)}
BRIEF["model"] = limited.Limits(memory_bytes=1 << 30, timeout_s=6)
REASONS = {"a": "memory limit or crash", "b": "took longer than 6 s", "c": "status -11"}


@pytest.mark.parametrize("which", BRIEF)
def test_a_bomb_a_sleeper_and_a_crash_leave_the_server_serving(enrolled, monkeypatch, which):
    """In the first process and in the second; refused with the reason, and nothing is left."""
    homes = {name: enrolled.home(name) for name in REASONS}
    with enrolled.open() as coordinator:
        digests = {name: receive(coordinator, home) for name, home in homes.items()}
    monkeypatch.setattr(supervisor, f"{which.upper()}_CHECK", "tests.fakes.checks.hostile")
    monkeypatch.setattr(supervisor, f"{which.upper()}_LIMITS", BRIEF[which])
    with enrolled.serving() as coordinator:
        with Exchange.open(homes["b"]) as exchange:  # while the sleeper sleeps
            assert exchange.contact(0).blueprints[0].state == "received"
        site.wait_for(lambda: site.settled(enrolled))
        for name, digest in digests.items():
            with Exchange.open(homes[name]) as exchange:
                (found,) = exchange.contact(0).blueprints
            assert (found.digest, found.state) == (digest, "refused")
            assert REASONS[name] in found.reason
            site.wait_for(lambda digest=digest: left_behind(coordinator, digest) == [])


def waiting(enrolled, monkeypatch, sites):
    """Blueprints of `sites` that wait, in this order; checks are left out, turns are not."""
    rows = [SimpleNamespace(site=name, digest=f"{i:064d}") for i, name in enumerate(sites)]
    monkeypatch.setattr(supervisor, "_waiting", lambda _coordinator: list(rows))
    taken = []

    def take(_coordinator, digest):
        row = next(row for row in rows if row.digest == digest)
        if row.digest in stuck:
            raise KitError("the disk is full")
        rows.remove(row)
        taken.append(row.site)

    stuck: set[str] = set()
    monkeypatch.setattr(supervisor, "take_in", take)
    return rows, taken, stuck


def test_sites_take_turns_and_none_waits_for_another_twice(enrolled, monkeypatch):
    rows, taken, _ = waiting(enrolled, monkeypatch, "aaaabbc")
    with enrolled.open() as coordinator:
        while rows:
            supervisor.run_waiting(coordinator)
    assert "".join(taken) == "abcabaa"


def test_a_blueprint_that_has_to_wait_holds_up_nobody_not_even_its_site(enrolled, monkeypatch):
    rows, taken, stuck = waiting(enrolled, monkeypatch, "aab")
    stuck.add(rows[0].digest)
    with enrolled.open() as coordinator:
        assert supervisor.run_waiting(coordinator) == 2
        assert "".join(taken) == "ab"
        stuck.clear()
        assert supervisor.run_waiting(coordinator) == 1


def test_the_longest_waiting_blueprint_is_the_first(enrolled):
    with enrolled.open() as coordinator:
        digests = [receive(coordinator, enrolled.home(name)) for name in ("b", "a")]
        times = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")
        with coordinator.write() as tx:
            for digest, when in zip(reversed(digests), times, strict=True):
                own = state.blueprints.c.digest == digest
                tx.execute(sa.update(state.blueprints).where(own).values(received=when))
        assert [row.site for row in supervisor._waiting(coordinator)] == ["a", "b"]


def test_a_received_payload_that_is_gone_is_refused_so_that_it_can_be_sent_again(enrolled):
    with enrolled.open() as coordinator:
        digest = receive(coordinator, enrolled.home("a"))
        assert coordinator.home.received(digest).exists()
        coordinator.home.received(digest).unlink()
        supervisor.take_in(coordinator, digest)
        found = status(coordinator, "a", digest)
    assert (found.state, found.reason) == (
        "refused",
        "the received payload is gone; send it again",
    )
