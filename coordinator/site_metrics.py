"""What sites say of releases on their own images: taken where the study agreed to it, once of each.

Invariants:

- Only what the study's manifest takes is kept: it was signed before the first blueprint.
- The site is that of the TLS certificate, and its signing key signed the very report.
- A site speaks once of each release: no second figure can be held against the first (A11).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from cryptography import x509

from coordinator import authorities, descent, logbook, registry, rekeying, state
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, NotFoundError, StateError
from coordinator.logbook import Entry, Proofs
from coordinator.state import Transaction
from federation import dsse
from federation.auditlog.events import Kind
from federation.release import site_metrics as documents
from federation.release.site_metrics import SiteMetrics
from federation.release.statement import open_signed
from federation.study import Study
from kit import clock
from kit.errors import FormatError
from pki import certificates, identity, keys

_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """What one site said of one release; rounded at the site (docs/blueprint-format.md)."""

    release: str
    study: str
    site: str
    images: int
    accuracy_percent: int
    balanced_accuracy_percent: int | None
    grain_percent: int
    received: str
    withdrawn: bool
    report: str


def take(
    coordinator: Coordinator, site: str, envelope: bytes, chain: Sequence[x509.Certificate]
) -> Entry:
    """Keep and log a site's report; the same one again changes nothing. Returns its log entry.

    Raises:
        FormatError: it is off, from the future, says more than it may, or is not signed by this
            site.
        NotAllowedError: the study takes no metrics, or none of so few images.
        NotFoundError: there is no such release.
        StateError: the release is withdrawn, or this site spoke of it before.
        LimitError: this site caused too many log entries today.
    """
    with coordinator.state.read() as tx:
        row = registry.active_site(tx, site)
        anchor = authorities.anchor(coordinator, tx, row.authority)
        revoked = authorities.revocations(coordinator, tx, anchor, chain)
    payload = open_signed(
        envelope,
        documents.PAYLOAD_TYPE,
        chain,
        signer=identity.site(coordinator.config.federation, site),
        root=anchor.root,
        now=coordinator.now(),
        revocations=revoked,
    )
    report = SiteMetrics.from_bytes(payload)
    with coordinator.write() as tx:
        row = registry.active_site(tx, site)
        rekeying.check_signer(row, chain)
        rekeying.settle_signer(tx, row, certificates.fingerprint(chain[0]))
        if not _is_kept(tx, site, report):
            _check(tx, report)
            logbook.charge(tx, site)
            _keep(tx, site, report, envelope, chain)
            details = {"release": report.release, "study": report.study_digest}
            tx.record(Kind.METRICS_REPORTED, report.digest, actor=row.pseudonym, **details)
    with coordinator.state.read() as tx:
        return Proofs(coordinator, tx).entries(report.digest)[-1]


def _is_kept(tx: Transaction, site: str, report: SiteMetrics) -> bool:
    """Say whether this very report is here.

    Raises:
        StateError: another one of this site about the release is.
    """
    table = state.site_metrics
    mine = (table.c.release == report.release) & (table.c.site == site)
    found = tx.one(sa.select(table.c.digest).where(mine))
    if found is not None and found.digest != report.digest:
        raise StateError(
            "this site reported on the release before, with other figures",
            hint="a site speaks once of each release, so that no two figures of it tell of one"
            " patient; evaluate the next release",
        )
    return found is not None


def _check(tx: Transaction, report: SiteMetrics) -> None:
    table = state.releases
    row = tx.one(sa.select(table).where(table.c.digest == report.release))
    release = None if row is None else descent.release_of(row)
    if row is None or release is None or release.is_base:
        raise NotFoundError("there is no such release")
    if release.study_digest != report.study_digest:
        raise FormatError("the report names another study than the release's")
    study = Study.from_bytes(registry.find_study(tx, row.study_digest).manifest)
    least = study.sharing.metrics_from
    if not least:
        raise NotAllowedError(
            f"study `{study.id}` takes no metrics from sites", hint="its manifest says so"
        )
    if report.images < documents.rounded_images(least):
        raise NotAllowedError(f"study `{study.id}` takes metrics of {least} images or more")
    if row.withdrawn:
        raise StateError("this release is withdrawn")
    if clock.parse_rfc3339(report.time) - tx.now > _SKEW:
        raise FormatError(
            f"the report was signed at {report.time}, which is yet to come",
            hint="set the clock that is wrong",
        )


def _keep(
    tx: Transaction,
    site: str,
    report: SiteMetrics,
    envelope: bytes,
    chain: Sequence[x509.Certificate],
) -> None:
    tx.execute(
        sa.insert(state.site_metrics).values(
            release=report.release,
            site=site,
            digest=report.digest,
            received=clock.rfc3339(tx.now),
            envelope=envelope,
            chain=certificates.pem(*chain),
        )
    )


def listing(coordinator: Coordinator, *, prefix: str = "") -> list[Reported]:
    """Return every report, or those of the releases that begin with `prefix`, oldest first.

    Each is read from the signed document, whose signature is checked again.

    Raises:
        FormatError: a report was changed since it came.
    """
    reports, release = state.site_metrics, state.releases
    joined = reports.join(release, reports.c.release == release.c.digest, isouter=True)
    columns = (reports, release.c.withdrawn, release.c.study_digest)
    places = (reports.c.received, reports.c.release, reports.c.site)
    query = sa.select(*columns).select_from(joined).order_by(*places)
    with coordinator.state.read() as tx:
        rows = tx.all(query.where(reports.c.release.startswith(prefix, autoescape=True)))
        names = {r.digest: r.id for r in tx.all(sa.select(state.studies))}
    return [_reported(row, names) for row in rows]


def _reported(row: "sa.Row[tuple[object, ...]]", names: dict[str, str]) -> Reported:
    public = keys.public_bytes(certificates.from_pem(row.chain)[0].public_key())  # type: ignore[arg-type]
    parsed = dsse.parse(row.envelope, documents.PAYLOAD_TYPE)
    report = SiteMetrics.from_bytes(dsse.verify(parsed, keys.verifying_key(public)))
    if report.digest != row.digest:
        raise FormatError(f"report `{row.digest[:16]}` was changed since it came")
    return Reported(
        release=report.release,
        study=names.get(report.study_digest, report.study_digest),
        site=row.site,
        images=report.images,
        accuracy_percent=report.accuracy_percent,
        balanced_accuracy_percent=report.balanced_accuracy_percent,
        grain_percent=documents.grain_percent(report.images),
        received=row.received,
        withdrawn=bool(row.withdrawn),
        report=row.digest,
    )
