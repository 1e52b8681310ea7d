import dataclasses
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from coordinator import callers, enrolments, logbook, registry, rekeying
from coordinator.errors import NotAllowedError, StateError
from edge_agent import enrolment
from edge_agent.home import Home
from federation.auditlog.events import Kind
from kit.errors import KitError
from pki import certificates, identity, keys
from pki.enrolment import Token, confirmation_code, secret_hash
from tests.fakes import site


@pytest.fixture
def federation(tmp_path):
    """A federation without any study: enrolment needs none."""
    return site.found(tmp_path)


def kinds(coordinator):
    return [event.kind for event in logbook.events(coordinator)]


def state_of(coordinator, name):
    return next(s.state for s in registry.list_sites(coordinator) if s.id == name)


def test_a_site_waits_until_a_person_confirmed_its_code(federation):
    with federation.serving() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
        code = site.ask(federation.folder / "a", token)
        assert state_of(coordinator, "a") == registry.REQUESTED
        assert site.ask(federation.folder / "a", None) == code  # pending until confirmed
        with pytest.raises(StateError, match="code is not that of the request"):
            enrolments.confirm(coordinator, "a", "AAAA-AAAA")
        assert site.ask(federation.folder / "a", None) == code
        enrolments.confirm(coordinator, "a", code.lower())
        enrolled = enrolment.enrol(federation.folder / "a", None, epsilon=8.0, delta=1e-5)
        assert (enrolled.site, enrolled.federation) == ("a", site.FEDERATION)
        assert site.visit(federation.home("a")).trust.size == len(kinds(coordinator))


def test_a_wrong_secret_is_refused_and_the_right_one_is_not(federation):
    with federation.serving() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
        wrong = dataclasses.replace(Token.from_bytes(token.read_bytes()), secret=bytes(32))
        other = federation.folder / "wrong.token"
        other.write_bytes(wrong.to_bytes())
        with pytest.raises(KitError, match="not known here or was used up") as refusal:
            site.ask(federation.folder / "a", other)
        assert "new token" in refusal.value.hint
        assert site.ask(federation.folder / "a", token)  # the home is not spoilt by the first try


def test_an_expired_token_is_refused_and_a_fresh_one_is_not(federation):
    with federation.serving() as coordinator:
        coordinator.ahead = timedelta(hours=-25)
        old = site.token_file(coordinator, "a", federation.folder)
        coordinator.ahead = timedelta(0)
        with pytest.raises(KitError, match="this enrolment token has expired"):
            site.ask(federation.folder / "a", old)
        fresh = site.token_file(coordinator, "a", federation.folder)
        assert site.ask(federation.folder / "a", fresh)


def test_a_token_used_with_other_keys_revokes_the_site_and_is_on_record(federation):
    with federation.serving() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
        code = site.ask(federation.folder / "a", token)
        assert site.ask(federation.folder / "a", token) == code  # the same keys may ask again
        assert Kind.SITE_REVOKED not in kinds(coordinator)
        with pytest.raises(KitError, match="used with other keys; the site is revoked"):
            site.ask(federation.folder / "thief", token)
        assert state_of(coordinator, "a") == registry.REVOKED
        assert kinds(coordinator)[-1] is Kind.SITE_REVOKED
        with pytest.raises(StateError, match="revoked, not waiting"):
            enrolments.confirm(coordinator, "a", code)


def test_a_copied_token_revokes_even_an_enrolled_site(federation):
    with federation.serving() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
        stolen = federation.folder / "stolen.token"
        stolen.write_bytes(token.read_bytes())
        code = site.ask(federation.folder / "a", token)
        enrolments.confirm(coordinator, "a", code)
        enrolment.enrol(federation.folder / "a", None, epsilon=8.0, delta=1e-5)
        assert site.visit(federation.home("a"))
        with pytest.raises(KitError, match="the site is revoked"):
            site.ask(federation.folder / "thief", stolen)
        with pytest.raises(KitError, match="not enrolled or was revoked"):
            site.visit(federation.home("a"))


def test_names_in_a_request_are_ignored(federation):
    with federation.open() as coordinator:
        token = enrolments.issue_token(coordinator, "a")
        tls, signing = keys.new_tls_key(), keys.new_signing_key()
        boastful = boastful_request(tls, f"spiffe://{site.FEDERATION}/site/b")
        asked = {
            "token": secret_hash(token.secret),
            "tls_request": boastful,
            "signing_request": certificates.request(signing),
            "witness_key": keys.public_bytes(keys.new_signing_key()),
        }
        assert not enrolments.enrol(coordinator, **asked).confirmed
        code = confirmation_code(boastful, asked["signing_request"], asked["witness_key"])
        enrolments.confirm(coordinator, "a", code)
        reply = enrolments.enrol(coordinator, **asked)
    leaf = certificates.from_pem(reply.tls_chain)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == [identity.site(site.FEDERATION, "a").uri]
    assert "boast" not in leaf.subject.rfc4514_string()


