"""Metrics for Prometheus: figures of the state, the disk and the certificates, read when asked.

Served on a loopback port, because nothing here asks who reads. Sites go by their pseudonyms; no
figure says anything about patients. Times are Unix timestamps, so that an age is `time() - x`.
`docs/operations.md` lists every name.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.sql.elements import ColumnElement

from coordinator import repository, state
from coordinator.admission import Admission
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.reserve import reserve
from coordinator.state import Transaction
from coordinator.stores import Folder
from coordinator.submissions import BlueprintState
from kit import clock
from pki import certificates

LOOPBACK = "127.0.0.1"


class Figures(Collector):
    """Everything that can be read from the home; each scrape is one snapshot of the state."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def collect(self) -> Iterable[Metric]:
        """Return every figure as it is now.

        Raises:
            KitError: the state cannot be read.
        """
        with self._coordinator.state.read() as tx:
            yield from _of_the_state(tx)
        yield from _of_the_disk(self._coordinator)
        yield _expiries(self._coordinator)
        yield _of_the_repository(self._coordinator)


class Queues(Collector):
    """How full the places for transfers are, by kind."""

    def __init__(self, kinds: Mapping[str, Admission]) -> None:
        self._kinds = kinds

    def collect(self) -> Iterable[Metric]:
        """Return the queues as they are now."""
        views = {kind: admission.view() for kind, admission in self._kinds.items()}
        for name, text in (
            ("places", "Transfers that may run at once."),
            ("running", "Transfers that run."),
            ("waiting", "Sites that were told to come back and have a turn."),
            ("longest_wait_s", "How long the oldest of them waits."),
            ("turned_away", "How often a site was told to come back."),
        ):
            family = _family(f"coordinator_queue_{name.replace('_s', '_seconds')}", text, "kind")
            for kind, view in views.items():
                family.add_metric([kind], getattr(view, name))
            yield family


def _of_the_state(tx: Transaction) -> Iterator[Metric]:
    site, blueprint, release = state.sites, state.blueprints, state.releases
    yield _counts(tx, "coordinator_sites", "Sites by state.", site.c.state, "state")
    found = _counts(
        tx, "coordinator_blueprints", "Blueprints by state.", blueprint.c.state, "state"
    )
    seen = {sample.labels["state"] for sample in found.samples}
    for name in BlueprintState:
        if name.value not in seen:
            found.add_metric([name.value], 0)
    yield found
    waiting = (blueprint.c.state == BlueprintState.REVOKED) & blueprint.c.destroyed.is_(None)
    yield _one(
        "coordinator_destructions_waiting",
        "Revoked blueprints whose keys are kept until the grace period is over.",
        _count(tx, blueprint.c.digest, waiting),
    )
    yield _one(
        "coordinator_log_entries", "Entries of the audit log.", _count(tx, state.log.c.position)
    )
    contacts = _family("coordinator_site_last_contact_timestamp_seconds", "Last contact.", "site")
    for row in tx.all(sa.select(site.c.pseudonym, site.c.last_contact).where(_is_active())):
        if row.last_contact:
            contacts.add_metric([row.pseudonym], _timestamp(row.last_contact))
    yield contacts
    signed = _family(
        "coordinator_site_cosignature_timestamp_seconds", "Last cosignature as a witness.", "site"
    )
    table = state.cosignatures
    times = sa.select(table.c.pseudonym, sa.func.max(table.c.time).label("time"))
    for row in tx.all(times.group_by(table.c.pseudonym)):
        signed.add_metric([row.pseudonym], _timestamp(row.time))
    yield signed
    builds = _family("coordinator_build_last_timestamp_seconds", "Newest release.", "study")
    newest = sa.select(state.studies.c.id, sa.func.max(release.c.published).label("time"))
    built = release.c.digest.in_(sa.select(state.lineage.c.descendant))  # a base was not
    joined = newest.where(release.c.study_digest == state.studies.c.digest, built)
    for row in tx.all(joined.group_by(state.studies.c.id)):
        builds.add_metric([row.id], _timestamp(row.time))
    yield builds


