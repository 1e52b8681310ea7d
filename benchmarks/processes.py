"""A coordinator and a site as processes of their own, for what is measured between them."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes import site
from tests.fakes.terminal import free_ports

# The real command with two changes: payloads of any size, and no intake, whose processes come after
# `received` and have limits of their own.
_SERVE = """
import sys
from coordinator.intake import supervisor
from federation.blueprint import limits
limits.MAX_PAYLOAD_BYTES = 1 << 30
supervisor.run_waiting = lambda coordinator: 0
from coordinator.cli import main
sys.argv = ["coordinator", "serve", "--home", sys.argv[1]]
main()
"""


def founded(folder, **changes):
    """Found a federation on ports that are free now."""
    exchange, enrol = free_ports(2)
    ports = {"exchange_port": exchange, "enrol_port": enrol}
    return site.found(Path(folder), **ports, **{"site_staging_mib": 4096} | changes)


class Server:
    """A running coordinator and what it needs of memory."""

    def __init__(self, process):
        self.pid = process.pid

    def forget_peak(self):
        """Begin to look for the peak anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu_s(self):
        """Return the processor time used so far, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mb(self):
        """Return the largest resident set since `forget_peak`, in MB."""
        return peak_mb(self.pid)


def peak_mb(pid="self"):
    """Return a process' largest resident set, in MB (10^6 bytes)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


@contextlib.contextmanager
def serving(federation):
    """Run a coordinator until the end of the block."""
    log = federation.folder / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(federation.hub)],
            stdin=subprocess.DEVNULL,
            stderr=stream,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        try:
            ends = time.monotonic() + 120
            while b"enrolment on" not in log.read_bytes():
                if process.poll() is not None or time.monotonic() > ends:
                    sys.exit(f"the coordinator did not start: {log.read_text()}")
                time.sleep(0.05)
            yield Server(process)
        finally:
            process.terminate()
            process.wait(timeout=60)


def told(code, *arguments):
    """Run a Python program of its own and return the JSON that it prints."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
