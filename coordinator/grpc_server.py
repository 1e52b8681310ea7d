"""The door: two gRPC services on two ports, thin over the typed services.

Every call passes `guard.Guard` first: who may call is a table made from the contract, and who calls
is read from the TLS certificate, verified anew on every call, so a revoked site is out on its next
call over an open connection.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import grpc
from cryptography import x509

from coordinator import (
    authorities,
    calls,
    ceremony,
    enrolments,
    leftovers,
    logbook,
    messages,
    metrics,
    releases,
    renewals,
    requests,
    reserve,
    revocation,
    staging,
    submissions,
)
from coordinator.admission import Admission
from coordinator.context import Coordinator
from coordinator.errors import StateError
from coordinator.guard import Guard, Requests
from coordinator.intake import supervisor
from coordinator.state import SERVE_LOCK
from kit import logs
from kit.errors import FormatError, KitError
from kit.files import exclusive
from kit.stalls import Watch
from pki import certificates, enrolment, identity, keys, lifetimes, tls
from pki.certificates import Authority
from protos import exchange_pb2 as pb
from protos import exchange_pb2_grpc as stubs

MAX_MESSAGE_BYTES = 4 << 20
DOWNLOAD_PLACES = 8
SHORT_CALLS = 24  # workers beside those that transfers can hold
CONCURRENT_CALLS = 1024  # beyond, gRPC refuses by itself; a waiting call costs some kilobytes
DOWNLOAD_CHUNK_BYTES = 512 << 10
STALL_S = 60.0
ENROL_STALL_S = 10.0  # a stranger's patience is ours to choose
INTAKE_POLL_S = 1.0

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    # How far a sender may run ahead, for each upload: a line of 40 Mbit/s at 200 ms fills it. Left
    # to its own probing, gRPC keeps several megabytes of every upload in memory on a busy machine.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.so_reuseport", 0),
]

_log = logging.getLogger(__name__)


class Transfers:
    """The places for transfers and their queues; `uploads.view()` is for metrics."""

    def __init__(self, upload_places: int) -> None:
        self.uploads = Admission(upload_places)
        self.downloads = Admission(DOWNLOAD_PLACES)


class _Enrolment(stubs.EnrolmentServicer):
    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def Enrol(self, request: Any, _nobody: None) -> Any:
        reply = enrolments.enrol(
            self._coordinator,
            token=enrolment.secret_hash(request.secret),
            tls_request=request.tls_request,
            signing_request=request.signing_request,
            witness_key=request.witness_key,
            tls_chain=request.tls_chain,
            signing_chain=request.signing_chain,
        )
        return messages.enrol_reply(reply)


class _Exchange(stubs.ExchangeServicer):
    def __init__(
        self, coordinator: Coordinator, received: threading.Event, transfers: "Transfers"
    ) -> None:
        self._coordinator = coordinator
        self._received = received
        self._transfers = transfers

    def Contact(self, request: Any, site: str) -> Any:
        return messages.contact_reply(requests.contact(self._coordinator, site, request))

    def Leaves(self, request: Any, _site: str) -> Any:
        return pb.LeavesReply(leaves=logbook.page(self._coordinator, request.first))

    def Cosign(self, request: Any, site: str) -> Any:
        requests.cosign(self._coordinator, site, request)
        return pb.CosignReply()

    def Rekey(self, request: Any, site: str) -> Any:
        return pb.RekeyReply(chain=requests.rekey(self._coordinator, site, request))

    def Renew(self, request: Any, site: str) -> Any:
        return pb.RenewReply(tls_chain=requests.renew(self._coordinator, site, request))

    def Begin(self, request: Any, site: str) -> Any:
        digest, uploads = submissions.digest_of(request.envelope), self._transfers.uploads
        uploads.reserve(site, digest)  # before any arithmetic is spent on it
        progress = None
        try:
            progress = requests.begin(self._coordinator, site, request)
        finally:
            if progress is None or progress.state != submissions.BlueprintState.RECEIVING:
                uploads.release(site, digest)
        return self._upload_status(site, progress)

    def Upload(self, chunks: Requests, site: str) -> Any:
        with self._transfers.uploads.place(site, chunks.end):
            progress = self._receive(chunks, site)
        self._received.set()
        return self._upload_status(site, progress)

    def _receive(self, chunks: Requests, site: str) -> submissions.Progress:
        first = chunks.only()
        digest = first.digest
        with submissions.uploading(self._coordinator, site, digest) as upload:
            for chunk in chain((first,), chunks):
                if chunk.digest != digest:
                    raise FormatError("one upload call carries one blueprint")
                if upload.append(chunk.offset, chunk.data):
                    submissions.require_receiving(self._coordinator, site, digest)
            return submissions.commit(self._coordinator, site, digest, upload)

    def Withdraw(self, request: Any, site: str) -> Any:
        digest = requests.withdraw(self._coordinator, site, request)
        return messages.status(submissions.one_status(self._coordinator, site, digest))

    def Report(self, request: Any, site: str) -> Any:
        entry = requests.report(self._coordinator, site, request)
        return pb.ReportReply(entry=messages.entry(entry))

    def Download(self, request: Any, site: str) -> Iterator[Any]:
        name = releases.require_file(self._coordinator, request.release)
        with self._transfers.downloads.place(site, lambda: None):
            _log.info("site %s downloads a release", site)
            with self._coordinator.stores.releases.open(name) as stream:
                offset = stream.seek(request.offset)
                while data := stream.read(DOWNLOAD_CHUNK_BYTES):
                    yield pb.DownloadChunk(offset=offset, data=data)
                    offset += len(data)

    def _upload_status(self, site: str, progress: submissions.Progress) -> Any:
        status = submissions.one_status(self._coordinator, site, progress.digest)
        return pb.UploadStatus(durable=progress.durable, blueprint=messages.status(status))


class ServerIdentity:
    """The coordinator's TLS server leaf: renewed at 2/3 of its life, or when the CA was."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._lock = threading.Lock()
        self._issuer: x509.Certificate | None = None
        self._renew_from = datetime.min.replace(tzinfo=UTC)
        self._pair = (b"", b"")

    def pair(self) -> tuple[bytes, bytes]:
        """Return (key, chain) in PEM; called before every handshake.

        Raises:
            IdentityError: the leaf is not ECDSA: TLS 1.2 would be on offer (see `pki.tls`).
        """
        now, issuing = self._coordinator.now(), self._coordinator.issuing
        with self._lock:
            if now >= self._renew_from or issuing.certificate != self._issuer:
                self._pair = self._issue(issuing, now)
                self._issuer = issuing.certificate
            return self._pair

    def _issue(self, issuing: Authority, now: datetime) -> tuple[bytes, bytes]:
        key = keys.new_tls_key()
        hosts = [host.strip() for host in self._coordinator.config.hosts.split(",")]
        leaf = certificates.issue_tls_server(
            issuing, self._coordinator.identity, key.public_key(), hosts, now=now
        )
        self._renew_from = lifetimes.renewal_due(leaf)
        return keys.pem(key), certificates.pem(leaf, issuing.certificate)


