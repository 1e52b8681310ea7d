"""The audit log: durable signed appends a second, and what proofs cost as it grows.

An append is an event in the coordinator's own transaction, committed with fsync, and a checkpoint
signed over it. Several events of one transaction share both. Proofs are those of a contact: root,
consistency from half way, and the receipt of an early entry.

    python -m benchmarks.audit_log [--quick] [--json FILE]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from coordinator import logbook
from coordinator.context import Coordinator
from coordinator.founding import found
from coordinator.home import CoordinatorConfig
from federation.auditlog.events import Kind
from kit import clock

BATCHES = (1, 10, 100)
REPEATS = 50


def settings():
    return CoordinatorConfig(
        federation="measured",
        hosts="127.0.0.1",
        exchange_port=1,
        enrol_port=2,
        listen="127.0.0.1",
        threads=1,
        revocation_grace_hours=0,
    )


def append(coordinator, first, batch):
    """Put one transaction's events on the log; returns the signed checkpoint."""
    with coordinator.write() as tx:
        for number in range(first, first + batch):
            tx.record(Kind.KEY_DESTROYED, f"{number:064x}")
        return logbook.Proofs(coordinator, tx).checkpoint


def appends_a_second(coordinator, batch, seconds):
    """Append for `seconds`; returns wall-clock appends a second."""
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        append(coordinator, done, batch)
        done += batch
    return done / (time.perf_counter() - start)


def grow(coordinator, size):
    with coordinator.state.read() as tx:
        here = tx.log_size()
    while here < size:
        append(coordinator, here, min(5000, size - here))
        here = min(size, here + 5000)


def proof_ms(coordinator):
    """Return milliseconds for a contact's proofs."""
    start = time.perf_counter()
    for _ in range(REPEATS):
        with coordinator.state.read() as tx:
            proofs = logbook.Proofs(coordinator, tx)
            proofs.consistency(proofs.size // 2)
            proofs.entries(f"{1:064x}")
    return (time.perf_counter() - start) * 1000 / REPEATS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter, and a smaller log")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    sizes = (1_000, 10_000) if options.quick else (1_000, 10_000, 100_000)
    figures = {"appends_per_second": {}, "proofs_ms": {}}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        hub = Path(folder) / "hub"
        found(hub, settings(), reviewer="measured", now=clock.utc_now())
        with Coordinator.open(hub) as coordinator:
            for batch in BATCHES:
                rate = appends_a_second(coordinator, batch, 1.0 if options.quick else 5.0)
                figures["appends_per_second"][batch] = round(rate)
                print(f"{batch:>4} in one transaction  {rate:>8.0f} durable signed appends/s")
        found(Path(folder) / "grown", settings(), reviewer="measured", now=clock.utc_now())
        with Coordinator.open(Path(folder) / "grown") as coordinator:
            for size in sizes:
                grow(coordinator, size)
                cost = proof_ms(coordinator)
                figures["proofs_ms"][size] = round(cost, 2)
                print(f"{size:>7} entries           {cost:>8.2f} ms for a contact's proofs")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
