"""Mutual TLS 1.3 for gRPC: credentials for both sides, and who is on the other end.

gRPC for Python has no option for a minimum version. Offering TLS 1.2 a cipher suite that needs an
RSA certificate, while every certificate here is ECDSA, leaves TLS 1.3 as the only handshake that
can succeed (`pki/__init__.py` sets it); `peer` checks the version of every call as well.
"""

from collections.abc import Callable
from typing import cast

import grpc
from cryptography import x509

from pki import GRPC_CAME_FIRST, certificates
from pki.errors import IdentityError

if GRPC_CAME_FIRST:
    raise RuntimeError("import pki before grpc: TLS 1.2 would be on offer otherwise")

CLIENT_OPTIONS = [
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 60_000),
]


def client_channel(address: str, *, root: bytes, key: bytes, chain: bytes) -> grpc.Channel:
    """Return a mutual-TLS channel; all arguments but the address are PEM."""
    credentials = grpc.ssl_channel_credentials(root, key, chain)
    return grpc.secure_channel(address, credentials, options=CLIENT_OPTIONS)


def server_auth_channel(address: str, *, root: bytes) -> grpc.Channel:
    """Return a channel that proves the server only (enrolment)."""
    credentials = grpc.ssl_channel_credentials(root)
    return grpc.secure_channel(address, credentials, options=CLIENT_OPTIONS)


def server_credentials(
    pair: Callable[[], tuple[bytes, bytes]], *, root: bytes, require_client: bool
) -> grpc.ServerCredentials:
    """Return server credentials that ask `pair` for (key, chain) in PEM before every handshake."""

    def fetch() -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [pair()], root_certificates=root if require_client else None
        )

    return grpc.dynamic_ssl_server_credentials(
        fetch(), fetch, require_client_authentication=require_client
    )


def peer(context: grpc.ServicerContext) -> tuple[x509.Certificate, ...]:
    """Return the client's certificate chain, leaf first.

    Raises:
        IdentityError: the connection is not mutual TLS 1.3.
    """
    facts = cast(dict[str, list[bytes]], context.auth_context())
    if facts.get("ssl_tls_version") != [b"TLSv1.3"]:
        raise IdentityError("the connection is not TLS 1.3")
    leaf = b"".join(facts.get("x509_pem_cert") or [])
    if not leaf:
        raise IdentityError("no client certificate was presented")
    # On a server, gRPC's chain leaves the peer's own certificate out (BoringSSL's rule).
    others = b"".join(facts.get("x509_pem_cert_chain") or [])
    first, *rest = [*certificates.from_pem(leaf), *(certificates.from_pem(others or leaf))]
    return (first, *(certificate for certificate in rest if certificate != first))
