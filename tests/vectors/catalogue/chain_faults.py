"""Step 3: certificate chains that prove no signer, each wrong in one way."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kit import canonical, clock
from pki import certificates, identity, keys
from pki.certificates import DOCUMENT_SIGNING, Authority
from tests.fakes import federation
from tests.fakes.federation import NAME, NOW
from tests.fakes.forge import Case, Forge
from tests.vectors.hostile import Vector

Chain = tuple[x509.Certificate, ...]
DAY = timedelta(days=1)


def leaf(forge: Forge, **odd: Any) -> Chain:
    """Return a signing chain of site a that differs from the good one in what `odd` names."""
    world = forge.world
    issuer: Authority = odd.get("issuer", world.issuing)
    public = odd.get("public", world.a.signing_key.public_key())
    start: datetime = odd.get("start", NOW - timedelta(hours=1))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")]))
        .issuer_name(odd.get("issuer_name", issuer.certificate.subject))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(odd.get("end", start + 365 * DAY))
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )
    for extension, critical in _extensions(odd):
        builder = builder.add_extension(extension, critical=critical)
    algorithm = None if isinstance(issuer.key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = builder.sign(issuer.key, algorithm)
    return (made, *odd.get("above", (world.issuing.certificate,)))


def _extensions(odd: dict[str, Any]) -> list[tuple[x509.ExtensionType, bool]]:
    a = identity.site(NAME, "a").uri
    usages = odd.get("usages", [DOCUMENT_SIGNING])
    uris = odd.get("uris", [a])
    found: list[tuple[x509.ExtensionType, bool]] = []
    if not odd.get("no_constraints"):
        ca = odd.get("ca", False)
        length = 0 if ca else None
        found.append((x509.BasicConstraints(ca=ca, path_length=length), odd.get("critical", True)))
    usage = dict.fromkeys(_USAGES, False) | odd.get("usage", {"digital_signature": True})
    found.append((x509.KeyUsage(**usage), True))
    if usages:
        found.append((x509.ExtendedKeyUsage(usages), False))
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        found.append((x509.SubjectAlternativeName(names), False))
    if "unknown" in odd:
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
        found.append((x509.UnrecognizedExtension(oid, b"\x05\x00"), True))
    return found


_USAGES = [
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
]


def _odd(**odd: Any) -> Callable[[Forge], Chain]:
    return lambda forge: leaf(forge, **odd)


def _self_signed(forge: Forge) -> Chain:
    own = Authority(certificate=forge.world.issuing.certificate, key=forge.world.a.signing_key)
    return leaf(forge, issuer=own, above=())


def _issued_by_a_site(forge: Forge) -> Chain:
    b = forge.world.b
    issuer = Authority(certificate=b.signing_chain[0], key=b.signing_key)
    return leaf(forge, issuer=issuer, above=b.signing_chain)


def _foreign(forge: Forge) -> Chain:
    other = federation.found()
    return leaf(forge, issuer=other.issuing, above=(other.issuing.certificate,))


def _own_root(forge: Forge) -> Chain:
    """A whole chain of another root with our names, sent along with its root."""
    other = federation.found()
    above = (other.issuing.certificate, other.root.certificate)
    return leaf(forge, issuer=other.issuing, above=above)


def _uri(name: str) -> str:
    return f"spiffe://{name}"


CHAINS: dict[str, Callable[[Forge], Chain]] = {
    "no certificate": lambda f: (),
    "no issuing certificate": lambda f: f.world.a.signing_chain[:1],
    "the issuing certificate first": lambda f: f.world.a.signing_chain[::-1],
    "the root alone": lambda f: (f.world.root.certificate,),
    "the certificate for transport": lambda f: f.world.a.tls_chain,
    "another site's chain": lambda f: f.world.b.signing_chain,
    "a chain of another federation": _foreign,
    "a chain that brings its own root": _own_root,
    "a certificate signed by its own key": _self_signed,
    "a certificate issued by a site": _issued_by_a_site,
    "an expired certificate": _odd(start=NOW - 366 * DAY, end=NOW - timedelta(seconds=1)),
    "a certificate of tomorrow": _odd(start=NOW + DAY),
    "a certificate without a use": _odd(usages=[]),
    "a certificate for servers": _odd(usages=[ExtendedKeyUsageOID.SERVER_AUTH]),
    "a certificate for code": _odd(usages=[ExtendedKeyUsageOID.CODE_SIGNING]),
    "a certificate for any use": _odd(usages=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
    "a certificate for documents and clients": _odd(
        usages=[DOCUMENT_SIGNING, ExtendedKeyUsageOID.CLIENT_AUTH]
    ),
    "a certificate that names nobody": _odd(uris=[]),
    "a certificate that names two": _odd(uris=[_uri(f"{NAME}/site/a"), _uri(f"{NAME}/site/b")]),
    "a certificate with a path in its name": _odd(uris=[_uri(f"{NAME}/site/../a")]),
    "a certificate with a name in capitals": _odd(uris=[_uri(f"{NAME}/site/A")]),
    "a certificate that names a page": _odd(uris=["https://riverside/site/a"]),
    "a leaf that is an authority": _odd(
        ca=True, usage={"digital_signature": True, "key_cert_sign": True}
    ),
    "a leaf that may sign certificates": _odd(
        usage={"digital_signature": True, "key_cert_sign": True}
    ),
    "a leaf that may not sign": _odd(usage={"key_agreement": True}),
    "a leaf without constraints": _odd(no_constraints=True),
    "a leaf with constraints that are not critical": _odd(critical=False),
    "a leaf with an unknown critical extension": _odd(unknown=True),
    "a leaf with a key of another kind": lambda f: leaf(
        f, public=ec.generate_private_key(ec.SECP256R1()).public_key()
    ),
}
PEERS = {
    "a chain that brings its own root": "Fed-BioMed issues 1823, 1824: any certificate was trusted",
    "another site's chain": "Fed-BioMed issue 1843: valid, but another identity",
    "an expired certificate": "model-signing 1.1.1: an expired certificate verified",
    "the certificate for transport": "model-signing 1.1.1: a client certificate signed a release",
}


def _case(make: Callable[[Forge], Chain]) -> Callable[[Forge], Case]:
    """Return a maker of an honest blueprint whose key id and sender fit this chain's leaf."""

    def case(forge: Forge) -> Case:
        chain = make(forge)
        own = forge.world.a.signing_chain
        if not chain or chain[0] in (*own, *forge.world.b.signing_chain):
            return replace(forge.honest, chain=chain)
        keyid = certificates.fingerprint(chain[0])
        context = forge.world.context(forge.world.a, sender_cert=keyid)
        made = forge.seal(context=context)
        payload = canonical.b64decode(_payload(made))
        return replace(made, envelope=forge.sign(payload, keyid=keyid), chain=chain)

    return case