class RunningServer:
    """Two listening ports and the intake beside them."""

    def __init__(self, coordinator: Coordinator, exchange: int, enrol: int) -> None:
        self._coordinator = coordinator
        self._received = threading.Event()
        self._stopping = threading.Event()
        who = ServerIdentity(coordinator)
        listen = coordinator.config.listen
        self.metrics = metrics.registry(coordinator)
        log = calls.CallLog(coordinator, self.metrics)
        self.transfers = Transfers(coordinator.config.upload_places)
        kinds = {"upload": self.transfers.uploads, "download": self.transfers.downloads}
        self.metrics.register(metrics.Queues(kinds))
        self._watches = (Watch(STALL_S), Watch(ENROL_STALL_S))
        self._exchange = _server(coordinator, self._watches[0], log)
        stubs.add_ExchangeServicer_to_server(  # type: ignore[no-untyped-call]
            _Exchange(coordinator, self._received, self.transfers), self._exchange
        )
        mutual = tls.server_credentials(who.pair, clients=lambda: authorities.roots(coordinator))
        self.exchange_port = _bind(self._exchange, f"{listen}:{exchange}", mutual)
        self._enrolment = _server(coordinator, self._watches[1], log)
        stubs.add_EnrolmentServicer_to_server(  # type: ignore[no-untyped-call]
            _Enrolment(coordinator), self._enrolment
        )
        server_only = tls.server_credentials(who.pair, clients=None)
        self.enrol_port = _bind(self._enrolment, f"{listen}:{enrol}", server_only)
        self._worker = threading.Thread(target=self._take_in, name="intake", daemon=True)

    def start(self) -> None:
        """Begin to answer and to take in."""
        for watch in self._watches:
            watch.start()
        self._exchange.start()
        self._enrolment.start()
        self._worker.start()

    def stop(self) -> None:
        """End calls within five seconds and wait for the intake of the current blueprint."""
        self._stopping.set()
        self._received.set()
        ended = [self._exchange.stop(5), self._enrolment.stop(5)]
        for event in ended:
            event.wait()
        for watch in self._watches:
            watch.stop()
        self._worker.join()

    def _take_in(self) -> None:
        self._attempt(leftovers.sweep)  # what the last server's crash left
        while not self._stopping.is_set():
            self._attempt(supervisor.run_waiting)
            self._attempt(revocation.destroy_due)
            self._attempt(staging.expire)
            self._attempt(renewals.renew_due)
            self._attempt(reserve.hold)
            self._received.wait(INTAKE_POLL_S)
            self._received.clear()

    def _attempt(self, work: Callable[[Coordinator], int]) -> None:
        """Do one kind of work; its failure must not keep the others, least of all shredding."""
        try:
            work(self._coordinator)
        except (KitError, OSError) as error:
            what = logs.fields(command=work.__name__)
            _log.error("%s has to wait: %s", work.__name__, error, extra=what)


def _server(coordinator: Coordinator, watch: Watch, log: calls.CallLog) -> grpc.Server:
    workers = coordinator.config.upload_places + DOWNLOAD_PLACES + SHORT_CALLS
    return grpc.server(
        futures.ThreadPoolExecutor(max_workers=workers),
        interceptors=[log, Guard(coordinator, watch)],
        options=_OPTIONS,
        maximum_concurrent_rpcs=CONCURRENT_CALLS,
    )


def _bind(server: grpc.Server, address: str, credentials: grpc.ServerCredentials) -> int:
    try:
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StateError(
            f"cannot listen on `{address}`", hint="is another program using the port?"
        ) from error


@contextmanager
def serving(
    coordinator: Coordinator, *, exchange_port: int | None = None, enrol_port: int | None = None
) -> Iterator[RunningServer]:
    """Serve while the block runs; one server per home.

    Raises:
        StateError: a port is taken, or the offline keys are still here (A16).
        IdentityError: a demo federation would leave this machine (A23).
        KitError: another server runs on this home.
    """
    settings = coordinator.config
    ceremony.require_separated(coordinator.home)
    identity.check_place(settings.federation, settings.listen)
    lock = coordinator.home.path / SERVE_LOCK
    busy = "another `coordinator serve` runs on this home"
    with exclusive(lock, busy=busy), coordinator.state.kept_open():
        server = RunningServer(
            coordinator,
            settings.exchange_port if exchange_port is None else exchange_port,
            settings.enrol_port if enrol_port is None else enrol_port,
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()
