"""From a file at the site to durable `received` at the coordinator, and what it costs.

Measured between real processes over loopback, with everything that `edge-agent submit` does: a
contact, seal with both digests and signature, fsync at both ends, mutual TLS, digest before commit,
log entry and receipt. Sizes are above what the policy permits a blueprint (32 MiB); both processes
lift that one limit, so that figures compare with other systems'. Intake, which comes later in
processes of its own, is left out. Bytes are counted on a relay between the two, in a run that is
not timed. With `--rivals PYTHON` the systems that a consortium would else pick are measured in
turns with it, as far as that interpreter has them (`benchmarks/rivals`).
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from benchmarks import processes
from benchmarks.rivals import beside
from coordinator.context import Coordinator
from edge_agent.training.run import WEIGHTS
from federation.auditlog.events import Kind
from federation.blueprint import envelope, limits
from kit import config
from tests.fakes import federation as fakes
from tests.fakes import runs, site
from tests.fakes.relay import Relay

MB = 1_000_000
APPEND_S = 2.0
OFTEN_BYTES = 200 * MB
_SUBMIT = """
import json, sys, time
from pathlib import Path
from federation.blueprint import limits
limits.MAX_PAYLOAD_BYTES = 1 << 30
from edge_agent import submission
from edge_agent.home import Home
from kit import clock
first = []
began, used = time.perf_counter(), time.process_time()
done = submission.submit(
    Home.open(Path(sys.argv[1])), sys.argv[2], now=clock.utc_now(),
    sent=lambda *_: first or first.append(time.perf_counter()),
)
ended = time.perf_counter()
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(json.dumps({
    "state": done.state, "bytes": done.payload_bytes, "seconds": ended - began,
    "until_first_chunk_s": first[0] - began, "site_mb": peak * 1024 / 1e6,
    "site_cpu_s": time.process_time() - used,
}))
"""


def noise(path, size):
    """Write a file of `size` bytes that nothing can compress."""
    block = os.urandom(MB)
    with path.open("wb") as stream:
        for _ in range(size // MB):
            stream.write(block)


class Bench:
    """One federation, a study for every submission."""

    def __init__(self, folder, coordinators):
        self.folder, self.federation, self._count = folder, coordinators, 0

    def prepare(self, count):
        """Enrol the site and make as many studies as there will be submissions."""
        with self.federation.serving(ports=self._ports()) as coordinator:
            self.home = site.enrol(coordinator, self.federation, "a")
            for number in range(count):
                site.create_study(coordinator, name=f"s{number}")
            site.visit(self.home)

    def _ports(self):
        with Coordinator.open(self.federation.hub) as coordinator:
            return coordinator.config.exchange_port, coordinator.config.enrol_port

    def submit(self, size, *, through=None):
        """Submit one payload of `size` bytes from a process of its own."""
        name = f"s{self._count}"
        self._count += 1
        runs.write_run(self.home, self.home.study(name), site.LABELS["a"], name=name)
        noise(self.home.run(name) / WEIGHTS, size)
        runs.give_verdict(self.home, name)
        settings = self.home.config
        port = self._ports()[0] if through is None else through.port
        address = settings.exchange_address.rpartition(":")[0] + f":{port}"
        table = {f: getattr(settings, f) for f in settings.__dataclass_fields__}
        config.save(self.home.config_path, type(settings)(**table | {"exchange_address": address}))
        told = processes.told(_SUBMIT, self.home.path, name)
        if told["state"] != "received":
            sys.exit(f"a submission ended as {told['state']}")
        return told


def submissions(folder, sizes, repeats, guests=()):
    """Return one row per size; `guests` send the two largest in turns with ours, the huge once."""
    bench = Bench(folder, processes.founded(folder))
    bench.prepare(len(sizes) * (repeats + 1))
    rows = []
    with processes.serving(bench.federation) as server:
        for size in sizes:
            server.forget_peak()
            used, timed = 0.0, []
            for turn in range(repeats):
                before = server.cpu_s()
                timed.append(bench.submit(size))
                used += server.cpu_s() - before
                if size in sizes[-2:] and (turn == 0 or size <= OFTEN_BYTES):
                    for guest in guests:
                        guest.send(size)
            peak = server.peak_mb()
            with Relay(("127.0.0.1", bench._ports()[0])) as relay:
                bench.submit(size, through=relay)
                on_the_wire = relay.up + relay.down
            seconds = [t["seconds"] for t in timed]
            rows.append(
                {
                    "megabytes": size / MB,
                    "times": repeats,
                    "seconds_median": statistics.median(seconds),
                    "seconds_best": min(seconds),
                    "seconds_per_100_mb": statistics.median(seconds) / (size / (100 * MB)),
                    "until_first_chunk_s": statistics.median(
                        t["until_first_chunk_s"] for t in timed
                    ),
                    "site_cpu_s": statistics.median(t["site_cpu_s"] for t in timed),
                    "coordinator_cpu_s": used / repeats,
                    "bytes_ratio": on_the_wire / size,
                    "site_mb": max(t["site_mb"] for t in timed),
                    "coordinator_mb": peak,
                }
            )
    return rows


def sealing(folder, size):
    """Return MB/s of sealing file to durable file, and of opening one."""
    world = fakes.found()
    source, target = folder / "weights", folder / "payload"
    noise(source, size)
    began = time.perf_counter()
    with source.open("rb") as weights, target.open("wb") as sink:
        made = envelope.seal_stream(
            weights,
            sink,
            fakes.ARCHITECTURE,
            world.context(world.a),
            fakes.claims(),
            recipient=world.recipient,
            key=world.a.signing_key,
        )
        sink.flush()
        os.fsync(sink.fileno())
    sealed_s = time.perf_counter() - began
    statement = made.statement
    began = time.perf_counter()
    key = envelope.unwrap_key(made.wrapped_key, world.recipient_seed, statement)
    opened = envelope.open_payload(target.read_bytes(), key, statement)
    opened_s = time.perf_counter() - began
    if not opened.startswith(source.read_bytes()):
        sys.exit("what was sealed did not open to itself")
    return size / MB / sealed_s, size / MB / opened_s


def appends(folder):
    """Return durable log entries a second, each in a transaction of its own."""
    federation = processes.founded(folder)
    count, began = 0, time.perf_counter()
    with Coordinator.open(federation.hub) as coordinator:
        while time.perf_counter() - began < APPEND_S:
            with coordinator.write() as tx:
                tx.record(Kind.BLUEPRINT_PENDING, f"{count:064x}", study="0" * 64)
            count += 1
    return count / (time.perf_counter() - began)


def measure(sizes, repeats, python=None, rivals=beside.RIVALS):
    """Measure everything; `python` is the interpreter that has the rivals installed."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as name:
        folder = Path(name)
        guests = beside.invited(python, folder / "rivals", rivals)
        with contextlib.ExitStack() as stack:
            for guest in guests:
                guest.start(stack)
            rows = submissions(folder / "exchange", sizes, repeats, guests)
        for guest in guests:
            guest.count_bytes()
        (folder / "seal").mkdir()
        with mock.patch.object(limits, "MAX_PAYLOAD_BYTES", 1 << 30):
            seal, opening = sealing(folder / "seal", sizes[-2:][0])
        entries = appends(folder / "log")
    return {
        "submissions": rows,
        "beside": [guest.told() for guest in guests],
        "seal_mb_s": seal,
        "open_mb_s": opening,
        "log_appends_s": entries,
        "load_average": os.getloadavg()[0],
    }


