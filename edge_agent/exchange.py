"""The wire to the coordinator: mutual TLS, typed answers, one clear line for every failure.

The only module of this side that sees protobuf messages.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from edge_agent import messages
from edge_agent.errors import BusyError, UnreachableError
from edge_agent.home import Home
from edge_agent.messages import Announcement, EnrolReply
from edge_agent.trust import Entry, News, StatusNews
from kit import canonical, clock
from kit.errors import KitError
from kit.files import read_limited
from kit.stalls import Patience, Watch
from pki import certificates, identity, keys, tls, verification
from pki.enrolment import Token
from pki.errors import IdentityError
from protos import exchange_pb2 as pb
from protos import exchange_pb2_grpc as stubs

import grpc  # isort: skip - pki sets the TLS 1.3 environment before gRPC reads it

CALL_TIMEOUT_S = 60
STALL_S = 120.0  # transfers have no other limit: a hospital's line may carry 4 Mbit/s
CHUNK_BYTES = 512 << 10
HINT_KEY = "hint-bin"
RETRY_KEY = "grpc-retry-pushback-ms"  # gRPC's own word for it (gRFC A6)
MIN_RETRY_S, MAX_RETRY_S = 0.1, 60.0  # whatever the coordinator asks for
_MAX_PEM_BYTES = 64 << 10
_MAX_MESSAGE_CHARACTERS = 400

# gRPC's words and those of `http.client`, not a stranger's.
_PROXY_ANSWER = re.compile(r"(?:response code|Tunnel connection failed:) ([0-9]{3})")

T = TypeVar("T")

# Yields the bytes of a file of a release, named by its digest, from an offset on.
Source = Callable[[str, int], Iterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadState:
    """How many bytes are durable at the coordinator, and the blueprint's status."""

    durable: int
    status: StatusNews


def enrol(token: Token, request: Any, *, proxy: str = "") -> EnrolReply:
    """Ask for certificates over the server-authenticated port; `request` lacks only the secret.

    The secret leaves only after a handshake of TLS 1.3 with the coordinator's ECDSA certificate.

    Raises:
        UnreachableError: nobody answers at the token's address, or it is not the coordinator.
        IdentityError: what answers is not the coordinator, or could speak an older TLS.
        KitError: the coordinator refuses; its words are in the message.
    """
    _check_place(token.pins.federation, token.enrol_address)
    root = certificates.from_der(token.pins.root_der)
    who, named = identity.coordinator(token.pins.federation), _named(token.enrol_address, proxy)
    try:
        tls.check_server(token.enrol_address, root=root, expected=who, proxy=proxy)
    except OSError as error:
        raise _unreachable(named, str(error)) from error
    pem = certificates.pem(root)
    with tls.server_auth_channel(token.enrol_address, root=pem, proxy=proxy) as channel:
        stub = stubs.EnrolmentStub(channel)  # type: ignore[no-untyped-call]
        request.secret = token.secret
        with _errors(named):
            reply = stub.Enrol(request, timeout=CALL_TIMEOUT_S)
    return messages.enrol_reply(reply)


def _unreachable(address: str, details: str) -> UnreachableError:
    answered = _PROXY_ANSWER.search(details)
    return UnreachableError(
        f"the coordinator at `{address}` cannot be reached",
        hint=f"the proxy answers {answered[1]}: see `proxy` in config.toml"
        if answered
        else "is it running, and is the port open? a revoked or foreign certificate and a"
        " wrong address look the same from here: `edge-agent doctor` tells them apart",
    )


