"""A hundred sites submit 50 MB each at once: is anything lost, who waits, how much memory it takes.

The coordinator is a process of its own with its usual places; the sites are threads of this one,
each with its own certificate, channel and signed statement. All statements are for the same random
bytes, which is as far as a blueprint goes before intake (left out here, as in `exchange.py`): the
largest payload that policy permits is 32 MiB, the transport's own limit is twice that. Exits 0 only
if every site's blueprint is `received` and on the log. That the queue is fair is a law of
`tests/coordinator/test_admission.py`; here stands how long the last one waited.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.exchange import MB, noise
from coordinator import logbook
from coordinator.context import Coordinator
from edge_agent.exchange import Exchange, patiently
from edge_agent.messages import Announcement
from edge_agent.submission import signing_chain
from federation import dsse
from federation.auditlog.events import Kind
from federation.blueprint.statement import PAYLOAD_TYPE
from pki import certificates, keys
from tests.fakes import runs, site
from tests.fakes.sealing import sealed

LABELS = ("round", "long")


def announced(home, payload, digest):
    """Return a statement of `home` that is about `payload`, signed, and what goes with it."""
    made = sealed(home)
    statement = dataclasses.replace(
        made.statement, ciphertext_sha256=digest, ciphertext_length=payload.stat().st_size
    )
    key, chain = keys.load_signing(home.key("signing.key")), signing_chain(home)
    keyid = certificates.fingerprint(chain[0])
    envelope = dsse.sign(statement.to_bytes(), PAYLOAD_TYPE, key, keyid=keyid)
    return statement.digest, Announcement(
        study_digest=statement.context.study_digest,
        envelope=envelope,
        signing_chain=home.signing_chain.read_bytes(),
        wrapped_key=made.wrapped_key,
    )


@dataclasses.dataclass
class Sender:
    """One site that submits as `edge-agent submit` does: asks, waits as told, sends."""

    home: object
    payload: Path
    digest: str
    announcement: object
    waited: int = 0
    asked_s: float = 0.0
    received_s: float = 0.0
    error: str = ""

    def run(self):
        try:
            with Exchange.open(self.home) as exchange:
                self.asked_s = time.monotonic()
                state = patiently(lambda: self._send(exchange), tell=self._told)
                self.received_s = time.monotonic()
                self.error = "" if state == "received" else f"ended as {state}"
        except Exception as error:  # noqa: BLE001 - a lost site is what this looks for
            self.error = f"{type(error).__name__}: {error}"

    def _send(self, exchange):
        reply = exchange.begin(self.announcement)
        if reply.status.state == "receiving":
            with self.payload.open("rb") as stream:
                reply = exchange.upload(
                    self.digest, stream, offset=reply.durable, sent=lambda _: None
                )
        return reply.status.state

    def _told(self, _line):
        self.waited += 1


def crowd(federation, count, payload):
    """Enrol `count` sites and return them ready to send."""
    with Coordinator.open(federation.hub) as found:
        ports = found.config.exchange_port, found.config.enrol_port
    digest = hashlib.sha256(payload.read_bytes()).hexdigest()
    senders = []
    with federation.serving(ports=ports) as coordinator:
        study = site.create_study(coordinator, classes=LABELS)
        for number in range(count):
            home = site.enrol(coordinator, federation, f"h{number}")
            runs.write_run(home, study, LABELS, seed=number)
            senders.append(Sender(home, payload, *announced(home, payload, digest)))
    return senders


def measure(count, size):
    """Let them all send at once."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as name:
        federation = processes.founded(Path(name) / "crowd")
        payload = Path(name) / "payload"
        noise(payload, size)
        senders = crowd(federation, count, payload)
        with processes.serving(federation) as server:
            server.forget_peak()
            threads = [threading.Thread(target=sender.run) for sender in senders]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds, peak = time.monotonic() - began, server.peak_mb()
        with Coordinator.open(federation.hub) as coordinator:
            logged = [
                e.subject for e in logbook.events(coordinator) if e.kind is Kind.BLUEPRINT_RECEIVED
            ]
    lost = [s.error or "not on the log" for s in senders if s.error or s.digest not in logged]
    return {
        "sites": count,
        "megabytes_each": size / MB,
        "seconds": seconds,
        "lost": lost,
        "turned_away": sum(sender.waited for sender in senders),
        "longest_wait_s": max(s.received_s - s.asked_s for s in senders),
        "coordinator_mb": peak,
        "load_average": os.getloadavg()[0],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="20 sites, 5 MB each")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    count, size = (20, 5) if options.quick else (options.sites, options.megabytes)
    found = measure(count, size * MB)
    print("| sites | MB each | seconds | lost | turned away | longest wait s | server MB |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {found['sites']} | {found['megabytes_each']:.0f} | {found['seconds']:.1f} |"
        f" {len(found['lost'])} | {found['turned_away']} | {found['longest_wait_s']:.1f} |"
        f" {found['coordinator_mb']:.0f} |"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if found["lost"]:
        sys.exit(f"lost: {found['lost'][0]}")


if __name__ == "__main__":
    main()
