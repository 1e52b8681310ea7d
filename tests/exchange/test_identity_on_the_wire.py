"""Who may talk to the exchange port; every refusal stands beside a call that works."""

import socket
import ssl
from datetime import timedelta

import pytest
import sqlalchemy as sa

from coordinator import registry, state
from edge_agent import renewal
from edge_agent.errors import UnreachableError
from edge_agent.exchange import Exchange
from kit import clock, files
from kit.errors import KitError
from pki import certificates, identity, keys
from pki.errors import IdentityError
from protos import exchange_pb2 as pb
from tests.exchange.channels import anonymous_stub, site_stub, stub
from tests.fakes import site

import grpc  # isort: skip - pki sets the TLS 1.3 environment before gRPC reads it

TIMEOUT_S = 20


@pytest.fixture
def federation(tmp_path):
    return site.found(tmp_path)


def calls():
    """Every method of the exchange as (name, call on a stub): all of the descriptor."""
    service = pb.DESCRIPTOR.services_by_name["Exchange"]
    found = {}
    for method in service.methods:
        message = getattr(pb, method.input_type.name)()
        found[method.name] = _call(method, message)
    return found


def _call(method, message):
    def call(on):
        rpc = getattr(on, method.name)
        request = iter([message]) if method.client_streaming else message
        answer = rpc(request, timeout=TIMEOUT_S)
        return list(answer) if method.server_streaming else answer

    return call


def code_of(call, on):
    """The status that a call ends with."""
    try:
        call(on)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def issue(coordinator, home, *, ago, key=None):
    """Make `home` hold a certificate issued `ago`, and the registry know it as current."""
    key = key or keys.load_tls(home.key("tls.key"))
    who = identity.site(site.FEDERATION, home.config.site)
    issuing = coordinator.issuing
    leaf = certificates.issue_tls_client(issuing, who, key.public_key(), now=clock.utc_now() - ago)
    home.tls_chain.write_bytes(certificates.pem(leaf, issuing.certificate))
    with coordinator.write() as tx:
        tx.execute(
            sa.update(state.sites)
            .where(state.sites.c.id == who.name)
            .values(tls_fingerprint=certificates.fingerprint(leaf))
        )
    return leaf


def test_every_method_refuses_without_a_certificate_and_after_revocation(federation, caplog):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        with anonymous_stub(coordinator) as nobody:
            for name, call in calls().items():
                assert code_of(call, nobody) is grpc.StatusCode.UNAVAILABLE, name
        with site_stub(coordinator, home) as enrolled:
            known = {name: code_of(call, enrolled) for name, call in calls().items()}
            assert known["Contact"] is grpc.StatusCode.OK
            assert grpc.StatusCode.PERMISSION_DENIED not in known.values()
            registry.revoke_site(coordinator, "a")
            caplog.clear()
            for name, call in calls().items():  # over the channel that is open already
                assert code_of(call, enrolled) is grpc.StatusCode.PERMISSION_DENIED, name
        reasons = [r.getMessage() for r in caplog.records if r.name == "coordinator.rpc_errors"]
        assert reasons == ["refused: site `a` is not enrolled or was revoked"] * len(calls())


