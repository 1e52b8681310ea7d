import base64
import subprocess
from shutil import which

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from kit.errors import KitError
from pki import certificates, identity, keys, verification
from pki.errors import IdentityError
from tests.fakes.federation import NAME, NOW

SITE = identity.site(NAME, "a")
READERS = {keys.new_tls_key: certificates.requested_tls_key}
READERS[keys.new_signing_key] = certificates.requested_signing_key


def spki(public):
    return public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("make", READERS)
def test_a_request_proves_its_key_and_names_nobody(make):
    key = make()
    der = certificates.request(key)
    assert spki(READERS[make](der)) == spki(key.public_key())
    assert list(x509.load_der_x509_csr(der).subject) == []


def request_of(key, digest=None):
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, digest).public_bytes(serialization.Encoding.DER)


def test_each_kind_of_request_carries_its_kind_of_key():
    tls, signing = keys.new_tls_key(), keys.new_signing_key()
    certificates.requested_tls_key(certificates.request(tls))
    certificates.requested_signing_key(certificates.request(signing))
    others = [
        certificates.request(signing),
        request_of(ec.generate_private_key(ec.SECP384R1()), hashes.SHA256()),
        request_of(rsa.generate_private_key(65537, 2048), hashes.SHA256()),
    ]
    for der in others:
        with pytest.raises(IdentityError):
            certificates.requested_tls_key(der)
    with pytest.raises(IdentityError):
        certificates.requested_signing_key(certificates.request(tls))


@pytest.mark.parametrize("make", READERS)
def test_no_flipped_bit_of_a_request_proves_another_key_and_nothing_crashes(make):
    key = make()
    der = certificates.request(key)
    accepted = []
    for position in range(len(der)):
        altered = bytearray(der)
        altered[position] ^= 1 << position % 8
        try:
            accepted.append(READERS[make](bytes(altered)))
        except IdentityError:
            continue
    # The count of unused bits of the signature may read 1 where the last bit is zero anyway.
    assert len(accepted) <= 1
    assert all(spki(public) == spki(key.public_key()) for public in accepted)
    assert spki(READERS[make](der)) == spki(key.public_key())


@pytest.mark.parametrize("der", [b"", b"\x30", b"text", bytes(5000)])
def test_bytes_that_are_no_request_are_refused(der):
    with pytest.raises(IdentityError):
        certificates.requested_tls_key(der)


def test_names_in_a_request_are_ignored():
    key = keys.new_tls_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else")])
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{NAME}/site/other")]
            ),
            critical=False,
        )
    )
    der = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    root = certificates.new_root(NAME, now=NOW)
    issuing = certificates.new_issuing(root, NAME, now=NOW)
    public = certificates.requested_tls_key(der)
    leaf = certificates.issue_tls_client(issuing, SITE, public, now=NOW)
    chain = [leaf, issuing.certificate]
    assert verification.verify_tls_client(chain, root=root.certificate, now=NOW) == SITE


def test_certificates_read_back_as_they_were_written(ca):
    root, issuing = ca.root.certificate, ca.issuing.certificate
    assert certificates.from_der(certificates.der(root)) == root
    assert certificates.from_pem(certificates.pem(issuing, root)) == (issuing, root)


def test_a_fingerprint_is_the_sha_256_of_the_der_bytes(ca):
    root = ca.root.certificate
    digest = hashes.Hash(hashes.SHA256())
    digest.update(certificates.der(root))
    assert certificates.fingerprint(root) == digest.finalize().hex()


def with_version(certificate, number):
    der = certificates.der(certificate)
    field = bytes.fromhex("a003020102")
    assert der.count(field) == 1
    return der.replace(field, field[:-1] + bytes([number]))


@pytest.mark.parametrize("version", [3, 4, 9, 127])
def test_a_certificate_of_an_unknown_version_is_refused(ca, version):
    root = ca.root.certificate
    assert certificates.from_der(with_version(root, 2)) == root
    with pytest.raises(IdentityError):
        certificates.from_der(with_version(root, version))
    pem = b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n"
    with pytest.raises(IdentityError):
        certificates.from_pem(pem % base64.encodebytes(with_version(root, version)))


@pytest.mark.parametrize(
    "data", [b"", b"text", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_bytes_that_are_no_certificate_are_refused(data):
    with pytest.raises(KitError):
        certificates.from_der(data)
    with pytest.raises(KitError):
        certificates.from_pem(data)


@pytest.mark.skipif(which("openssl") is None, reason="the openssl program is not installed")
def test_openssl_accepts_our_chains_and_refuses_a_foreign_one(ca, foreign, tmp_path):
    client = certificates.issue_tls_client(
        ca.issuing, SITE, keys.new_tls_key().public_key(), now=NOW
    )
    signing = certificates.issue_signing(
        ca.issuing, SITE, keys.new_signing_key().public_key(), now=NOW
    )
    files = {
        "root": ca.root.certificate,
        "issuing": ca.issuing.certificate,
        "client": client,
        "signing": signing,
        "foreign": foreign.root.certificate,
    }
    for name, certificate in files.items():
        (tmp_path / f"{name}.pem").write_bytes(certificates.pem(certificate))

    def verify(leaf, root, *options):
        command = ["openssl", "verify", "-x509_strict", "-attime", str(int(NOW.timestamp()))]
        command += [*options, "-CAfile", f"{root}.pem", "-untrusted", "issuing.pem", f"{leaf}.pem"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=20, check=False)
        return done.returncode == 0

    assert verify("client", "root", "-purpose", "sslclient")
    assert verify("signing", "root")
    assert not verify("client", "root", "-purpose", "sslserver")
    assert not verify("client", "foreign")
