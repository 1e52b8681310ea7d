import pytest

from pki import certificates, tls
from pki.errors import IdentityError
from tests.fakes import federation


class Call:
    """What gRPC tells a server about the other end of a call."""

    def __init__(self, **facts):
        self.facts = facts

    def auth_context(self):
        return self.facts


def test_a_peer_is_its_chain_leaf_first_over_tls_1_3_only():
    leaf, issuing = federation.found().a.tls_chain
    own, chain = [certificates.pem(leaf)], [certificates.pem(issuing)]
    version = [b"TLSv1.3"]
    assert tls.peer(
        Call(ssl_tls_version=version, x509_pem_cert=own, x509_pem_cert_chain=chain)
    ) == (leaf, issuing)
    assert tls.peer(Call(ssl_tls_version=version, x509_pem_cert=own)) == (leaf,)
    for facts in (
        {},
        {"x509_pem_cert": own},
        {"ssl_tls_version": [b"TLSv1.2"], "x509_pem_cert": own},
        {"ssl_tls_version": [*version, b"TLSv1.2"], "x509_pem_cert": own},
        {"ssl_tls_version": version},
        {"ssl_tls_version": version, "x509_pem_cert": []},
        {"ssl_tls_version": version, "x509_pem_cert": [b"text"]},
        {"ssl_tls_version": version, "x509_pem_cert_chain": chain},
    ):
        with pytest.raises(IdentityError):
            tls.peer(Call(**facts))


def test_a_peer_that_sends_its_leaf_in_the_chain_too_is_the_same_peer():
    leaf, issuing = federation.found().a.tls_chain
    both = [certificates.pem(leaf, issuing)]
    facts = {"ssl_tls_version": [b"TLSv1.3"], "x509_pem_cert": [certificates.pem(leaf)]}
    assert tls.peer(Call(**facts, x509_pem_cert_chain=both)) == (leaf, issuing)