class Exchange:
    """One connection of an enrolled site."""

    def __init__(self, channel: Any, address: str) -> None:
        self._stub = stubs.ExchangeStub(channel)  # type: ignore[no-untyped-call]
        self._address = address

    @classmethod
    @contextmanager
    def open(cls, home: Home) -> Iterator["Exchange"]:
        """Connect with this site's certificate, after checking that it still proves this site.

        Raises:
            IdentityError: the certificate has expired or is not this site's, or the demo
                federation would be looked for on another machine (A23).
        """
        _check_place(home.config.federation, home.config.exchange_address)
        chain = read_limited(home.tls_chain, limit=_MAX_PEM_BYTES, what="certificate")
        root = certificates.from_der(home.pins.root_der)
        leaf, *others = certificates.from_pem(chain)
        if home.config.own_authority:  # whose root only the coordinator needs
            proven = verification.claimed_identity(leaf)
        else:
            now = clock.utc_now()
            proven = verification.verify_tls_client((leaf, *others), root=root, now=now)
        if proven != home.identity:
            raise IdentityError("the TLS certificate in this home is another site's")
        home.settle_tls_key(leaf.public_key())
        signing = read_limited(home.signing_chain, limit=_MAX_PEM_BYTES, what="certificate")
        home.settle_signing_key(certificates.from_pem(signing)[0].public_key())
        key = keys.load_tls(home.key("tls.key"))
        address, proxy = home.config.exchange_address, home.config.proxy
        pem = certificates.pem(root)
        with tls.client_channel(address, root=pem, key=key, chain=chain, proxy=proxy) as channel:
            yield cls(channel, _named(address, proxy))

    def contact(
        self, known_size: int, first_leaf: int = 0, versions: Mapping[str, int] | None = None
    ) -> News:
        """Ask for the state of the world; nothing in it is verified yet.

        The audit log comes from leaf `first_leaf` on, as far as the first page goes; of the
        repository's metadata, what differs from `versions`.
        """
        request = pb.ContactRequest(
            known_size=known_size, first_leaf=first_leaf, repository=versions or {}
        )
        with _errors(self._address):
            reply = self._stub.Contact(request, timeout=CALL_TIMEOUT_S)
        return messages.news(reply)

    def leaves(self, first: int) -> tuple[bytes, ...]:
        """Return one more page of the audit log."""
        with _errors(self._address):
            reply = self._stub.Leaves(pb.LeavesRequest(first=first), timeout=CALL_TIMEOUT_S)
        return tuple(reply.leaves)

    def cosign(self, size: int, line: str) -> None:
        """Hand in this site's signature under a checkpoint."""
        with _errors(self._address):
            request = pb.CosignRequest(size=size, signature=line)
            self._stub.Cosign(request, timeout=CALL_TIMEOUT_S)

    def rekey(self, order: bytes, signing_chain: bytes) -> bytes:
        """Return a fresh chain (PEM) for the key in an order of the present signing key."""
        request = pb.RekeyRequest(order=order, signing_chain=signing_chain)
        with _errors(self._address):
            return bytes(self._stub.Rekey(request, timeout=CALL_TIMEOUT_S).chain)

    def renew(self, tls_request: bytes) -> bytes:
        """Return a fresh TLS chain (PEM) for a fresh key."""
        with _errors(self._address):
            reply = self._stub.Renew(
                pb.RenewRequest(tls_request=tls_request), timeout=CALL_TIMEOUT_S
            )
        return bytes(reply.tls_chain)

    def begin(self, announcement: Announcement) -> UploadState:
        """Announce a blueprint; idempotent."""
        request = messages.begin_request(announcement)
        with _errors(self._address):
            return _upload(self._stub.Begin(request, timeout=CALL_TIMEOUT_S))

    def upload(
        self, digest: str, ciphertext: BinaryIO, *, offset: int, sent: Callable[[int], None]
    ) -> UploadState:
        """Send everything from `offset` on; `sent(bytes)` follows what left.

        Raises:
            UnreachableError: the line broke, or nothing moved for two minutes.
            BusyError: the coordinator has no place now.
        """
        failures: list[BaseException] = []

        def chunks() -> Iterator[Any]:
            start = ciphertext.seek(offset)
            try:
                while data := ciphertext.read(CHUNK_BYTES):
                    yield pb.UploadChunk(digest=digest, offset=start, data=data)
                    start += len(data)
                    patience.moved(len(data))
                    sent(start)
            except Exception as error:  # gRPC's thread would swallow it
                failures.append(error)
                raise

        with _watched(self._address, lambda: call.cancel()) as patience:  # noqa: PLW0108 - made below
            call = self._stub.Upload.future(chunks())
            try:
                return _upload(call.result())
            except grpc.RpcError:
                if failures:
                    raise failures[0] from None
                raise
            finally:
                call.cancel()

    def withdraw(self, envelope: bytes, signing_chain: bytes) -> StatusNews:
        """Take this site's blueprint back."""
        request = pb.WithdrawRequest(envelope=envelope, signing_chain=signing_chain)
        with _errors(self._address):
            return messages.status(self._stub.Withdraw(request, timeout=CALL_TIMEOUT_S))

    def report(self, envelope: bytes, signing_chain: bytes) -> Entry:
        """Hand in this site's metrics of a release; returns what the log says of it."""
        request = pb.ReportRequest(envelope=envelope, signing_chain=signing_chain)
        with _errors(self._address):
            return messages.logged(self._stub.Report(request, timeout=CALL_TIMEOUT_S).entry)

    def download(self, release: str, offset: int) -> Iterator[bytes]:
        """Yield a release's model from `offset` on.

        Raises:
            UnreachableError: the line broke, or nothing moved for two minutes.
            BusyError: the coordinator has no place now; never after the first byte.
        """
        request = pb.DownloadRequest(release=release, offset=offset)
        with _watched(self._address, lambda: call.cancel()) as patience:  # noqa: PLW0108 - made below
            call = self._stub.Download(request)
            try:
                for chunk in call:
                    if chunk.offset != offset:
                        raise KitError("the coordinator sent a chunk of another offset")
                    offset += len(chunk.data)
                    patience.moved(len(chunk.data))
                    yield bytes(chunk.data)
            finally:
                call.cancel()


