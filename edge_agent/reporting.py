"""`evaluate --send`: rounded metrics of a release, where the study agreed to them; else nothing.

Invariants:

- Nothing is said to anybody before the study's manifest and the number of images allow it.
- What is shown here is what is signed: the rounding comes before the signature.
- This site speaks once of each release. What was signed is kept, and a second command sends that
  very document or nothing: erasing a patient and evaluating again tells nobody more (A11).
- Metrics of an adapted model are sent by nothing.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_agent import acts, contact, trust
from edge_agent.exchange import Exchange
from edge_agent.home import Home
from edge_agent.submission import signing_chain
from federation import dsse
from federation.auditlog.checkpoint import Receipt
from federation.learning.downstream.metrics import Metrics
from federation.release import site_metrics as documents
from federation.release.site_metrics import SiteMetrics
from federation.release.statement import sign
from federation.study import Study
from kit import clock
from kit.errors import KitError
from kit.files import write_atomic
from pki import certificates, keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Exactly what left, when it was signed, and the log entry that says so."""

    images: int
    accuracy_percent: int
    balanced_accuracy_percent: int | None
    time: str
    report: str
    log_entry: int


def require_allowed(study: Study, *, adapted: str = "") -> None:
    """Want the study's manifest to take metrics, and the model to be a release.

    Raises:
        KitError: it is not so; nothing was sent.
    """
    if adapted:
        raise KitError(
            "metrics of an adapted model are not sent: they are about this site's patients alone",
            hint="leave out --send, or evaluate the release",
        )
    if not study.sharing.metrics_from:
        raise KitError(
            f"study `{study.id}` takes no metrics: nothing is sent",
            hint="leave out --send; another round of the study may agree to `--metrics-from`",
        )


def rounded(
    study: Study, release: str, metrics: Metrics, labels: NDArray[np.int64], *, now: datetime
) -> SiteMetrics:
    """Return what may be said of an evaluation; `labels` are the true columns, -1 for none.

    Raises:
        KitError: the study takes no metrics, or none of so few images.
    """
    require_allowed(study)
    if metrics.images < study.sharing.metrics_from:
        raise KitError(
            f"study `{study.id}` takes metrics of {study.sharing.metrics_from} images or more;"
            f" these are {metrics.images}: nothing is sent",
            hint="evaluate on more of this site's images",
        )
    images = documents.rounded_images(metrics.images)
    smallest = int(np.unique(labels, return_counts=True)[1].min())
    balanced = None
    if smallest >= documents.MIN_IMAGES:
        balanced = documents.rounded_percent(metrics.balanced_accuracy, images=smallest)
    return SiteMetrics(
        release=release,
        study_digest=study.digest,
        images=images,
        accuracy_percent=documents.rounded_percent(metrics.accuracy, images=images),
        balanced_accuracy_percent=balanced,
        time=clock.rfc3339(now),
        salt=secrets.token_hex(32),
    )


def send(home: Home, report: SiteMetrics) -> Sent:
    """Sign a report, send it, and keep it with its receipt; goes on where it was cut off.

    Raises:
        KitError: this site spoke of the release before, or the coordinator refuses.
        TrustError: the coordinator contradicts what it proved before, or proves nothing.
    """
    envelope, chain = _signed(home, report)
    acts.note(home, report.digest)
    with Exchange.open(home) as exchange:
        contact.contact(home, exchange)
        entry = exchange.report(envelope, chain)
    trust.check_entry(entry, home.pins, subject=report.digest)
    contact.keep_entry(home, entry)
    return Sent(
        images=report.images,
        accuracy_percent=report.accuracy_percent,
        balanced_accuracy_percent=report.balanced_accuracy_percent,
        time=report.time,
        report=report.digest,
        log_entry=Receipt.from_text(entry.receipt).index,
    )


def earlier(home: Home, release: str) -> SiteMetrics | None:
    """Return what this site signed about a release before, sent or not; None if nothing."""
    path = _path(home, release)
    if not path.is_file():
        return None
    return _read(home.read(path, "report"))


def _signed(home: Home, report: SiteMetrics) -> tuple[bytes, bytes]:
    """Sign what says nothing else than what was signed before, and keep it before it leaves."""
    path, before = _path(home, report.release), earlier(home, report.release)
    if before is not None and before != report:
        raise KitError(
            f"this site spoke of release `{report.release[:16]}` on {before.time}; it does once",
            hint="two figures of one release could tell of one patient; evaluate the next release",
        )
    chain = signing_chain(home)
    key = keys.load_signing(home.key("signing.key"))
    envelope = sign(report.to_bytes(), documents.PAYLOAD_TYPE, key, chain[0])
    write_atomic(path, envelope, mode=0o600)
    return envelope, certificates.pem(*chain)


def _read(envelope: bytes) -> SiteMetrics:
    return SiteMetrics.from_bytes(dsse.parse(envelope, documents.PAYLOAD_TYPE).payload)


def _path(home: Home, release: str) -> Path:
    return home.path / "reports" / f"{release}.json"
