"""Certificates that must not get in: each with a good one beside it, over the same server."""

from datetime import timedelta

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from coordinator import registry
from kit import clock
from pki import certificates, identity, keys
from tests.drills.table import drill
from tests.exchange import channels
from tests.fakes import site


def ask(coordinator, key, chain):
    """Contact with any certificate; returns the status and whether the server's log says why."""
    with channels.stub(coordinator, key=key, chain=chain) as stub:
        try:
            stub.Contact(channels.pb.ContactRequest(), timeout=15)
        except channels.grpc.RpcError as error:
            return error.code().name
    return "OK"


def refused(federation, make):
    """Show the certificate that `make` returns, and a good one before and after."""
    home = federation.home("a")
    with federation.serving() as coordinator:
        own = keys.load_tls(home.key("tls.key"))
        good = (own, home.tls_chain.read_bytes())
        assert ask(coordinator, *good) == "OK"
        bad = make(coordinator, own)
        said = ask(coordinator, *bad)
        assert said in ("UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED"), said
        assert ask(coordinator, *good) == "OK"
    return f"{said}; the site's own certificate before and after: OK"


def leaf(coordinator, key, **changes):
    """A client leaf of the federation's own CA for the site's key, with one thing changed."""
    now = changes.pop("now", clock.utc_now())
    name = changes.pop("name", "a")
    who = identity.site(coordinator.config.federation, name)
    made = certificates.issue_tls_client(coordinator.issuing, who, key.public_key(), now=now)
    return made, coordinator.issuing.certificate


@drill(
    "expired certificate",
    done="a leaf that ended a day ago",
    expected="refused; the current one is not",
)
def expired(federation):
    def make(coordinator, key):
        old = leaf(coordinator, key, now=clock.utc_now() - timedelta(days=8))
        assert old[0].not_valid_after_utc < clock.utc_now()
        return key, certificates.pem(*old)

    return refused(federation, make)


@drill(
    "certificate of another site",
    done="a valid leaf that names site b, which the CA signed but the registry does not hold",
    expected="refused",
)
def wrong_name(federation):
    return refused(federation, lambda c, key: (key, certificates.pem(*leaf(c, key, name="b"))))


@drill(
    "certificate with the wrong key usage",
    done="a leaf for servers, shown by a client",
    expected="refused",
)
def wrong_usage(federation):
    def server(coordinator, key):
        who, hosts = coordinator.identity, ["127.0.0.1"]
        made = certificates.issue_tls_server(
            coordinator.issuing, who, key.public_key(), hosts, now=clock.utc_now()
        )
        usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
        return key, certificates.pem(made, coordinator.issuing.certificate)

    return refused(federation, server)


@drill(
    "certificate of a foreign CA",
    done="the right names and usage, signed by another federation's root",
    expected="refused in the handshake",
)
def foreign(federation):
    def make(coordinator, key):
        now = clock.utc_now()
        root = certificates.new_root(site.FEDERATION, now=now)
        issuing = certificates.new_issuing(root, site.FEDERATION, now=now)
        who = identity.site(site.FEDERATION, "a")
        made = certificates.issue_tls_client(issuing, who, key.public_key(), now=now)
        return key, certificates.pem(made, issuing.certificate)

    return refused(federation, make)


@drill(
    "revoked site",
    done="`sites revoke` while the site's connection is open",
    expected="its next call over that connection is refused; another site's is not",
)
def revoked(federation):
    with (
        federation.serving() as coordinator,
        channels.site_stub(coordinator, federation.home("a")) as gone,
        channels.site_stub(coordinator, federation.home("b")) as other,
    ):
        gone.Contact(channels.pb.ContactRequest(), timeout=15)
        registry.revoke_site(coordinator, "a")
        try:
            gone.Contact(channels.pb.ContactRequest(), timeout=15)
        except channels.grpc.RpcError as error:
            said = error.code().name
        else:
            raise AssertionError("a revoked site was answered")
        other.Contact(channels.pb.ContactRequest(), timeout=15)
    assert said == "PERMISSION_DENIED"
    return f"{said} on the open connection; site b: OK"