def patiently(act: Callable[[], T], *, tell: Callable[[str], None]) -> T:
    """Do what the coordinator may have no place for yet: wait as long as it says, and ask again."""
    while True:
        try:
            return act()
        except BusyError as busy:
            _wait(busy, tell)


def _wait(busy: BusyError, tell: Callable[[str], None]) -> None:
    tell(f"waiting: {busy}; again in {busy.retry_after_s:.1f} s")
    time.sleep(busy.retry_after_s)


def patient(source: Source, *, tell: Callable[[str], None]) -> Source:
    """Return `source` (a download) waiting for its place as `patiently` does."""

    def download(release: str, offset: int) -> Iterator[bytes]:
        while True:
            try:
                yield from source(release, offset)
            except BusyError as busy:  # before the first byte, never after it
                _wait(busy, tell)
            else:
                return

    return download


@contextmanager
def _watched(address: str, end: Callable[[], object]) -> Iterator[Patience]:
    """Watch one transfer; its end by the watch is a line that stands still."""
    watch = Watch(STALL_S)
    watch.start()
    try:
        with watch.over(end) as patience, patience.waiting():
            try:
                with _errors(address):
                    yield patience
            except KitError as error:
                if patience.ended:
                    raise UnreachableError(
                        f"nothing moved to or from `{address}` for {STALL_S:.0f} s",
                        hint="run the same command again: it goes on where it stopped",
                    ) from error
                raise
    finally:
        watch.stop()


@contextmanager
def _errors(address: str) -> Iterator[None]:
    try:
        yield
    except grpc.FutureCancelledError as error:
        raise _ended(address) from error
    except grpc.RpcError as error:
        code = error.code()
        details = canonical.printable(error.details() or "", width=_MAX_MESSAGE_CHARACTERS)
        if code is grpc.StatusCode.UNAVAILABLE:
            raise _unreachable(address, details) from error
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise UnreachableError(
                f"the coordinator at `{address}` did not answer in time"
            ) from error
        if code is grpc.StatusCode.CANCELLED:
            raise _ended(address) from error
        retry_after_s = _retry_after_s(error)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after_s is not None:
            raise BusyError(details, retry_after_s=retry_after_s) from error
        raise KitError(f"the coordinator refuses: {details}", hint=_hint(error)) from error


def _named(address: str, proxy: str) -> str:
    """Return an address as messages name it; a proxy's password is no part of it."""
    if not proxy:
        return address
    return f"{address}` through the proxy `{proxy.rpartition('//')[2].rpartition('@')[2]}"


def _ended(address: str) -> UnreachableError:
    return UnreachableError(
        f"the call to `{address}` was ended before it was done",
        hint="run the same command again: it goes on where it stopped",
    )


def _retry_after_s(error: Any) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key == RETRY_KEY and value.isascii() and value.isdigit():
            return min(max(int(value) / 1000, MIN_RETRY_S), MAX_RETRY_S)
    return None


def _hint(error: Any) -> str | None:
    for key, value in error.trailing_metadata() or ():
        if key == HINT_KEY:
            return canonical.printable(value.decode(errors="replace"), width=300)
    return None


def _upload(reply: Any) -> UploadState:
    return UploadState(durable=reply.durable, status=messages.status(reply.blueprint))


def _check_place(federation: str, address: str) -> None:
    identity.check_place(federation, address.rpartition(":")[0])
