"""A Ray cluster in a network of its own: nodes with a token, killed at the end."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.terminal import Namespace, Terminal, free_ports, stop, wait_for

AGENT_PORT = 52365  # two nodes of one machine need two
START_S = 600
PATIENCE = {  # on a machine with other work
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "10",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
}
MEMORY_BYTES = 100 << 20  # Ray wants no less than 75 MiB for objects; ours are a line each


# Ray gives a node 30 s to come up, whatever else the machine does: by a slower clock here.
_RAY = """
import sys, time, types
import ray._private.node as node
clock = types.SimpleNamespace(**{name: getattr(time, name) for name in dir(time)})
clock.monotonic = lambda: time.monotonic() / 20
node.time = clock
from ray.scripts.scripts import main
sys.argv[0] = "ray"
main()
"""


class Cluster:
    """Nodes on loopback; `address` is where a driver joins."""

    def __init__(self, folder, prefix):
        self.folder, self.prefix = folder, prefix
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # nothing runs that could be drained
        } | PATIENCE
        self._nodes = []

    def start(self, *, processors, **changes):
        """Start a node; the first is the head."""
        first = not self._nodes
        port = self.address.rpartition(":")[2]
        head = ["--head", f"--port={port}", "--include-dashboard=false"]
        words = [
            *(sys.executable, "-c", _RAY, "start", "--block"),
            *(head if first else [f"--address={self.address}"]),
            *(
                "--disable-usage-stats",
                "--node-ip-address=127.0.0.1",
                "--include-log-monitor=false",
            ),
            f"--dashboard-agent-listen-port={AGENT_PORT + len(self._nodes)}",
            *(f"--num-cpus={processors}", f"--object-store-memory={MEMORY_BYTES}"),
            *([f"--temp-dir={self.folder}"] if first else []),
        ]
        log = self.folder / f"node-{len(self._nodes)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*self.prefix, *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=os.environ | self.environment | changes,
                start_new_session=True,
            )
        self._nodes.append(process)
        wait_for(lambda: b"Ray runtime started" in log.read_bytes(), process, timeout_s=START_S)

    def terminal(self, folder):
        """Return a terminal in the same network, with the token."""
        return ClusterTerminal(folder, tuple(self.prefix), self.environment)

    def stop(self):
        for process in reversed(self._nodes):
            os.killpg(process.pid, 15)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                stop(process, 9)


class ClusterTerminal(Terminal):
    """A terminal with the environment of a cluster's machine."""

    def __init__(self, folder, prefix, environment):
        super().__init__(folder, prefix)
        object.__setattr__(self, "environment", environment)

    def words(self, *arguments, **options):
        pairs = [f"{name}={value}" for name, value in self.environment.items()]
        found = super().words(*arguments, **options)
        return [*self.prefix, "env", *pairs, *found[len(self.prefix) :]]


@contextmanager
def running():
    """Yield a cluster without nodes; skips without Ray or a network namespace."""
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    namespace = Namespace()
    if not namespace.open():
        pytest.skip("no network namespace can be made")
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # its sockets' paths are short
    cluster = Cluster(folder, namespace.prefix)
    try:
        yield cluster
    finally:
        cluster.stop()
        namespace.close()
        shutil.rmtree(folder, ignore_errors=True)