def _payload(case: Case) -> Any:
    return canonical.decode(case.envelope)["payload"]


def _key_id(of: Callable[[Forge], str]) -> Callable[[Forge], Case]:
    return lambda forge: replace(forge.honest, envelope=forge.sign(forge.payload, keyid=of(forge)))


def _at(when: datetime) -> Callable[[Forge], Case]:
    return lambda forge: replace(forge.honest, verifier={"now": clock.rfc3339(when)})


def _pinned_elsewhere(forge: Forge) -> Case:
    other = certificates.new_root(NAME, now=NOW).certificate
    root = canonical.b64encode(certificates.der(other))
    return replace(forge.honest, verifier={"root": root})


OTHERS: dict[str, Callable[[Forge], Case]] = {
    "the key id of another site": _key_id(lambda f: f.world.b.keyid),
    "the key id of the bare key": _key_id(
        lambda f: canonical.digest(keys.public_bytes(f.world.a.signing_key))
    ),
    "a key id of zeros": _key_id(lambda f: "0" * 64),
    "a verifier a year later": _at(NOW + 366 * DAY),
    "a verifier a day earlier": _at(NOW - DAY),
    "a verifier that pinned another root": _pinned_elsewhere,
}


def catalogue() -> list[Vector]:
    """Return the vectors of step 3."""
    family = "certificate chain"
    made = {fault: _case(make) for fault, make in CHAINS.items()} | OTHERS
    return [
        Vector(step=0, fault=family, family=family, make=_case(_odd())),
        *(
            Vector(step=3, fault=fault, family=family, make=make, peer=PEERS.get(fault, ""))
            for fault, make in made.items()
        ),
    ]
