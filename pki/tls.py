"""Mutual TLS 1.3 for gRPC: credentials for both sides, and who is on the other end.

gRPC for Python has no option for a minimum version. Offering TLS 1.2 a cipher suite that needs an
RSA certificate, while every certificate here is ECDSA, leaves TLS 1.3 as the only handshake that
can succeed (`pki/__init__.py` sets it); `peer` checks the version of every call as well.
"""

import base64
import http.client
import re
import socket
import ssl
import warnings
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import grpc
import grpc.experimental
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from grpc.experimental import PrivateKeySignatureAlgorithm

from kit import canonical
from kit.errors import FormatError
from pki import GRPC_CAME_FIRST, certificates, keys, verification
from pki.errors import IdentityError
from pki.identity import Identity
from pki.keys import TlsKey
from pki.tokens import TokenTlsKey

if GRPC_CAME_FIRST:
    raise RuntimeError("import pki before grpc: TLS 1.2 would be on offer otherwise")

_PROXY = re.compile(r"http://(?:[^@/\s]+@)?(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")

HANDSHAKE_TIMEOUT_S = 20
CLIENT_OPTIONS = [
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 60_000),
]


def client_channel(
    address: str, *, root: bytes, key: TlsKey, chain: bytes, proxy: str = ""
) -> grpc.Channel:
    """Return a mutual-TLS channel.

    `root` and `chain` are PEM, `key` may live in a token, `proxy` is as `check_proxy` wants it.
    """
    if isinstance(key, TokenTlsKey):
        with warnings.catch_warnings():  # experimental, and so held to one minor version of gRPC
            warnings.simplefilter("ignore", grpc.experimental.ExperimentalApiWarning)
            credentials = grpc.experimental.ssl_channel_credentials_with_custom_signer(
                private_key_sign_fn=_signer(key), root_certificates=root, certificate_chain=chain
            )
    else:
        credentials = grpc.ssl_channel_credentials(root, keys.pem(key), chain)
    return grpc.secure_channel(address, credentials, options=_options(proxy))


def _signer(key: TokenTlsKey) -> Callable[[bytes, object, object], bytes]:
    """Return what signs a handshake (RFC 8446, section 4.4.3) in the key's token."""

    def sign(data: bytes, algorithm: object, _on_complete: object) -> bytes:
        if algorithm != PrivateKeySignatureAlgorithm.ECDSA_SECP256R1_SHA256:
            raise IdentityError(f"a TLS key in a token does not sign `{algorithm}`")
        return key.sign(data, ec.ECDSA(hashes.SHA256()))

    return sign


def server_auth_channel(address: str, *, root: bytes, proxy: str = "") -> grpc.Channel:
    """Return a channel that proves the server only (enrolment)."""
    credentials = grpc.ssl_channel_credentials(root)
    return grpc.secure_channel(address, credentials, options=_options(proxy))


def check_proxy(proxy: str) -> str:
    """Return the URL of an HTTP CONNECT proxy (RFC 9110, section 9.3.6) as gRPC takes it.

    Raises:
        FormatError: it is not `http://host:port`, with or without `user:password@`.
    """
    if proxy and not _PROXY.fullmatch(proxy):
        raise FormatError(
            f"`{canonical.printable(proxy.rpartition('@')[2])}` is no proxy",
            hint="write http://host:port, or http://user:password@host:port; what passes through it"
            " is TLS from this site to the coordinator",
        )
    return proxy


def _options(proxy: str) -> list[tuple[str, Any]]:
    """Return a channel's options: the proxy that is named, and none of the environment's."""
    if not proxy:
        return [*CLIENT_OPTIONS, ("grpc.enable_http_proxy", 0)]
    return [*CLIENT_OPTIONS, ("grpc.http_proxy", check_proxy(proxy))]


def server_credentials(
    pair: Callable[[], tuple[bytes, bytes]], *, clients: Callable[[], bytes] | None
) -> grpc.ServerCredentials:
    """Return server credentials that ask for everything anew before every handshake.

    `pair` gives (key, chain), `clients` the roots that a client's chain must lead to, all in PEM;
    without `clients` nobody is asked for a certificate.

    Raises:
        IdentityError: the certificate is not ECDSA P-256 (at the first handshake or a later one).
    """

    def fetch() -> grpc.ServerCertificateConfiguration:
        key, chain = pair()
        check_ecdsa(certificates.from_pem(chain)[0])
        return grpc.ssl_server_certificate_configuration(
            [(key, chain)], root_certificates=clients() if clients else None
        )

    return grpc.dynamic_ssl_server_credentials(
        fetch(), fetch, require_client_authentication=clients is not None
    )


def check_ecdsa(leaf: x509.Certificate) -> None:
    """Refuse a server certificate under which TLS 1.2 could be spoken (see the head of this file).

    Raises:
        IdentityError: its key is not ECDSA P-256.
    """
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError(
            "the server's certificate is not ECDSA P-256, so an old TLS version could be spoken",
            hint="nothing was sent; ask the coordinator to have its certificate issued anew",
        )


def check_server(
    address: str, *, root: x509.Certificate, expected: Identity, proxy: str = ""
) -> None:
    """Shake hands with a server and hang up: it must speak TLS 1.3 and be whom we expect.

    gRPC for Python tells a client neither version nor certificate, so this asks before anything
    secret is sent over a gRPC channel to the same address.

    Raises:
        OSError: nobody answers, or the handshake fails.
        IdentityError: the certificate is not `expected`'s ECDSA server certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=certificates.pem(root).decode())
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    name = host.strip("[]")
    with (
        _connect(name, int(port), check_proxy(proxy)) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        leaf = certificates.from_der(secure.getpeercert(binary_form=True) or b"")
    check_ecdsa(leaf)
    if verification.claimed_identity(leaf) != expected:
        raise IdentityError(f"the server is not `{expected.uri}`")


def _connect(host: str, port: int, proxy: str) -> socket.socket:
    if not proxy:
        return socket.create_connection((host, port), timeout=HANDSHAKE_TIMEOUT_S)
    url = urlsplit(proxy)
    tunnel = http.client.HTTPConnection(
        url.hostname or "", url.port or 80, timeout=HANDSHAKE_TIMEOUT_S
    )
    headers = {}
    if url.username:
        pair = f"{url.username}:{url.password or ''}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    tunnel.set_tunnel(host, port, headers)
    tunnel.connect()
    return tunnel.sock


def require_version(context: grpc.ServicerContext) -> None:
    """Check the version of the connection that a call came over.

    Raises:
        IdentityError: it is not TLS 1.3.
    """
    facts = cast(dict[str, list[bytes]], context.auth_context())
    if facts.get("ssl_tls_version") != [b"TLSv1.3"]:
        raise IdentityError("the connection is not TLS 1.3")


def peer(context: grpc.ServicerContext) -> tuple[x509.Certificate, ...]:
    """Return the client's certificate chain, leaf first.

    Raises:
        IdentityError: the connection is not mutual TLS 1.3.
    """
    require_version(context)
    facts = cast(dict[str, list[bytes]], context.auth_context())
    leaf = b"".join(facts.get("x509_pem_cert") or [])
    if not leaf:
        raise IdentityError("no client certificate was presented")
    # On a server, gRPC's chain leaves the peer's own certificate out (BoringSSL's rule).
    others = b"".join(facts.get("x509_pem_cert_chain") or [])
    first, *rest = [*certificates.from_pem(leaf), *(certificates.from_pem(others or leaf))]
    return (first, *(certificate for certificate in rest if certificate != first))
