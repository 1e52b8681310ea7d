"""The upload stream as a state machine: whatever a site sends, no acknowledged byte is lost.

Over a real server and real TLS. A stranger's chunks get an answer with a reason, never an internal
error; and after all of them the true bytes are still taken.
"""

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from protos import exchange_pb2 as pb
from tests.exchange.channels import site_stub
from tests.fakes import site
from tests.fakes.sealing import begin_fields, sealed

import grpc  # isort: skip - pki sets the TLS 1.3 environment before gRPC reads it

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
TIMEOUT_S = 30
MAX_CHUNK = 1 << 20
REASONS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
}


@pytest.fixture
def enrolled(tmp_path, tmp_path_factory):
    return site.copy("enrolled", tmp_path, tmp_path_factory.getbasetemp())


class Uploads(RuleBasedStateMachine):
    """One site, one announced blueprint, and any chunks at all."""

    stub, blueprint, fields = None, None, None  # set by the test

    @initialize()
    def announce(self):
        self.digest = self.blueprint.statement.digest
        at, whole = self.begin(), self.blueprint.ciphertext
        if at:  # left by the example before: a whole upload with another digest begins again
            wrong = bytes(byte ^ 0xFF for byte in whole[at:])
            assert self.send(self.chunk(at, wrong)) is None
            assert self.begin() == 0
        self.acknowledged, self.true = 0, True  # what lies there is a prefix of the true bytes

    def begin(self):
        reply = self.stub.Begin(pb.BeginRequest(**self.fields), timeout=TIMEOUT_S)
        assert reply.blueprint.state == "receiving"
        return reply.durable

    def send(self, *chunks):
        """Return the durable offset, or None when the call was refused with a reason."""
        call = self.stub.Upload.future(iter(chunks), timeout=TIMEOUT_S)
        refusal = call.exception()
        if refusal is None:
            return call.result().durable
        assert refusal.code() in REASONS, (refusal.code(), refusal.details())
        assert refusal.details()
        return None

    def chunk(self, offset, data, digest=None):
        return pb.UploadChunk(digest=digest or self.digest, offset=offset, data=data)

    @rule(length=st.integers(1, 60_000), pieces=st.integers(1, 4))
    @precondition(lambda self: self.true)
    def go_on(self, length, pieces):
        """Send true bytes at the right place, never to the end."""
        start = self.acknowledged
        end = min(start + length, len(self.blueprint.ciphertext) - 1)
        step = max(1, (end - start) // pieces)
        offsets = range(start, end, step)
        data = self.blueprint.ciphertext
        durable = self.send(*(self.chunk(o, data[o : min(o + step, end)]) for o in offsets))
        if start < end:
            assert durable == end
            self.acknowledged = end

    @rule(by=st.integers(-(1 << 20), 1 << 40).filter(bool), length=st.integers(0, 100))
    def elsewhere(self, by, length):
        """Send bytes anywhere but at the end of what is there."""
        offset = max(0, self.acknowledged + by)
        if offset != self.acknowledged:
            assert self.send(self.chunk(offset, bytes(length))) is None

    @rule()
    def nothing(self):
        assert self.send() is None

    @rule(data=st.binary(max_size=60))
    def another_blueprint(self, data):
        for digest in ("0" * 64, "", "../" * 9, "x" * 5000, "\u202e", self.digest.upper()):
            offset = self.acknowledged
            assert self.send(pb.UploadChunk(digest=digest, offset=offset, data=data)) is None

    @rule()
    def two_at_once(self):
        """The first chunk's blueprint is the call's; an empty chunk changes nothing."""
        here = self.chunk(self.acknowledged, b"")
        assert self.send(here, self.chunk(self.acknowledged, b"", "1" * 64)) is None

    @rule()
    def too_much_in_one_chunk(self):
        assert self.send(self.chunk(self.acknowledged, bytes(MAX_CHUNK + 1))) is None

    @rule()
    def past_the_signed_length(self):
        left = len(self.blueprint.ciphertext) - self.acknowledged
        if left + 1 <= MAX_CHUNK:
            assert self.send(self.chunk(self.acknowledged, bytes(left + 1))) is None

    @rule(length=st.integers(1, 500))
    def garbage(self, length):
        """Take bytes that are not the true ones: the digest finds them out at the end."""
        length = min(length, len(self.blueprint.ciphertext) - 1 - self.acknowledged)
        if length > 0:
            durable = self.send(self.chunk(self.acknowledged, b"\xaa" * length))
            assert durable == self.acknowledged + length
            self.acknowledged, self.true = durable, False

    @rule()
    @precondition(lambda self: not self.true)
    def finish_what_is_wrong(self):
        """A whole upload with another digest begins again from zero."""
        at, whole = self.acknowledged, self.blueprint.ciphertext
        assert self.send(self.chunk(at, whole[at:])) is None
        assert self.begin() == 0
        self.acknowledged, self.true = 0, True

    @rule(length=st.integers(1, 500))
    @precondition(lambda self: self.true)
    def cut_off(self, length):
        """The line breaks after some chunks: what was acknowledged before is still there."""
        start = self.acknowledged
        data = self.blueprint.ciphertext[start : start + length]
        if start + len(data) >= len(self.blueprint.ciphertext):
            return

        def chunks():
            yield self.chunk(start, data)
            raise OSError("the cable is pulled")

        with pytest.raises(grpc.RpcError):
            self.stub.Upload(chunks(), timeout=TIMEOUT_S)
        durable = self.begin()
        assert start <= durable <= start + len(data)
        self.acknowledged = durable

    @invariant()
    def acknowledged_bytes_stay(self):
        if self.stub is not None and hasattr(self, "digest"):
            assert self.begin() == self.acknowledged


def test_no_stream_of_chunks_loses_a_byte_or_breaks_the_server(enrolled):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator, site_stub(coordinator, home) as stub:
        Uploads.stub, Uploads.blueprint = stub, sealed(home)
        Uploads.fields = begin_fields(home, Uploads.blueprint)
        run_state_machine_as_test(
            Uploads,
            settings=settings(
                max_examples=max(2, EXAMPLES // 20),
                stateful_step_count=12,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
        machine = Uploads()
        machine.announce()
        while True:  # the positive control: the true bytes are taken after all of that
            whole, start = Uploads.blueprint.ciphertext, machine.begin()
            if machine.send(machine.chunk(start, whole[start:])) == len(whole):
                break
            assert machine.begin() == 0
        site.wait_for(lambda: site.settled(enrolled))
        assert enrolled.states() == {"a": "pending"}
