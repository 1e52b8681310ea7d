"""kill -9 of either side at any byte: what the coordinator holds is never sent again."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from kit import config
from tests.fakes.relay import Relay
from tests.fakes.terminal import free_ports, wait_for

SLACK = 1.02  # TLS, HTTP/2, a contact and a statement around the payload
SMALL_TALK_BYTES = 120_000
_SERVE = """
import sys
from coordinator.intake import supervisor
supervisor.run_waiting = lambda coordinator: 0  # what is received stays so
from coordinator.cli import main
sys.argv = ["coordinator", "serve", "--home", sys.argv[1]]
main()
"""
_SUBMIT = """
import sys, time
from pathlib import Path
from edge_agent import exchange, submission
from edge_agent.home import Home
from kit import clock
exchange.CHUNK_BYTES = 8 << 10
slow_s = float(sys.argv[2])
done = submission.submit(
    Home.open(Path(sys.argv[1])), "shapes", now=clock.utc_now(),
    sent=lambda *_: time.sleep(slow_s),
)
print(done.state, done.bytes_sent, done.payload_bytes)
"""


def start(code, *arguments, **options):
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, **options)


class Wire:
    """A coordinator's process, and a counting relay in front of it."""

    def __init__(self, federation):
        self.federation = federation
        with federation.serving(ports=free_ports(2)) as coordinator:
            self.port = coordinator.config.exchange_port
        self.log = federation.folder / "serve.log"
        self.server = None

    def serve(self):
        with self.log.open("wb") as stream:
            self.server = start(_SERVE, self.federation.hub, stderr=stream)
        wait_for(lambda: b"enrolment on" in self.log.read_bytes(), self.server)

    def kill(self, process):
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def staged(self):
        folder = self.federation.hub / "staging"
        return max((p.stat().st_size for p in folder.glob("*.part")), default=0)


@pytest.fixture
def wire(enrolled):
    found = Wire(enrolled)
    found.serve()
    yield found
    if found.server.poll() is None:
        found.kill(found.server)


def submitting(home, relay, *, slow_s):
    address = f"127.0.0.1:{relay.port}"
    config.save(home.config_path, dataclasses.replace(home.config, exchange_address=address))
    return start(_SUBMIT, home.path, slow_s, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    state, sent, total = out.split()
    return state.decode(), int(sent), int(total)


@pytest.mark.parametrize("side", ["site", "coordinator"])
def test_a_killed_side_costs_no_byte_that_the_coordinator_holds(wire, side):
    home, draw = wire.federation.home("a"), random.Random()
    held = 0
    for _ in range(2):
        offset = draw.randrange(held + 8192, held + 120_000)
        with Relay(("127.0.0.1", wire.port)) as relay:
            process = submitting(home, relay, slow_s=0.01)
            wait_for(lambda least=offset: wire.staged() >= least, process)
            wire.kill(process if side == "site" else wire.server)
            if side == "site":
                quiet(wire)
            else:
                process.communicate(timeout=120)
                assert process.returncode == 1
                wire.serve()
            assert relay.up <= (wire.staged() - held + (64 << 10)) * SLACK + SMALL_TALK_BYTES
        assert wire.staged() >= offset, f"seed {offset}"
        held = wire.staged()
    with Relay(("127.0.0.1", wire.port)) as relay:
        state, sent, total = finish(submitting(home, relay, slow_s=0))
        assert (state, sent) == ("received", total - held)
        assert total - held <= relay.up <= (total - held) * SLACK + SMALL_TALK_BYTES


def quiet(wire):
    """Wait until the coordinator has noticed that the site is gone."""
    last = -1
    while wire.staged() != last:
        last = wire.staged()
        time.sleep(0.3)


def test_a_whole_upload_that_was_acknowledged_is_not_sent_again_after_a_kill(wire):
    home = wire.federation.home("a")
    with Relay(("127.0.0.1", wire.port)) as relay:
        state, sent, total = finish(submitting(home, relay, slow_s=0))
        assert (state, sent) == ("received", total)
        wire.kill(wire.server)
        wire.serve()
        before = relay.up
        assert finish(submitting(home, relay, slow_s=0)) == ("received", 0, total)
        assert relay.up - before < SMALL_TALK_BYTES
    names = {path.suffix for path in (wire.federation.hub / "staging").iterdir()}
    assert names == {".c2sp"}  # settled: no part is left beside it
