"""The network sheet held to the packets: a hospital and a coordinator, each in its namespace."""

import re
import signal
import subprocess
import sys

import pytest

from tests.fakes import networks, runs, site
from tests.fakes.terminal import Terminal, stop, wait_for

EXCHANGE, ENROL = 8443, 8444


@pytest.mark.netns
def test_one_destination_two_ports_and_nothing_else_crosses_the_wire(tmp_path):
    addresses = {"hosts": networks.HUB, "listen": networks.HUB}
    ports = {"exchange_port": EXCHANGE, "enrol_port": ENROL}
    federation = site.found(tmp_path, **addresses, **ports)
    with federation.open() as coordinator:
        study = site.create_study(coordinator)
        token = site.token_file(coordinator, "a", tmp_path)
    log = tmp_path / "serve.log"
    with networks.Wire() as wire:
        hub, hospital = Terminal(tmp_path, tuple(wire.hub)), Terminal(tmp_path, tuple(wire.site))
        with hub.running("coordinator", "hub", "serve", log=log) as server:
            wait_for(lambda: log.exists() and b"enrolment on" in log.read_bytes(), server)
            waiting = hospital.run("edge-agent", "a", "enroll", "--token", token)
            code = re.search(r"[A-Z2-7]{4}-[A-Z2-7]{4}", waiting.err)[0]
            assert hub.run("coordinator", "hub", "sites", "confirm", "a", "--code", code).code == 0
            assert hospital.run("edge-agent", "a", "enroll").code == 0
            site.let_one_person_send(federation.home("a"))
            runs.write_run(federation.home("a"), study, site.LABELS["a"])
            sent = hospital.json("edge-agent", "a", "submit", "--study", site.STUDY, light=True)
            assert sent["bytes_sent"] == sent["payload_bytes"]
            assert wire.in_site("ip", "link", "set", "site", "down") == 0
            cut = hospital.run("edge-agent", "a", "status", light=True)
            assert (cut.code, "cannot be reached" in cut.err) == (1, True)
            assert wire.in_site("ip", "link", "set", "site", "up") == 0
            assert hospital.json("edge-agent", "a", "status", light=True)["blueprints"]
            elsewhere = "import socket; socket.create_connection(('192.0.2.1', 443), timeout=2)"
            assert wire.in_site(sys.executable, "-c", elsewhere) != 0  # there is no way out
            knock = f"import socket; socket.create_connection(('{networks.SITE}', 22), timeout=5)"
            assert subprocess.run(
                [*wire.hub, sys.executable, "-c", knock], capture_output=True, check=False
            ).returncode
            stop(server, signal.SIGTERM)
        seen = wire.attempts()
    knocked = (networks.HUB, networks.SITE, 22)
    assert knocked in seen  # the watch sees what goes the other way
    assert seen - {knocked} == {
        (networks.SITE, networks.HUB, EXCHANGE),
        (networks.SITE, networks.HUB, ENROL),
    }
