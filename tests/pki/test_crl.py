"""Revocation lists (RFC 5280 section 5): whose word counts, for how long, and for what."""

import shutil
import subprocess
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from pki import certificates, crl, identity, keys, verification
from pki.crl import Reason, RevocationList, Revoked
from pki.errors import IdentityError
from tests.fakes.federation import NAME, NOW

SITE = identity.site(NAME, "a")


def leaf_of(ca):
    return certificates.issue_signing(ca, SITE, keys.new_signing_key().public_key(), now=NOW)


def entry(certificate, *, reason=Reason.unspecified, since=NOW):
    return Revoked(serial=certificate.serial_number, since=since, reason=reason)


@settings(max_examples=20, deadline=None)
@given(
    st.sets(st.integers(1, (1 << 159) - 1), max_size=20),
    st.sampled_from([Reason.unspecified, Reason.superseded, Reason.key_compromise]),
    st.integers(1, 1 << 40),
)
def test_a_list_reads_back_as_it_was_issued(ca, serials, reason, number):
    entries = [Revoked(serial=serial, since=NOW, reason=reason) for serial in serials]
    made = crl.issue(ca.issuing, entries, number=number, now=NOW)
    found = RevocationList.verify(made, ca.issuing.certificate, now=NOW)
    assert (found.number, set(found.entries.values())) == (number, set(entries))
    assert RevocationList.read(made) == found


def test_a_list_counts_only_under_its_own_ca(ca, foreign):
    made = crl.issue(ca.issuing, [], number=1, now=NOW)
    assert RevocationList.verify(made, ca.issuing.certificate, now=NOW).number == 1
    leaf = leaf_of(ca.issuing)
    for other in (foreign.issuing.certificate, ca.root.certificate, leaf):
        with pytest.raises(IdentityError, match="not signed by its CA"):
            RevocationList.verify(made, other, now=NOW)


def test_a_ca_without_the_right_to_sign_lists_signs_none(ca):
    key = keys.new_tls_key()
    name = ca.issuing.certificate.subject
    usage = x509.KeyUsage(
        digital_signature=False,
        key_cert_sign=True,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    bare = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=9))
    )
    for certificate, is_right in (
        (bare.add_extension(usage, critical=True).sign(key, hashes.SHA256()), False),
        (bare.sign(key, hashes.SHA256()), False),
    ):
        authority = certificates.Authority(certificate, key)
        made = crl.issue(authority, [], number=1, now=NOW)
        with pytest.raises(IdentityError, match="not signed by its CA"):
            RevocationList.verify(made, certificate, now=NOW)
        assert not is_right
    good = crl.issue(ca.issuing, [], number=1, now=NOW)
    assert RevocationList.verify(good, ca.issuing.certificate, now=NOW)


def test_a_stale_list_is_refused(ca):
    made = crl.issue(ca.issuing, [], number=1, now=NOW)
    RevocationList.verify(made, ca.issuing.certificate, now=NOW + crl.LIFETIME)
    late = NOW + crl.LIFETIME + timedelta(minutes=11)
    with pytest.raises(IdentityError, match="out of date") as refusal:
        RevocationList.verify(made, ca.issuing.certificate, now=late)
    assert "clock" in refusal.value.hint


@pytest.mark.filterwarnings("ignore:Parsed a .*serial number")
def test_no_flipped_byte_of_a_list_is_believed(ca):
    made = crl.issue(ca.issuing, [entry(leaf_of(ca.issuing))], number=3, now=NOW)
    assert RevocationList.verify(made, ca.issuing.certificate, now=NOW)
    for position in range(len(made)):
        altered = bytearray(made)
        altered[position] ^= 1 << position % 8
        with pytest.raises(IdentityError):
            RevocationList.verify(bytes(altered), ca.issuing.certificate, now=NOW)
    with pytest.raises(IdentityError, match="over"):
        RevocationList.verify(made + bytes(crl.MAX_CRL_BYTES), ca.issuing.certificate, now=NOW)


