"""The door: two gRPC services on two ports, thin over the typed services.

Every method is denied unless `AUTHORISED` names it. Who calls is read from the TLS certificate,
verified anew on every call, so a revoked site is out on its next call over an open connection.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import datetime
from ipaddress import ip_address
from typing import Any

import grpc

from coordinator import contact as contacts
from coordinator import (
    leftovers,
    logbook,
    messages,
    papers,
    registry,
    releases,
    revocation,
    rpc_errors,
    submissions,
)
from coordinator.context import Coordinator
from coordinator.errors import NotAllowedError, StateError
from coordinator.intake import supervisor
from coordinator.state import SERVE_LOCK
from kit.errors import FormatError, KitError
from kit.files import exclusive
from pki import certificates, enrolment, identity, keys, tls
from protos import exchange_pb2 as pb
from protos import exchange_pb2_grpc as stubs

DEMO_FEDERATION = "demo"
MAX_MESSAGE_BYTES = 4 << 20
WORKERS = 16
DOWNLOAD_CHUNK_BYTES = 512 << 10
FSYNC_EVERY_BYTES = 8 << 20
INTAKE_POLL_S = 1.0

# Deny by default: a method without a row here is refused. `None` means no client certificate.
AUTHORISED: dict[str, identity.Role | None] = {
    "/hospital_edge_kit.v1.Enrolment/Enrol": None,
    "/hospital_edge_kit.v1.Exchange/Contact": identity.Role.SITE,
    "/hospital_edge_kit.v1.Exchange/Leaves": identity.Role.SITE,
    "/hospital_edge_kit.v1.Exchange/Cosign": identity.Role.SITE,
    "/hospital_edge_kit.v1.Exchange/Renew": identity.Role.SITE,
    "/hospital_edge_kit.v1.Exchange/Begin": identity.Role.SITE,
    "/hospital_edge_kit.v1.Exchange/Upload": identity.Role.SITE,
    "/hospital_edge_kit.v1.Exchange/Withdraw": identity.Role.SITE,
    "/hospital_edge_kit.v1.Exchange/Download": identity.Role.SITE,
}
_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
    ("grpc.so_reuseport", 0),
]

_log = logging.getLogger(__name__)


class _Enrolment(stubs.EnrolmentServicer):
    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def Enrol(self, request: Any, _nobody: None) -> Any:
        reply = registry.enrol(
            self._coordinator,
            token=enrolment.secret_hash(request.secret),
            tls_request=request.tls_request,
            signing_request=request.signing_request,
            witness_key=request.witness_key,
        )
        return messages.enrol_reply(reply)


class _Exchange(stubs.ExchangeServicer):
    def __init__(self, coordinator: Coordinator, received: threading.Event) -> None:
        self._coordinator = coordinator
        self._received = received

    def Contact(self, request: Any, site: str) -> Any:
        news = contacts.contact(self._coordinator, site, request.known_size, request.first_leaf)
        return messages.contact_reply(news)

    def Leaves(self, request: Any, _site: str) -> Any:
        return pb.LeavesReply(leaves=logbook.page(self._coordinator, request.first))

    def Cosign(self, request: Any, site: str) -> Any:
        logbook.take_cosignature(self._coordinator, site, request.size, request.signature)
        return pb.CosignReply()

    def Renew(self, request: Any, site: str) -> Any:
        chain = registry.renew(self._coordinator, site, request.tls_request)
        return pb.RenewReply(tls_chain=chain)

    def Begin(self, request: Any, site: str) -> Any:
        progress = submissions.begin(
            self._coordinator,
            site,
            study_digest=request.study_digest,
            envelope=request.envelope,
            signing_chain=request.signing_chain,
            wrapped_key=request.wrapped_key,
            given=papers.Given(outbound=request.outbound, officer=request.officer),
        )
        return self._upload_status(site, progress)

    def Upload(self, chunks: Iterator[Any], site: str) -> Any:
        digest, since_commit = None, 0
        try:
            for chunk in chunks:
                digest = digest or chunk.digest
                if chunk.digest != digest:
                    raise FormatError("one upload call carries one blueprint")
                submissions.append(self._coordinator, site, digest, chunk.offset, chunk.data)
                since_commit += len(chunk.data)
                if since_commit >= FSYNC_EVERY_BYTES:
                    submissions.sync(self._coordinator, digest)
                    since_commit = 0
        except grpc.RpcError as error:
            raise NotAllowedError("the upload was cut off") from error
        if digest is None:
            raise FormatError("the upload has no chunk")
        progress = submissions.commit(self._coordinator, site, digest)
        self._received.set()
        return self._upload_status(site, progress)

    def Withdraw(self, request: Any, site: str) -> Any:
        chain = certificates.from_pem(request.signing_chain)
        digest = revocation.withdraw(self._coordinator, site, request.envelope, chain)
        return messages.status(submissions.one_status(self._coordinator, site, digest))

    def Download(self, request: Any, site: str) -> Iterator[Any]:
        _log.info("site %s downloads a release", site)
        path = releases.model_path(self._coordinator, request.release)
        with path.open("rb") as stream:
            offset = stream.seek(request.offset)
            while data := stream.read(DOWNLOAD_CHUNK_BYTES):
                yield pb.DownloadChunk(offset=offset, data=data)
                offset += len(data)

    def _upload_status(self, site: str, progress: submissions.Progress) -> Any:
        status = submissions.one_status(self._coordinator, site, progress.digest)
        return pb.UploadStatus(durable=progress.durable, blueprint=messages.status(status))


class _Guard(grpc.ServerInterceptor):
    """Refuses what `AUTHORISED` does not name, and hands every method the site that it proved.

    A method never asks who calls: it gets the caller, verified for the row of its own name.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def intercept_service(
        self, continuation: Callable[[Any], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        if details.method not in AUTHORISED:
            return grpc.unary_unary_rpc_method_handler(_denied)
        handler = continuation(details)
        if handler is None:
            return None
        caller = self._caller(AUTHORISED[details.method])
        if handler.response_streaming:
            return handler._replace(unary_stream=rpc_errors.stream(handler.unary_stream, caller))
        if handler.request_streaming:
            return handler._replace(stream_unary=rpc_errors.unary(handler.stream_unary, caller))
        return handler._replace(unary_unary=rpc_errors.unary(handler.unary_unary, caller))

    def _caller(self, role: identity.Role | None) -> Callable[[grpc.ServicerContext], str | None]:
        if role is None:
            return lambda _context: None
        return lambda context: registry.authenticate(self._coordinator, tls.peer(context))


def _denied(_request: Any, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "no such method for this caller")


class ServerIdentity:
    """The coordinator's TLS server leaf, issued by its own CA and renewed at 2/3 of its life."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._lock = threading.Lock()
        self._renew_after: datetime | None = None
        self._pair = (b"", b"")

    def pair(self) -> tuple[bytes, bytes]:
        """Return (key, chain) in PEM; called before every handshake."""
        now = self._coordinator.now()
        with self._lock:
            if self._renew_after is None or now >= self._renew_after:
                self._pair, self._renew_after = self._issue(now)
            return self._pair

    def _issue(self, now: datetime) -> tuple[tuple[bytes, bytes], datetime]:
        issuing, key = self._coordinator.issuing, keys.new_tls_key()
        hosts = [host.strip() for host in self._coordinator.config.hosts.split(",")]
        leaf = certificates.issue_tls_server(
            issuing, self._coordinator.identity, key.public_key(), hosts, now=now
        )
        lifetime = leaf.not_valid_after_utc - now
        return (keys.pem(key), certificates.pem(leaf, issuing.certificate)), now + lifetime * 2 / 3


class RunningServer:
    """Two listening ports and the intake beside them."""

    def __init__(self, coordinator: Coordinator, exchange: int, enrol: int) -> None:
        self._coordinator = coordinator
        self._received = threading.Event()
        self._stopping = threading.Event()
        who = ServerIdentity(coordinator)
        root = certificates.pem(coordinator.root)
        listen = coordinator.config.listen
        self._exchange = _server(coordinator)
        stubs.add_ExchangeServicer_to_server(  # type: ignore[no-untyped-call]
            _Exchange(coordinator, self._received), self._exchange
        )
        mutual = tls.server_credentials(who.pair, root=root, require_client=True)
        self.exchange_port = _bind(self._exchange, f"{listen}:{exchange}", mutual)
        self._enrolment = _server(coordinator)
        stubs.add_EnrolmentServicer_to_server(  # type: ignore[no-untyped-call]
            _Enrolment(coordinator), self._enrolment
        )
        server_only = tls.server_credentials(who.pair, root=root, require_client=False)
        self.enrol_port = _bind(self._enrolment, f"{listen}:{enrol}", server_only)
        self._worker = threading.Thread(target=self._take_in, name="intake", daemon=True)

    def start(self) -> None:
        """Begin to answer and to take in."""
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
        self._worker.join()

    def _take_in(self) -> None:
        self._attempt(leftovers.sweep)  # what the last server's crash left
        while not self._stopping.is_set():
            self._attempt(supervisor.run_waiting)
            self._attempt(revocation.destroy_due)
            self._received.wait(INTAKE_POLL_S)
            self._received.clear()

    def _attempt(self, work: Callable[[Coordinator], int]) -> None:
        """Do one kind of work; its failure must not keep the others, least of all shredding."""
        try:
            work(self._coordinator)
        except (KitError, OSError) as error:
            _log.error("%s has to wait: %s", work.__name__, error)


def _server(coordinator: Coordinator) -> grpc.Server:
    return grpc.server(
        futures.ThreadPoolExecutor(max_workers=WORKERS),
        interceptors=[_Guard(coordinator)],
        options=_OPTIONS,
        maximum_concurrent_rpcs=4 * WORKERS,
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
        StateError: a port is taken, or a demo federation would leave this machine (A23).
        KitError: another server runs on this home.
    """
    settings = coordinator.config
    if settings.federation == DEMO_FEDERATION and not _is_loopback(settings.listen):
        raise StateError(
            f"the federation `{DEMO_FEDERATION}` serves on loopback addresses only",
            hint="run `coordinator init` with a name of your own",
        )
    lock = coordinator.home.path / SERVE_LOCK
    with exclusive(lock, busy="another `coordinator serve` runs on this home"):
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


def _is_loopback(listen: str) -> bool:
    try:
        return ip_address(listen.strip("[]")).is_loopback
    except ValueError:
        return listen == "localhost"