def show(found):
    """Print the table."""
    print(
        "| MB | seconds (median) | best | per 100 MB | CPU s site | CPU s coordinator | bytes |"
        " site MB | coordinator MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in found["submissions"]:
        print(
            f"| {row['megabytes']:.0f} | {row['seconds_median']:.2f} | {row['seconds_best']:.2f} |"
            f" {row['seconds_per_100_mb']:.2f} | {row['site_cpu_s']:.2f} |"
            f" {row['coordinator_cpu_s']:.2f} | {row['bytes_ratio']:.4f}x |"
            f" {row['site_mb']:.0f} | {row['coordinator_mb']:.0f} |"
        )
    print(f"\nseal {found['seal_mb_s']:.0f} MB/s, open {found['open_mb_s']:.0f} MB/s,", end=" ")
    print(f"{found['log_appends_s']:.0f} durable log entries a second,", end=" ")
    print(f"load average {found['load_average']:.1f}")
    beside.show(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 and 40 MB, twice each")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument(
        "--rivals", metavar="PYTHON", help="an interpreter that has nvflare or flwr installed"
    )
    options = parser.parse_args()
    python = options.rivals and beside.interpreter(options.rivals)
    sizes = [20 * MB, 40 * MB] if options.quick else [50 * MB, 100 * MB, 500 * MB]
    found = measure(sizes, 2 if options.quick else 3, python)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if any(guest["failed"] for guest in found["beside"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
