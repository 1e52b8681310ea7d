"""What a leaf must be. Each case changes one thing about a leaf that is otherwise accepted."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kit.errors import KitError
from pki import certificates, identity, verification
from pki.errors import IdentityError
from tests.fakes.federation import NAME, NOW

CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER = ExtendedKeyUsageOID.SERVER_AUTH
SIGNING = certificates.DOCUMENT_SIGNING
SITE = identity.site(NAME, "a")
VERIFY = {
    CLIENT: verification.verify_tls_client,
    SERVER: verification.verify_tls_server,
    SIGNING: verification.verify_signing,
}
TLS_KEY, SIGNING_KEY = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
KEY = {CLIENT: TLS_KEY, SERVER: TLS_KEY, SIGNING: SIGNING_KEY}


def usage(**changes):
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    flags = dict.fromkeys(names, False) | {"digital_signature": True} | changes
    return x509.KeyUsage(**flags)


def uris(*texts):
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(t) for t in texts])


RIGHT = {
    "constraints": (x509.BasicConstraints(ca=False, path_length=None), True),
    "usage": (usage(), True),
    "names": (uris(SITE.uri), False),
}


def leaf(ca, purposes, *, key=None, start=0, days=7, digest=None, **changes):
    """Return a leaf for `purposes`; an extension given as None is left out."""
    if key is None:
        key = KEY[purposes[0]]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")]))
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=start))
        .not_valid_after(NOW + timedelta(days=start + days))
    )
    extensions = dict(RIGHT) | {"purpose": (x509.ExtendedKeyUsage(purposes), False)}
    for entry in (extensions | changes).values():
        if entry is not None:
            builder = builder.add_extension(entry[0], critical=entry[1])
    return builder.sign(ca.key, digest or hashes.SHA256())


@pytest.mark.parametrize("purpose", [CLIENT, SERVER, SIGNING])
def test_the_profiles_prove_the_identity_they_were_issued_for(ca, purpose):
    who = SITE if purpose != SERVER else identity.coordinator(NAME)
    public = KEY[purpose].public_key()
    issued = {
        CLIENT: lambda: certificates.issue_tls_client(ca.issuing, who, public, now=NOW),
        SERVER: lambda: certificates.issue_tls_server(
            ca.issuing, who, public, ["localhost", "127.0.0.1", "::1"], now=NOW
        ),
        SIGNING: lambda: certificates.issue_signing(ca.issuing, who, public, now=NOW),
    }[purpose]()
    chain = [issued, ca.issuing.certificate]
    assert VERIFY[purpose](chain, root=ca.root.certificate, now=NOW) == who


def test_lifetimes_are_those_of_the_profiles(ca):
    client = certificates.issue_tls_client(ca.issuing, SITE, TLS_KEY.public_key(), now=NOW)
    signing = certificates.issue_signing(ca.issuing, SITE, SIGNING_KEY.public_key(), now=NOW)
    for made, days in (
        (client, 7),
        (signing, 365),
        (ca.issuing.certificate, 5 * 365),
        (ca.root.certificate, 10 * 365),
    ):
        assert made.not_valid_after_utc == NOW + timedelta(days=days)
        assert made.not_valid_before_utc == NOW - timedelta(minutes=10)


def test_a_server_leaf_names_its_hosts(ca):
    public = TLS_KEY.public_key()
    made = certificates.issue_tls_server(
        ca.issuing, SITE, public, ["hub.example", "192.0.2.1"], now=NOW
    )
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["hub.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1"]


@pytest.mark.parametrize("purpose", [CLIENT, SERVER, SIGNING])
@pytest.mark.parametrize(
    "purposes",
    [
        [CLIENT],
        [SERVER],
        [SIGNING],
        [CLIENT, SERVER],
        [SIGNING, CLIENT],
        [SIGNING, SERVER],
        [ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE],
        [ExtendedKeyUsageOID.CODE_SIGNING],
        [ExtendedKeyUsageOID.EMAIL_PROTECTION],
    ],
)
def test_a_leaf_serves_its_one_purpose_and_no_other(ca, purpose, purposes):
    def check(listed):
        made = leaf(ca.issuing, listed, key=KEY[purpose])
        chain = [made, ca.issuing.certificate]
        return VERIFY[purpose](chain, root=ca.root.certificate, now=NOW)

    assert check([purpose]) == SITE
    if purposes != [purpose]:
        with pytest.raises(IdentityError):
            check(purposes)


FAULTS = {
    "no extended key usage": {"purpose": None},
    "no alternative name": {"names": None},
    "no key usage": {"usage": None},
    "no basic constraints": {"constraints": None},
    "two identities": {"names": (uris(SITE.uri, f"spiffe://{NAME}/site/b"), False)},
    "the same identity twice": {"names": (uris(SITE.uri, SITE.uri), False)},
    "a name that is no identity": {"names": (uris("https://example.org/site/a"), False)},
    "another path": {"names": (uris(f"spiffe://{NAME}/user/a"), False)},
    "a host name instead": {"names": (x509.SubjectAlternativeName([x509.DNSName("a")]), False)},
    "a CA as leaf": {
        "constraints": (x509.BasicConstraints(ca=True, path_length=None), True),
        "usage": (usage(digital_signature=True, key_cert_sign=True), True),
    },
    "a leaf that may sign certificates": {"usage": (usage(key_cert_sign=True), True)},
    "a leaf that may not sign": {
        "usage": (usage(digital_signature=False, content_commitment=True), True)
    },
    "constraints that are not critical": {
        "constraints": (x509.BasicConstraints(ca=False, path_length=None), False)
    },
    "a key usage that is not critical": {"usage": (usage(), False)},
    "an unknown critical extension": {
        "odd": (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
    },
    "expired": {"start": -8},
    "not yet valid": {"start": 1},
}


@pytest.mark.parametrize("purpose", [CLIENT, SERVER, SIGNING])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_in_a_leaf_is_enough_to_refuse_it(ca, purpose, fault):
    def check(**changes):
        chain = [leaf(ca.issuing, [purpose], **changes), ca.issuing.certificate]
        return VERIFY[purpose](chain, root=ca.root.certificate, now=NOW)

    assert check() == SITE
    with pytest.raises(IdentityError):
        check(**FAULTS[fault])


@pytest.mark.parametrize(
    ("purpose", "key"),
    [
        (CLIENT, SIGNING_KEY),
        (SERVER, SIGNING_KEY),
        (SIGNING, TLS_KEY),
        (CLIENT, rsa.generate_private_key(65537, 2048)),
        (CLIENT, ec.generate_private_key(ec.SECP384R1())),
        (SERVER, ec.generate_private_key(ec.SECP521R1())),
        (SIGNING, rsa.generate_private_key(65537, 2048)),
    ],
    ids=lambda value: getattr(value, "_name", type(value).__name__),
)
def test_a_leaf_carries_the_kind_of_key_of_its_purpose(ca, purpose, key):
    def check(**changes):
        chain = [leaf(ca.issuing, [purpose], **changes), ca.issuing.certificate]
        return VERIFY[purpose](chain, root=ca.root.certificate, now=NOW)

    assert check() == SITE
    with pytest.raises(IdentityError):
        check(key=key)


def test_a_leaf_is_valid_from_its_first_to_its_last_second(ca):
    chain = [leaf(ca.issuing, [CLIENT]), ca.issuing.certificate]
    second = timedelta(seconds=1)

    def check(now):
        return verification.verify_tls_client(chain, root=ca.root.certificate, now=now)

    assert check(NOW) == check(NOW + timedelta(days=7)) == SITE
    with pytest.raises(IdentityError, match="valid only from"):
        check(NOW - second)
    with pytest.raises(IdentityError, match="expired"):
        check(NOW + timedelta(days=7) + second)


def test_the_chain_leads_to_the_pinned_root_and_nowhere_else(ca, foreign):
    made = leaf(ca.issuing, [CLIENT])
    theirs = leaf(foreign.issuing, [CLIENT])
    direct = leaf(ca.root, [CLIENT])

    def check(*chain):
        return verification.verify_tls_client(chain, root=ca.root.certificate, now=NOW)

    assert check(made, ca.issuing.certificate) == SITE
    assert check(made, ca.issuing.certificate, foreign.issuing.certificate) == SITE
    assert check(direct) == SITE
    for chain in (
        (),
        (made,),
        (made, foreign.issuing.certificate),
        (theirs, foreign.issuing.certificate),
        (theirs, foreign.issuing.certificate, foreign.root.certificate),
        (theirs, ca.issuing.certificate),
        (ca.issuing.certificate,),
        (ca.root.certificate,),
    ):
        with pytest.raises(IdentityError):
            check(*chain)


def test_an_issuing_ca_makes_no_further_ca(ca):
    below = certificates.new_issuing(ca.issuing, NAME, now=NOW)
    made, deep = leaf(ca.issuing, [CLIENT]), leaf(below, [CLIENT])

    def check(*chain):
        return verification.verify_tls_client(chain, root=ca.root.certificate, now=NOW)

    assert check(made, ca.issuing.certificate) == SITE
    with pytest.raises(IdentityError):
        check(deep, below.certificate, ca.issuing.certificate)


def test_a_site_certificate_signs_no_other_certificate(ca):
    key = ec.generate_private_key(ec.SECP256R1())
    mine = leaf(ca.issuing, [CLIENT], key=key)
    forged = leaf(certificates.Authority(mine, key), [CLIENT])

    def check(*chain):
        return verification.verify_tls_client(chain, root=ca.root.certificate, now=NOW)

    assert check(mine, ca.issuing.certificate) == SITE
    with pytest.raises(IdentityError):
        check(forged, mine, ca.issuing.certificate)


def test_an_expired_issuing_ca_proves_nothing(ca):
    later = NOW + timedelta(days=certificates.ISSUING_YEARS * 365 + 1)
    made = leaf(ca.issuing, [CLIENT], days=4000)
    chain = [made, ca.issuing.certificate]
    root = ca.root.certificate
    assert verification.verify_tls_client(chain, root=root, now=NOW) == SITE
    with pytest.raises(IdentityError):
        verification.verify_tls_client(chain, root=root, now=later)


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
def test_no_flipped_bit_of_a_certificate_proves_anybody_else_and_nothing_crashes(ca):
    made = certificates.der(
        certificates.issue_signing(ca.issuing, SITE, SIGNING_KEY.public_key(), now=NOW)
    )

    def check(data):
        chain = [certificates.from_der(data), ca.issuing.certificate]
        return verification.verify_signing(chain, root=ca.root.certificate, now=NOW)

    assert check(made) == SITE
    accepted = []
    for position in range(len(made)):
        altered = bytearray(made)
        altered[position] ^= 1 << position % 8
        try:
            accepted.append(check(bytes(altered)))
        except KitError:
            continue
    # The count of unused bits of the signature may read 1 where the last bit is zero anyway.
    assert accepted in ([], [SITE])