def boastful_request(key, uri):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "boast")])
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def test_a_request_must_prove_its_keys(federation):
    with federation.open() as coordinator:
        token = enrolments.issue_token(coordinator, "a")
        good = certificates.request(keys.new_tls_key())
        asked = {
            "token": secret_hash(token.secret),
            "tls_request": good,
            "signing_request": certificates.request(keys.new_signing_key()),
            "witness_key": keys.public_bytes(keys.new_signing_key()),
        }
        broken = good[:-1] + bytes([good[-1] ^ 1])
        for name, value, reason in (
            ("tls_request", broken, "does not prove possession"),
            ("tls_request", asked["signing_request"], "must carry a P-256 key"),
            ("signing_request", good, "must carry an Ed25519 key"),
            ("tls_request", b"x" * 5000, "over 4096 bytes"),
            ("tls_request", b"nothing", "not a certificate request"),
            ("witness_key", b"short", "not an Ed25519 public key"),
        ):
            with pytest.raises(KitError, match=reason):
                enrolments.enrol(coordinator, **asked | {name: value})
        assert state_of(coordinator, "a") == registry.INVITED  # none of that used the token up
        enrolments.enrol(coordinator, **asked)
        assert state_of(coordinator, "a") == registry.REQUESTED


def test_an_enrolled_site_is_not_enrolled_twice(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        before = home.key("tls.key").read_bytes()
        with pytest.raises(StateError, match="active already"):
            enrolments.issue_token(coordinator, "a")
        token = site.token_file(coordinator, "b", federation.folder)
        for given, reason in ((None, "is enrolled already as `a`"), (token, "for another site")):
            with pytest.raises(KitError, match=reason):
                enrolment.enrol(home.path, given, epsilon=8.0, delta=1e-5)
        assert home.key("tls.key").read_bytes() == before
        assert site.ask(federation.folder / "b", token)  # nor was the token used up by that


def test_a_folder_that_holds_something_else_is_left_alone(federation):
    with federation.serving() as coordinator:
        token = site.token_file(coordinator, "a", federation.folder)
        busy = federation.folder / "busy"
        busy.mkdir()
        (busy / "thesis.txt").write_text("precious")
        with pytest.raises(KitError, match="holds something else"):
            site.ask(busy, token)
        assert [path.name for path in busy.iterdir()] == ["thesis.txt"]
        empty = federation.folder / "empty"
        empty.mkdir()
        assert site.ask(empty, token)


def test_a_revoked_site_enrols_again_in_place_with_fresh_keys(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        old = home.key("tls.key").read_bytes()
        secret = home.unit_secret()
        registry.revoke_site(coordinator, "a")
        with pytest.raises(KitError, match="was revoked"):
            site.visit(home)
        again = site.enrol(coordinator, federation, "a")
        assert site.visit(again)
        assert again.key("tls.key").read_bytes() != old
        assert again.unit_secret() == secret  # the ledger still knows its patients


def test_a_new_token_after_a_revocation_needs_fresh_keys(federation):
    with federation.serving() as coordinator:
        first = site.token_file(coordinator, "a", federation.folder)
        code = site.ask(federation.folder / "a", first)
        registry.revoke_site(coordinator, "a")
        with pytest.raises(KitError, match="not known here or was used up"):
            site.ask(federation.folder / "a", None)
        second = site.token_file(coordinator, "a", federation.folder)
        again = site.ask(federation.folder / "a", second)
        assert again != code
        enrolments.confirm(coordinator, "a", again)
        enrolment.enrol(federation.folder / "a", None, epsilon=8.0, delta=1e-5)
        assert site.visit(Home.open(federation.folder / "a"))


def test_renewal_keeps_the_old_certificate_until_the_new_one_is_used(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        old = certificates.from_pem(home.tls_chain.read_bytes())
        key = keys.new_tls_key()
        new = certificates.from_pem(rekeying.renew(coordinator, "a", certificates.request(key)))
        assert callers.authenticate(coordinator, old) == "a"
        assert callers.authenticate(coordinator, new) == "a"
        with pytest.raises(NotAllowedError, match="not the current one"):
            callers.authenticate(coordinator, old)
        assert callers.authenticate(coordinator, new) == "a"


def test_a_lost_answer_to_a_renewal_never_locks_a_site_out(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        old = certificates.from_pem(home.tls_chain.read_bytes())
        for _ in range(3):  # three answers that never arrived
            assert callers.authenticate(coordinator, old) == "a"
            rekeying.renew(coordinator, "a", certificates.request(keys.new_tls_key()))
        assert callers.authenticate(coordinator, old) == "a"
        key = keys.new_tls_key()
        new = certificates.from_pem(rekeying.renew(coordinator, "a", certificates.request(key)))
        assert callers.authenticate(coordinator, new) == "a"
        with pytest.raises(NotAllowedError, match="not the current one"):
            callers.authenticate(coordinator, old)
