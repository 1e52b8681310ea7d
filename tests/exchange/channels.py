"""Channels to a running coordinator with whatever certificate a test wants to show."""

from contextlib import contextmanager

from pki import certificates, keys, tls
from protos import exchange_pb2 as pb
from protos import exchange_pb2_grpc as stubs

import grpc  # isort: skip - pki first

__all__ = ["anonymous_stub", "grpc", "pb", "site_stub", "stub"]


@contextmanager
def stub(coordinator, *, key, chain):
    """An Exchange stub whose client shows `chain` (PEM bytes) for `key`."""
    address = f"127.0.0.1:{coordinator.config.exchange_port}"
    root = certificates.pem(coordinator.root)
    with tls.client_channel(address, root=root, key=key, chain=chain) as channel:
        yield stubs.ExchangeStub(channel)


@contextmanager
def site_channel(coordinator, home):
    """A channel with a site's own certificate."""
    address = f"127.0.0.1:{coordinator.config.exchange_port}"
    key = keys.load_tls(home.key("tls.key"))
    root, chain = certificates.pem(coordinator.root), home.tls_chain.read_bytes()
    with tls.client_channel(address, root=root, key=key, chain=chain) as channel:
        yield channel


@contextmanager
def site_stub(coordinator, home):
    """An Exchange stub with a site's own certificate."""
    key = keys.load_tls(home.key("tls.key"))
    with stub(coordinator, key=key, chain=home.tls_chain.read_bytes()) as found:
        yield found


@contextmanager
def anonymous_stub(coordinator):
    """An Exchange stub that shows no certificate at all."""
    address = f"127.0.0.1:{coordinator.config.exchange_port}"
    root = certificates.pem(coordinator.root)
    with tls.server_auth_channel(address, root=root) as channel:
        yield stubs.ExchangeStub(channel)
