"""No method lets one site act on, or learn of, another's: every method of the contract (S19)."""

import pytest
import sqlalchemy as sa

from coordinator import state
from protos import exchange_pb2 as pb
from tests.exchange.channels import site_channel
from tests.fakes.sealing import begin_fields, sealed

import grpc  # isort: skip - pki sets the TLS 1.3 environment before gRPC reads it

TIMEOUT_S = 20
EXCHANGE = pb.DESCRIPTOR.services_by_name["Exchange"]


def filled(message_type, values):
    """A request with everything in it that the other site sent or was told."""
    request = getattr(pb, message_type.name)()
    for field in message_type.fields:
        if field.is_repeated:
            continue
        if field.type == field.TYPE_STRING:
            setattr(request, field.name, values.get(field.name, values["digest"]))
        elif field.type == field.TYPE_BYTES:
            setattr(request, field.name, values.get(field.name, values["envelope"]))
    return request


def call(channel, method, request):
    """Call a method by its descriptor; returns (status, the bytes of every reply)."""
    path = f"/{EXCHANGE.full_name}/{method.name}"
    kinds = {(False, False): "unary_unary", (True, False): "stream_unary"}
    kinds |= {(False, True): "unary_stream", (True, True): "stream_stream"}
    stub = getattr(channel, kinds[method.client_streaming, method.server_streaming])(path)
    data = request.SerializeToString()
    try:
        answer = stub(iter([data]) if method.client_streaming else data, timeout=TIMEOUT_S)
        return grpc.StatusCode.OK, b"".join(answer) if method.server_streaming else answer
    except grpc.RpcError as error:
        return error.code(), (error.details() or "").encode()


def rows_of(coordinator, name):
    """Everything that the coordinator holds of a site's blueprints."""
    table = state.blueprints
    with coordinator.state.read() as tx:
        return [tuple(row) for row in tx.all(sa.select(table).where(table.c.site == name))]


@pytest.mark.parametrize("method", list(EXCHANGE.methods), ids=lambda method: method.name)
def test_s19_another_sites_names_and_papers_open_nothing(enrolled, method):
    mine, theirs = enrolled.home("a"), enrolled.home("b")
    with enrolled.serving() as coordinator:
        blueprint = sealed(mine)
        fields = begin_fields(mine, blueprint)
        values = fields | {"digest": blueprint.statement.digest, "data": blueprint.ciphertext[:999]}
        request = filled(method.input_type, values)
        with site_channel(coordinator, mine) as own, site_channel(coordinator, theirs) as other:
            begin = EXCHANGE.methods_by_name["Begin"]
            status, reply = call(own, begin, pb.BeginRequest(**fields))
            assert status is grpc.StatusCode.OK
            digest = values["digest"].encode()
            assert digest in reply
            before = rows_of(coordinator, "a")
            status, reply = call(other, method, request)
            assert digest not in reply
            assert status is not grpc.StatusCode.INTERNAL
            assert rows_of(coordinator, "a") == before
            assert rows_of(coordinator, "b") == []
            assert not coordinator.home.staging(values["digest"]).stat().st_size
            upload = EXCHANGE.methods_by_name["Upload"]
            chunk = pb.UploadChunk(digest=values["digest"], offset=0, data=values["data"])
            assert call(own, upload, chunk)[0] is grpc.StatusCode.OK  # its owner may go on
            assert coordinator.home.staging(values["digest"]).stat().st_size == 999
