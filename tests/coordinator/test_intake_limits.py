import os
import signal
import threading
from pathlib import Path

import pytest

from coordinator import payloads, submissions
from coordinator.intake import limited, supervisor
from edge_agent.exchange import Exchange
from kit.errors import KitError
from tests.fakes import runs, site
from tests.fakes.sealing import begin_fields, sealed

TINY = limited.Limits(memory_bytes=48 << 20, timeout_s=60)
HASTY = limited.Limits(memory_bytes=256 << 20, timeout_s=0.01)


def receive(coordinator, home, *, run=site.STUDY):
    """Bring a blueprint to `received`, its intake not begun."""
    name, blueprint = home.config.site, sealed(home, run=run)
    digest = blueprint.statement.digest
    submissions.begin(coordinator, name, **begin_fields(home, blueprint))
    submissions.append(coordinator, name, digest, 0, blueprint.ciphertext)
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
    files = [home.payload(digest), home.staging(digest), home.shards(digest)]
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
