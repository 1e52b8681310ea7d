"""RSA: TLS 1.2 must not become possible, on either side, before anything secret is said."""

import socket
import ssl
import threading
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kit import clock
from pki import certificates, identity, keys, tls
from pki.errors import IdentityError
from tests.fakes.federation import NAME

WHO = identity.coordinator(NAME)


@pytest.fixture(scope="module")
def ca():
    root = certificates.new_root(NAME, now=clock.utc_now())
    return root, certificates.new_issuing(root, NAME, now=clock.utc_now())


def pair(issuing, who=WHO):
    key = keys.new_tls_key()
    leaf = certificates.issue_tls_server(
        issuing, who, key.public_key(), ["127.0.0.1"], now=clock.utc_now()
    )
    return keys.pem(key), certificates.pem(leaf, issuing.certificate)


def rsa_pair(issuing):
    """A server certificate that this CA's own commands never make."""
    key, now = rsa.generate_private_key(65537, 2048), clock.utc_now()
    from ipaddress import ip_address

    names = [x509.UniformResourceIdentifier(WHO.uri), x509.IPAddress(ip_address("127.0.0.1"))]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator")]))
        .issuer_name(issuing.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(issuing.key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, certificates.pem(leaf, issuing.certificate)


def test_rsa_a_server_refuses_to_show_such_a_certificate(ca):
    _, issuing = ca
    assert tls.server_credentials(lambda: pair(issuing), clients=None)
    with pytest.raises(IdentityError, match="not ECDSA P-256"):
        tls.server_credentials(lambda: rsa_pair(issuing), clients=None)


class Listener:
    """A TLS server of one handshake."""

    def __init__(self, folder, key, chain, *, newest=ssl.TLSVersion.TLSv1_3):
        (folder / "key.pem").write_bytes(key)
        (folder / "chain.pem").write_bytes(chain)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
        self.context.maximum_version = newest
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.received = b""
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self):
        plain, _ = self.socket.accept()
        plain.settimeout(10)
        try:
            with self.context.wrap_socket(plain, server_side=True) as secure:
                self.received = secure.recv(100)
        except OSError:
            plain.close()

    def close(self):
        self.thread.join(20)
        self.socket.close()


def handshake(folder, ca, key, chain, **options):
    listener = Listener(folder, key, chain, **options)
    try:
        tls.check_server(listener.address, root=ca[0].certificate, expected=WHO)
    finally:
        listener.close()
    return listener.received


def test_rsa_a_site_hangs_up_before_it_says_anything_to_such_a_server(ca, tmp_path):
    root, issuing = ca
    assert handshake(tmp_path, ca, *pair(issuing)) == b""
    with pytest.raises(IdentityError, match="not ECDSA P-256") as refusal:
        handshake(tmp_path, ca, *rsa_pair(issuing))
    assert "nothing was sent" in refusal.value.hint
    with pytest.raises(ssl.SSLError):  # an old version: no handshake at all
        handshake(tmp_path, ca, *pair(issuing), newest=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(IdentityError, match="is not `spiffe"):
        handshake(tmp_path, ca, *pair(issuing, identity.site(NAME, "a")))
    now = clock.utc_now()
    other = certificates.new_root(NAME, now=now)
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, ca, *pair(certificates.new_issuing(other, NAME, now=now)))
    assert root
