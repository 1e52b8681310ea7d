"""No method of the contract is reached but over TLS 1.3, and by a certificate where one is needed.

Real calls, one for every method of the descriptor; the server's own count says what reached it.
"""

import contextlib
import ssl

import pytest

from coordinator.authorisation import Caller, caller_of
from pki import certificates
from protos import exchange_pb2 as pb
from tests.fakes import site
from tests.fakes.bridges import bridge

import grpc  # isort: skip - pki sets the TLS 1.3 environment before gRPC reads it

TIMEOUT_S = 20
METHODS = [
    (service, method)
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
PORTS = {"Enrolment": "enrol_port", "Exchange": "exchange_port"}


@pytest.fixture
def served(enrolled):
    with enrolled.running() as (coordinator, server):
        yield coordinator, server, enrolled.home("a")


def context_of(coordinator, home, version, *, certificate=True):
    """A TLS client of one version only, with a site's certificate unless it is to have none."""
    context = ssl.create_default_context(cadata=certificates.pem(coordinator.root).decode())
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if certificate:
        context.load_cert_chain(home.tls_chain, home.key("tls.key"))
    return context


def reached(server, method):
    """How many calls of a method the server has seen, however they ended."""
    return sum(
        sample.value
        for family in server.metrics.collect()
        for sample in family.samples
        if sample.name == "coordinator_calls_total" and sample.labels["method"] == method.name
    )


def call(port, service, method):
    """Call a method with an empty request over plain text to `port`; returns the status."""
    kinds = {(False, False): "unary_unary", (True, False): "stream_unary"}
    kinds |= {(False, True): "unary_stream", (True, True): "stream_stream"}
    kind = kinds[method.client_streaming, method.server_streaming]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = getattr(channel, kind)(f"/{service.full_name}/{method.name}")
        request = iter([b""]) if method.client_streaming else b""
        try:
            answer = stub(request, timeout=TIMEOUT_S)
            if method.server_streaming:
                list(answer)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def crossing(server, port, context, service, method):
    """Call a method over a bridge under a TLS context; returns (status, how often it arrived)."""
    before = reached(server, method)
    with bridge(("127.0.0.1", port), context) if context else contextlib.nullcontext(port) as door:
        status = call(door, service, method)
    return status, reached(server, method) - before


def test_rsa_no_method_is_reached_but_over_tls_1_3(served):
    coordinator, server, home = served
    good = context_of(coordinator, home, ssl.TLSVersion.TLSv1_3)
    old = context_of(coordinator, home, ssl.TLSVersion.TLSv1_2)
    for service, method in METHODS:
        port = getattr(coordinator.config, PORTS[service.name])
        for bad in (old, None):  # None: no TLS at all
            seen = crossing(server, port, bad, service, method)
            assert seen == (grpc.StatusCode.UNAVAILABLE, 0), method.name
        status, arrived = crossing(server, port, good, service, method)
        assert status is not grpc.StatusCode.UNAVAILABLE, method.name
        assert arrived == 1, method.name


def test_a_method_for_sites_is_reached_by_nobody_without_a_certificate(served):
    coordinator, server, home = served
    known = context_of(coordinator, home, ssl.TLSVersion.TLSv1_3)
    stranger = context_of(coordinator, home, ssl.TLSVersion.TLSv1_3, certificate=False)
    for service, method in METHODS:
        port = getattr(coordinator.config, PORTS[service.name])
        is_open = caller_of(f"/{service.full_name}/{method.name}") is Caller.ANYBODY
        status, arrived = crossing(server, port, stranger, service, method)
        seen = (arrived, status is grpc.StatusCode.UNAVAILABLE)
        assert seen == (int(is_open), not is_open), method.name
        assert crossing(server, port, known, service, method)[1] == 1, method.name
    assert site.visit(home)