def test_a_list_without_a_number_or_with_an_unknown_critical_extension_is_refused(ca):
    def plain():
        return (
            x509.CertificateRevocationListBuilder()
            .issuer_name(ca.issuing.certificate.subject)
            .last_update(NOW)
            .next_update(NOW + timedelta(days=1))
        )

    def der(builder):
        signed = builder.sign(ca.issuing.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.DER)

    numbered = plain().add_extension(x509.CRLNumber(1), critical=False)
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert RevocationList.verify(der(numbered), ca.issuing.certificate, now=NOW).number == 1
    with pytest.raises(IdentityError, match="no number"):
        RevocationList.verify(der(plain()), ca.issuing.certificate, now=NOW)
    critical = der(numbered.add_extension(odd, critical=True))
    with pytest.raises(IdentityError, match="unknown critical"):
        RevocationList.verify(critical, ca.issuing.certificate, now=NOW)


@pytest.mark.parametrize(
    ("reason", "before", "after"),
    [
        (Reason.superseded, True, False),
        (Reason.cessation_of_operation, True, False),
        (Reason.key_compromise, False, False),
        (Reason.certificate_hold, False, False),
        (Reason.unspecified, False, False),
    ],
)
def test_what_a_revoked_certificate_signed_before(ca, reason, before, after):
    revoked, other = leaf_of(ca.issuing), leaf_of(ca.issuing)
    since = NOW + timedelta(days=1)
    made = crl.issue(ca.issuing, [entry(revoked, reason=reason, since=since)], number=1, now=since)
    listed = RevocationList.verify(made, ca.issuing.certificate, now=since)
    for at, is_good in ((NOW, before), (since, after), (since + timedelta(days=1), after)):
        chain = (other, ca.issuing.certificate)
        options = {"root": ca.root.certificate, "now": at, "revocations": listed}
        assert verification.verify_signing(chain, **options) == SITE
        chain = (revoked, ca.issuing.certificate)
        if is_good:
            assert verification.verify_signing(chain, **options) == SITE
        else:
            with pytest.raises(IdentityError, match=r"certificate was (revoked|replaced)"):
                verification.verify_signing(chain, **options)


def test_a_serial_number_of_another_issuer_is_not_meant(ca, foreign):
    leaf = leaf_of(ca.issuing)
    made = crl.issue(ca.root, [entry(leaf)], number=1, now=NOW)
    listed = RevocationList.verify(made, ca.root.certificate, now=NOW)
    chain = (leaf, ca.issuing.certificate)
    options = {"root": ca.root.certificate, "now": NOW}
    assert verification.verify_signing(chain, **options, revocations=listed) == SITE
    own = RevocationList.read(crl.issue(ca.issuing, [entry(leaf)], number=1, now=NOW))
    with pytest.raises(IdentityError, match="was revoked"):
        verification.verify_signing(chain, **options, revocations=own)


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_openssl_agrees_about_who_is_revoked(ca, tmp_path):
    good, bad = (
        certificates.issue_tls_client(ca.issuing, SITE, keys.new_tls_key().public_key(), now=NOW)
        for _ in range(2)
    )
    made = crl.issue(ca.issuing, [entry(bad, since=NOW - timedelta(hours=1))], number=1, now=NOW)
    (tmp_path / "root.pem").write_bytes(certificates.pem(ca.root.certificate))
    (tmp_path / "issuing.pem").write_bytes(certificates.pem(ca.issuing.certificate))
    listed = x509.load_der_x509_crl(made).public_bytes(serialization.Encoding.PEM)
    (tmp_path / "crl.pem").write_bytes(listed)
    for certificate, code in ((good, 0), (bad, 2)):
        (tmp_path / "leaf.pem").write_bytes(certificates.pem(certificate))
        done = subprocess.run(
            [
                *("openssl", "verify", "-attime", str(int(NOW.timestamp())), "-crl_check"),
                *("-CAfile", "root.pem", "-untrusted", "issuing.pem", "-CRLfile", "crl.pem"),
                "leaf.pem",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert ("certificate revoked" in done.stderr) is (code == 2)
