"""A serving coordinator stays small: nothing heavy is loaded, whatever is asked of it."""

import dataclasses
import json
import signal
import subprocess
import sys

from coordinator import reviews
from coordinator.context import Coordinator
from kit import config
from tests.fakes import site
from tests.fakes.terminal import environment, free_ports, wait_for

# What learns, draws, scans or builds has processes or commands of its own.
HEAVY = {
    "diffusers",
    "multiprocessing",
    "onnx",
    "onnxruntime",
    "opacus",
    "PIL",
    "safetensors",
    "scipy",
    "sqlalchemy.orm",
    "torch",
}
MOST_MB = 140  # of the 150 that a crowd may make of it
_SERVE = """
import atexit, json, sys
from pathlib import Path
from coordinator.cli import main

def tell():
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    print(json.dumps({"modules": sorted(sys.modules), "peak_mb": peak * 1024 / 1e6}))

atexit.register(tell)
sys.argv = ["coordinator", "serve", "--home", sys.argv[1]]
main()
"""


def test_serve_takes_a_blueprint_in_and_loads_nothing_heavy(enrolled):
    home = enrolled.home("a")
    with enrolled.serving(ports=free_ports(2)) as coordinator:
        address = f"127.0.0.1:{coordinator.config.exchange_port}"
    config.save(home.config_path, dataclasses.replace(home.config, exchange_address=address))
    log = enrolled.folder / "serve.log"
    with log.open("wb") as stream:
        words = [sys.executable, "-c", _SERVE, str(enrolled.hub)]
        server = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=stream, env=environment(), text=True
        )
    try:
        wait_for(lambda: b"enrolment on" in log.read_bytes(), server)
        digest = site.submit(home).blueprint
        with Coordinator.open(enrolled.hub) as coordinator:
            wait_for(lambda: reviews.show(coordinator, digest).state == "pending", server)
        site.visit(home)
        server.send_signal(signal.SIGTERM)
        out, _ = server.communicate(timeout=60)
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0, log.read_text()
    found = json.loads(out.splitlines()[-1])
    assert {"grpc", "sqlalchemy", "coordinator.submissions"} <= set(found["modules"])
    assert HEAVY & set(found["modules"]) == set()
    assert found["peak_mb"] < MOST_MB
