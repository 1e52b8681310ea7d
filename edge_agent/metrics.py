"""Metrics of a site as a file for Prometheus' node exporter (textfile collector): nothing listens.

Written by `edge-agent status --metrics FILE`, after a failed contact as well. The figures are about
certificates, the log, the disk and the outbox; none is about patients or images. Times are Unix
timestamps, so that an age is `time() - x`. `docs/operations.md` lists every name.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from edge_agent import contact
from edge_agent.home import Home
from kit import canonical, clock
from kit.errors import KitError
from kit.files import read_limited, write_atomic
from pki import certificates

_MAX_PEM_BYTES = 64 << 10


@contextmanager
def written(home: Home, path: Path | None, *, now: datetime) -> Iterator[None]:
    """Write the metrics file when the block ends, with whether it succeeded.

    Raises:
        KitError: the file cannot be written.
    """
    try:
        yield
    except KitError:
        if path is not None:
            save(home, path, now=now, succeeded=False)
        raise
    if path is not None:
        save(home, path, now=now, succeeded=True)


def save(home: Home, path: Path, *, now: datetime, succeeded: bool) -> None:
    """Write the figures of a site; the last successful contact is taken over from the old file."""
    found = CollectorRegistry()

    def gauge(name: str, text: str, value: float) -> None:
        Gauge(f"edge_agent_{name}", text, registry=found).set(value)

    gauge("contact_success", "Whether the last contact succeeded and held.", int(succeeded))
    gauge("contact_attempt_timestamp_seconds", "The last attempt.", now.timestamp())
    before = _mark(home)
    if succeeded:
        write_atomic(before, clock.rfc3339(now).encode())
    if before.is_file():
        last = clock.parse_rfc3339(home.read(before, "last contact").decode()).timestamp()
        gauge("contact_timestamp_seconds", "The last contact that succeeded.", last)
    expiry = Gauge(
        "edge_agent_certificate_expiry_timestamp_seconds",
        "When a certificate of this site ends.",
        ("certificate",),
        registry=found,
    )
    for name, chain in (("tls", home.tls_chain), ("signing", home.signing_chain)):
        leaf = certificates.from_pem(read_limited(chain, limit=_MAX_PEM_BYTES, what="certificate"))[
            0
        ]
        expiry.labels(name).set(leaf.not_valid_after_utc.timestamp())
    known = contact.known(home)
    size = known.size if known else 0
    gauge("log_entries", "Size of the newest checkpoint that was proved here.", size)
    for name, text, value in _vouched(home):
        gauge(name, text, value)
    sealed = [folder for folder in home.outbox.iterdir() if folder.is_dir()]
    gauge("outbox_blueprints", "Sealed blueprints kept here.", len(sealed))
    gauge("outbox_bytes", "Their size.", sum(p.stat().st_size for f in sealed for p in f.iterdir()))
    gauge("disk_free_bytes", "Free space on the disk.", shutil.disk_usage(home.path).free)
    gauge("disk_reserve_bytes", "Held back for withdrawals.", home.reserve.held_bytes)
    write_atomic(path, generate_latest(found))


def _vouched(home: Home) -> list[tuple[str, str, float]]:
    """Return how far and how lately as many other sites vouch as a release wants, if it wants any.

    Both are 0 while they do not.
    """
    if not home.vouched.is_file():
        return []
    table = canonical.decode(home.read(home.vouched, "state of the witnesses"))
    if not table["needed"]:
        return []
    time = clock.parse_rfc3339(table["time"]).timestamp() if table["time"] else 0
    return [
        ("log_cosigned_entries", "Entries that enough other sites cosigned.", table["size"]),
        ("log_cosigned_timestamp_seconds", "When the last of enough other sites did.", time),
    ]


def _mark(home: Home) -> Path:
    return home.path / "state" / "last-contact"
