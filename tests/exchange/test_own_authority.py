"""A14: a site with its own certificate authority, and what that authority may not say."""

import shutil
import subprocess
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from coordinator import authorities, callers, enrolments, registry, rekeying
from coordinator.errors import NotAllowedError, StateError
from edge_agent import alarms, bringing, enrolment
from edge_agent.enrolment import Keeping
from edge_agent.errors import WaitingError
from edge_agent.renewal import Brought
from kit import clock
from kit.errors import KitError
from pki import certificates, crl, identity, keys
from pki.errors import IdentityError
from tests.exchange.channels import site_stub, stub
from tests.fakes import site


@pytest.fixture
def federation(tmp_path):
    return site.found(tmp_path)


class Clinic:
    """A CA made by nothing but `cryptography`, with one root that signs leaves itself."""

    def __init__(self, folder, name="clinic"):
        self.folder = folder / name
        self.folder.mkdir()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} root")])
        self.root = (
            self._builder(self.name, self.key.public_key(), days=3650)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def _builder(self, subject, public, *, days, ago=timedelta(minutes=5)):
        now = clock.utc_now()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - ago)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )

    @property
    def pem(self):
        return certificates.pem(self.root)

    def leaf(self, who, key, purpose, *, days=30):
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(who.uri)])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who.name)])
        return (
            self._builder(subject, key.public_key(), days=days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(names, critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def bring(self, who, *, tls=None, stem="first"):
        """Return TLS and signing certificates with keys, as files."""
        made = []
        for name, key, purpose in (
            ("tls", tls or keys.new_tls_key(), ExtendedKeyUsageOID.CLIENT_AUTH),
            ("signing", keys.new_signing_key(), certificates.DOCUMENT_SIGNING),
        ):
            chain, file = self.folder / f"{stem}-{name}.pem", self.folder / f"{stem}-{name}.key"
            chain.write_bytes(certificates.pem(self.leaf(who, key, purpose)))
            keys.save(file, key)
            made.append(Brought(chain=chain, key=file))
        return made


def _usage(*, ca):
    names = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    flags = dict.fromkeys((*names, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **flags)


def enrol(coordinator, federation, name, brought, *, authority="clinic"):
    """Enrol a site with what it brought, from token to first contact."""
    token = federation.folder / f"{name}.token"
    token.write_bytes(enrolments.issue_token(coordinator, name, authority=authority).to_bytes())
    path, options = federation.folder / name, {"epsilon": 8.0, "delta": 1e-5}
    keeping = Keeping(tls=brought[0], signing=brought[1])
    try:
        enrolment.enrol(path, token, keeping=keeping, **options)
    except WaitingError as waiting:
        enrolments.confirm(coordinator, name, str(waiting).rpartition(" ")[2])
    enrolment.enrol(path, None, **options)
    return federation.home(name)


WHO = identity.site(site.FEDERATION, "a")


def test_a14_a_site_comes_with_its_own_authority_and_renews_from_it(federation, tmp_path):
    clinic = Clinic(tmp_path)
    with federation.serving() as coordinator:
        authorities.add(coordinator, "clinic", clinic.pem, ["a"])
        home = enrol(coordinator, federation, "a", clinic.bring(WHO))
        assert site.visit(home)
        assert [s.authority for s in registry.list_sites(coordinator)] == ["clinic"]
        tls, signing = clinic.bring(WHO, stem="second")
        bringing.renew(home, tls=tls, signing=signing, reclaim=False, now=clock.utc_now())
        assert home.tls_chain.read_bytes() == tls.chain.read_bytes()
        assert home.signing_chain.read_bytes() == signing.chain.read_bytes()
        assert site.visit(home)
        assert alarms.kept(home) == []
        with pytest.raises(KitError, match="come from its own authority"):
            bringing.renew(home, tls=None, signing=None, reclaim=False, now=clock.utc_now())
        with pytest.raises(NotAllowedError, match="come from its own authority"):
            rekeying.renew(coordinator, "a", certificates.request(keys.new_tls_key()))


def test_a14_no_authority_speaks_for_anothers_site(federation, tmp_path):
    clinic, other = Clinic(tmp_path), Clinic(tmp_path, "other")
    with federation.serving() as coordinator:
        authorities.add(coordinator, "clinic", clinic.pem, ["a"])
        authorities.add(coordinator, "other", other.pem, ["x"])
        home = enrol(coordinator, federation, "a", clinic.bring(WHO))
        plain = site.enrol(coordinator, federation, "b")
        now, issuing = clock.utc_now(), coordinator.issuing

        def refused(ca, who):
            key = keys.new_tls_key()
            if ca is issuing:
                leaf = certificates.issue_tls_client(ca, who, key.public_key(), now=now)
                chain = (leaf, ca.certificate)
            else:
                chain = (ca.leaf(who, key, ExtendedKeyUsageOID.CLIENT_AUTH),)
            with pytest.raises(NotAllowedError) as refusal:
                callers.authenticate(coordinator, chain)
            return str(refusal.value)

        assert "may not speak for" in refused(other, WHO)  # B's CA mints site A
        assert "may not speak for" in refused(clinic, identity.site(site.FEDERATION, "b"))
        assert "of another authority" in refused(issuing, WHO)  # the federation's own does so
        own = clinic.leaf(WHO, keys.new_tls_key(), ExtendedKeyUsageOID.CLIENT_AUTH)
        assert callers.authenticate(coordinator, [own]) == "a"
        assert site.visit(home)
        assert site.visit(plain)


def test_a14_the_table_and_a_newer_list_count_from_the_next_call_on(federation, tmp_path):
    clinic = Clinic(tmp_path)
    with federation.serving() as coordinator:
        authorities.add(coordinator, "clinic", clinic.pem, ["a"])
        brought = clinic.bring(WHO)
        home = enrol(coordinator, federation, "a", brought)
        other = site.enrol(coordinator, federation, "b")
        leaf = certificates.from_pem(brought[0].chain.read_bytes())[0]
        authority = certificates.Authority(clinic.root, clinic.key)
        now = clock.utc_now()
        empty = crl.issue(authority, [], number=4, now=now)
        authorities.put_list(coordinator, "clinic", empty)
        with site_stub(coordinator, home):
            assert site.visit(home)
            entry = crl.Revoked(serial=leaf.serial_number, since=now)
            listed = crl.issue(authority, [entry], number=5, now=now)
            authorities.put_list(coordinator, "clinic", listed)
            with pytest.raises(KitError, match="certificate was revoked"):
                site.visit(home)
        with pytest.raises(IdentityError, match="older than the one"):
            authorities.put_list(coordinator, "clinic", empty)
        tls, signing = clinic.bring(WHO, stem="second")
        bringing.renew(home, tls=tls, signing=signing, reclaim=False, now=now)
        assert site.visit(home)
        authorities.remove(coordinator, "clinic")
        with pytest.raises(KitError):
            site.visit(home)
        assert site.visit(other)


def test_a14_ids_and_authorities_are_one_to_one(federation, tmp_path):
    clinic, other = Clinic(tmp_path), Clinic(tmp_path, "other")
    with federation.open() as coordinator:
        authorities.add(coordinator, "clinic", clinic.pem, ["a"])
        assert authorities.add(coordinator, "clinic", clinic.pem, ["a", "c"]).sites == ("a", "c")
        with pytest.raises(StateError, match="belongs to authority `clinic`"):
            authorities.add(coordinator, "other", other.pem, ["c"])
        with pytest.raises(StateError, match="is another certificate"):
            authorities.add(coordinator, "clinic", other.pem, ["a"])
        with pytest.raises(NotAllowedError, match="belongs to authority `clinic`"):
            enrolments.issue_token(coordinator, "a")
        with pytest.raises(NotAllowedError, match="the federation's own authority"):
            enrolments.issue_token(coordinator, "b", authority="clinic")
        leaf = clinic.leaf(WHO, keys.new_tls_key(), ExtendedKeyUsageOID.CLIENT_AUTH)
        for bad in (b"", b"text", certificates.pem(leaf), clinic.pem + other.pem):
            with pytest.raises(IdentityError):
                authorities.add(coordinator, "third", bad, ["d"])
        assert enrolments.issue_token(coordinator, "a", authority="clinic")


def test_a14_what_a_site_brings_must_be_its_own_and_fit_its_keys(federation, tmp_path):
    clinic, other = Clinic(tmp_path), Clinic(tmp_path, "other")
    with federation.serving() as coordinator:
        authorities.add(coordinator, "clinic", clinic.pem, ["a"])
        secret = enrolments.issue_token(coordinator, "a", authority="clinic").secret
        from pki.enrolment import secret_hash

        tls_key, signing_key = keys.new_tls_key(), keys.new_signing_key()
        client, signs = ExtendedKeyUsageOID.CLIENT_AUTH, certificates.DOCUMENT_SIGNING
        good = {
            "tls_chain": certificates.pem(clinic.leaf(WHO, tls_key, client)),
            "signing_chain": certificates.pem(clinic.leaf(WHO, signing_key, signs)),
        }
        asked = {
            "token": secret_hash(secret),
            "tls_request": certificates.request(tls_key),
            "signing_request": certificates.request(signing_key),
            "witness_key": keys.public_bytes(keys.new_signing_key()),
        }
        stranger = identity.site(site.FEDERATION, "b")
        for changes in (
            {"tls_chain": b""},
            {"tls_chain": certificates.pem(other.leaf(WHO, tls_key, client))},
            {"tls_chain": certificates.pem(clinic.leaf(stranger, tls_key, client))},
            {"tls_chain": certificates.pem(clinic.leaf(WHO, keys.new_tls_key(), client))},
            {"tls_chain": certificates.pem(clinic.leaf(WHO, tls_key, signs))},
            {"signing_chain": certificates.pem(clinic.leaf(WHO, signing_key, client))},
        ):
            with pytest.raises(KitError):
                enrolments.enrol(coordinator, **asked | good | changes)
        assert not enrolments.enrol(coordinator, **asked | good).confirmed


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_a14_an_authority_made_by_openssl_serves_as_well(federation, tmp_path):
    def run(*arguments):
        command = ["openssl", *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "ca.cnf").write_text(
        "[ca]\nbasicConstraints=critical,CA:TRUE,pathlen:0\n"
        "keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
    )
    run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key")
    run("req", "-new", "-key", "ca.key", "-subj", "/CN=by hand", "-out", "ca.csr")
    run(
        *("x509", "-req", "-in", "ca.csr", "-signkey", "ca.key", "-days", "3650"),
        *("-extfile", "ca.cnf", "-extensions", "ca", "-out", "ca.pem"),
    )
    brought = []
    for name, usage, new in (
        ("tls", "clientAuth", ("ecparam", "-name", "prime256v1", "-genkey", "-noout")),
        ("signing", "1.3.6.1.5.5.7.3.36", ("genpkey", "-algorithm", "ed25519")),
    ):
        (tmp_path / f"{name}.cnf").write_text(
            "[leaf]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            f"extendedKeyUsage={usage}\nsubjectAltName=URI:{WHO.uri}\n"
            "authorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
        )
        run(*new, "-out", f"{name}.key")
        (tmp_path / f"{name}.key").chmod(0o600)
        run("req", "-new", "-key", f"{name}.key", "-subj", "/CN=a", "-out", f"{name}.csr")
        run(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "30", "-extfile", f"{name}.cnf", "-extensions", "leaf"),
            *("-out", f"{name}.pem"),
        )
        brought.append(Brought(chain=tmp_path / f"{name}.pem", key=tmp_path / f"{name}.key"))
    with federation.serving() as coordinator:
        authorities.add(coordinator, "clinic", (tmp_path / "ca.pem").read_bytes(), ["a"])
        home = enrol(coordinator, federation, "a", brought)
        assert site.visit(home)


def test_a14_at_the_handshake_only_registered_roots_are_let_in(federation, tmp_path):
    import grpc

    from protos import exchange_pb2 as pb

    clinic = Clinic(tmp_path)
    key = keys.new_tls_key()
    chain = certificates.pem(clinic.leaf(WHO, key, ExtendedKeyUsageOID.CLIENT_AUTH))
    with federation.serving() as coordinator:
        with stub(coordinator, key=key, chain=chain) as on:
            with pytest.raises(grpc.RpcError) as refusal:
                on.Contact(pb.ContactRequest(), timeout=20)
            assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        authorities.add(coordinator, "clinic", clinic.pem, ["a"])
        with stub(coordinator, key=key, chain=chain) as on:  # past the door, and then unknown
            with pytest.raises(grpc.RpcError) as refusal:
                on.Contact(pb.ContactRequest(), timeout=20)
            assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