def test_a_method_that_the_table_does_not_name_is_denied(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        key, chain = keys.pem(keys.load_tls(home.key("tls.key"))), home.tls_chain.read_bytes()
        address = f"127.0.0.1:{coordinator.config.exchange_port}"
        credentials = grpc.ssl_channel_credentials(certificates.pem(coordinator.root), key, chain)
        with grpc.secure_channel(address, credentials) as channel:
            for method in (
                "/hospital_edge_kit.v1.Exchange/Everything",
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            ):
                with pytest.raises(grpc.RpcError) as refusal:
                    channel.unary_unary(method)(b"", timeout=TIMEOUT_S)
                assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
            known = channel.unary_unary("/hospital_edge_kit.v1.Exchange/Contact")
            assert known(b"", timeout=TIMEOUT_S)


def test_the_exchange_is_not_served_on_the_enrolment_port(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        config = coordinator.config
        assert site.visit(home)
        root = certificates.pem(coordinator.root)
        credentials = grpc.ssl_channel_credentials(root)
        with (
            grpc.secure_channel(f"127.0.0.1:{config.enrol_port}", credentials) as channel,
            pytest.raises(grpc.RpcError) as refusal,
        ):
            channel.unary_unary("/hospital_edge_kit.v1.Exchange/Contact")(b"", timeout=9)
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_client_of_a_foreign_authority_is_refused(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        now, key = clock.utc_now(), keys.new_tls_key()
        root = certificates.new_root(site.FEDERATION, now=now)
        foreign = certificates.new_issuing(root, site.FEDERATION, now=now)
        leaf = certificates.issue_tls_client(foreign, home.identity, key.public_key(), now=now)
        chain = certificates.pem(leaf, foreign.certificate)
        request = pb.ContactRequest()
        with stub(coordinator, key=key, chain=chain) as stranger:
            with pytest.raises(grpc.RpcError) as refusal:
                stranger.Contact(request, timeout=TIMEOUT_S)
            assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        with site_stub(coordinator, home) as known:
            assert known.Contact(request, timeout=TIMEOUT_S).checkpoint


def test_a_certificate_of_our_own_authority_that_the_registry_does_not_hold_is_refused(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        key, now = keys.new_tls_key(), clock.utc_now()
        issuing = coordinator.issuing
        forged = certificates.issue_tls_client(issuing, home.identity, key.public_key(), now=now)
        chain = certificates.pem(forged, issuing.certificate)
        with (
            stub(coordinator, key=key, chain=chain) as other,
            pytest.raises(grpc.RpcError) as refusal,
        ):
            other.Contact(pb.ContactRequest(), timeout=TIMEOUT_S)
        assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "not the current one" in refusal.value.details()
        assert site.visit(home)


def test_the_coordinators_own_certificates_are_no_sites(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        key = keys.new_tls_key()
        issuing, now = coordinator.issuing, clock.utc_now()
        leaf = certificates.issue_tls_client(
            issuing, coordinator.identity, key.public_key(), now=now
        )
        chain = certificates.pem(leaf, issuing.certificate)
        with (
            stub(coordinator, key=key, chain=chain) as other,
            pytest.raises(grpc.RpcError) as refusal,
        ):
            other.Contact(pb.ContactRequest(), timeout=TIMEOUT_S)
        assert refusal.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "not that of a site" in refusal.value.details()
        assert site.visit(home)


def test_an_expired_certificate_is_refused_by_both_sides(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        good = home.tls_chain.read_bytes()
        issue(coordinator, home, ago=timedelta(days=8))
        with pytest.raises(IdentityError, match="certificate expired on") as refusal:
            site.visit(home)
        assert "enrol this site again" in refusal.value.hint
        with site_stub(coordinator, home) as expired, pytest.raises(grpc.RpcError) as at_the_door:
            expired.Contact(pb.ContactRequest(), timeout=TIMEOUT_S)
        assert at_the_door.value.code() is grpc.StatusCode.UNAVAILABLE
        issue(coordinator, home, ago=timedelta(0))
        assert home.tls_chain.read_bytes() != good
        assert site.visit(home)


def test_a_certificate_that_expires_during_a_connection_ends_it(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        with Exchange.open(home) as exchange:
            assert exchange.contact(0)
            coordinator.ahead = timedelta(days=8)
            with pytest.raises(KitError, match="certificate expired on"):
                exchange.contact(0)


def test_a_home_with_another_sites_certificate_says_so(federation):
    with federation.serving() as coordinator:
        first = site.enrol(coordinator, federation, "a")
        second = site.enrol(coordinator, federation, "b")
        kept = second.tls_chain.read_bytes()
        second.tls_chain.write_bytes(first.tls_chain.read_bytes())
        with pytest.raises(IdentityError, match="another site's"):
            site.visit(second)
        second.tls_chain.write_bytes(kept)
        assert site.visit(second)


def test_a_revoked_site_is_cut_off_on_its_next_call_over_an_open_channel(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        other = site.enrol(coordinator, federation, "b")
        with Exchange.open(home) as exchange, Exchange.open(other) as bystander:
            assert exchange.contact(0)
            registry.revoke_site(coordinator, "a")
            with pytest.raises(KitError, match="is not enrolled or was revoked"):
                exchange.contact(0)
            assert bystander.contact(0)


@pytest.mark.parametrize("port", ["exchange_port", "enrol_port"])
def test_only_tls_1_3_gets_a_handshake(federation, port):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        address = ("127.0.0.1", getattr(coordinator.config, port))
        modern = _context(coordinator, home)
        assert _handshake(modern, address) == "TLSv1.3"
        old = _context(coordinator, home)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            _handshake(old, address)


def _context(coordinator, home):
    context = ssl.create_default_context(cadata=certificates.pem(coordinator.root).decode())
    context.load_cert_chain(home.tls_chain, home.key("tls.key"))
    context.set_alpn_protocols(["h2"])
    return context


def _handshake(context, address):
    with (
        socket.create_connection(address, timeout=TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        assert secure.recv(9)  # HTTP/2 settings: the server took the client's certificate
        return secure.version()


def test_a_coordinator_that_is_down_is_one_clear_line(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        assert site.visit(home)
    with pytest.raises(UnreachableError, match="cannot be reached") as refusal:
        site.visit(home)
    assert "is it running" in refusal.value.hint


def test_a_site_renews_at_two_thirds_of_its_certificates_life(federation):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        young = issue(coordinator, home, ago=timedelta(days=4))
        site.visit(home)
        assert certificates.from_pem(home.tls_chain.read_bytes())[0] == young
        old = issue(coordinator, home, ago=timedelta(days=5))
        key = home.key("tls.key").read_bytes()
        site.visit(home)
        fresh = certificates.from_pem(home.tls_chain.read_bytes())[0]
        assert fresh != old
        assert home.key("tls.key").read_bytes() != key
        assert fresh.not_valid_after_utc > old.not_valid_after_utc
        assert site.visit(home)


@pytest.mark.parametrize("done", ["nothing", "key", "key and chain", "all"])
def test_a_renewal_that_was_killed_leaves_a_home_that_still_connects(federation, done, monkeypatch):
    with federation.serving() as coordinator:
        home = site.enrol(coordinator, federation, "a")
        issue(coordinator, home, ago=timedelta(days=5))
        allowed = iter([1] * ["nothing", "key", "key and chain", "all"].index(done))

        def dying(write):
            def step(path, data, **options):
                if path.parent.name in ("keys", "certificates") and next(allowed, None) is None:
                    raise SystemExit("killed")
                write(path, data, **options)

            return step

        with monkeypatch.context() as patch:
            patch.setattr(files, "write_secret", dying(files.write_secret))
            patch.setattr(renewal, "write_atomic", dying(renewal.write_atomic))
            if done == "all":
                site.visit(home)
            else:
                with pytest.raises(SystemExit, match="killed"):
                    site.visit(home)
        assert site.visit(home)
        assert site.visit(home)