def _of_the_disk(coordinator: Coordinator) -> Iterator[Metric]:
    home = coordinator.home
    free = shutil.disk_usage(home.path).free
    yield _one("coordinator_disk_free_bytes", "Free space on the disk of the home.", free)
    held = reserve(home).held_bytes
    yield _one("coordinator_disk_reserve_bytes", "Held back for revocations.", held)
    sizes = _family("coordinator_store_bytes", "Bytes in the folders of this machine.", "folder")
    sizes.add_metric(["staging"], _size(home.path / "staging"))
    for name in ("payloads", "shards", "releases"):
        store = getattr(coordinator.stores, name)
        if isinstance(store, Folder):  # nobody lists a bucket at every scrape
            sizes.add_metric([name], _size(store.folder))
    yield sizes
    yield _one(
        "coordinator_database_bytes",
        "Bytes of the database with its journal.",
        coordinator.state.size_bytes,
    )


def _expiries(coordinator: Coordinator) -> Metric:
    found = _family(
        "coordinator_certificate_expiry_timestamp_seconds",
        "When a certificate ends; `site-...` are the sites' signing certificates.",
        "certificate",
    )
    own = {
        "root": coordinator.root,
        "issuing": coordinator.issuing_certificate,
        "signing": coordinator.signing_chain[0],
    }
    for name, certificate in own.items():
        found.add_metric([name], certificate.not_valid_after_utc.timestamp())
    with coordinator.state.read() as tx:
        rows = tx.all(sa.select(state.sites).where(_is_active()))
    for row in rows:
        if row.signing_chain:
            leaf = certificates.from_pem(row.signing_chain)[0]
            found.add_metric([f"site-{row.pseudonym}"], leaf.not_valid_after_utc.timestamp())
    return found


def _of_the_repository(coordinator: Coordinator) -> Metric:
    """Return when its metadata end; nothing is signed anew by looking."""
    found = _family(
        "coordinator_repository_expiry_timestamp_seconds",
        "When the newest metadata of a role end; the timestamp is signed anew when a site asks.",
        "role",
    )
    for role, expires in sorted(repository.expiries(coordinator.home).items()):
        found.add_metric([role], expires.timestamp())
    return found


def registry(coordinator: Coordinator) -> CollectorRegistry:
    """Return a registry with the figures of one coordinator, for its own counters to join."""
    found = CollectorRegistry()
    found.register(Figures(coordinator))
    return found


@contextmanager
def served(registry: CollectorRegistry, port: int | None) -> Iterator[int | None]:
    """Answer scrapes on a loopback port (0: any; None: on none) while the block runs; yields it.

    Raises:
        StateError: the port is taken.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, addr=LOOPBACK, registry=registry)
    except OSError as error:
        raise StateError(
            f"cannot listen on `{LOOPBACK}:{port}` for metrics",
            hint="choose another --metrics-port, or leave it out",
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _is_active() -> ColumnElement[bool]:
    return state.sites.c.state == "active"


def _family(name: str, text: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=[label])


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counts(
    tx: Transaction, name: str, text: str, column: sa.Column[Any], label: str
) -> GaugeMetricFamily:
    found = _family(name, text, label)
    number: ColumnElement[Any] = sa.func.count().label("number")
    query = sa.select(column.label("value"), number).group_by(column)
    for row in tx.all(query):
        found.add_metric([row.value], row.number)
    return found


def _count(tx: Transaction, column: sa.Column[str], *where: ColumnElement[bool]) -> int:
    return int(tx.connection.scalar(sa.select(sa.func.count(column)).where(*where)) or 0)


def _timestamp(text: str) -> float:
    moment: datetime = clock.parse_rfc3339(text)
    return moment.timestamp()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
