"""Mutual TLS 1.3 for gRPC: credentials for both sides, and who is on the other end.

gRPC for Python has no option for a minimum version. Offering TLS 1.2 a cipher suite that needs an
RSA certificate, while every certificate here is ECDSA, leaves TLS 1.3 as the only handshake that
can succeed (`pki/__init__.py` sets it); `peer` checks the version of every call as well.
"""

import re
import warnings
from collections.abc import Callable
from typing import Any, cast

import grpc
import grpc.experimental
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from grpc.experimental import PrivateKeySignatureAlgorithm

from kit import canonical
from kit.errors import FormatError
from pki import GRPC_CAME_FIRST, certificates, keys
from pki.errors import IdentityError
from pki.keys import TlsKey
from pki.tokens import TokenTlsKey

if GRPC_CAME_FIRST:
    raise RuntimeError("import pki before grpc: TLS 1.2 would be on offer otherwise")

_PROXY = re.compile(r"http://(?:[^@/\s]+@)?(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")

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
