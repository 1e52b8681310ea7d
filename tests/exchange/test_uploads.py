"""Uploads under bad luck: slow, stalled, doubled, cut off, given up, too many, too large."""

import dataclasses
import threading
import time
from datetime import timedelta

import pytest

from coordinator import grpc_server, staging, submissions, uploads
from coordinator.errors import BusyError
from edge_agent import exchange as wire
from edge_agent.errors import UnreachableError
from kit.errors import LimitError
from protos import exchange_pb2 as pb
from tests.exchange.channels import site_channel, site_stub
from tests.fakes import runs, site
from tests.fakes.sealing import begin_fields, sealed

import grpc  # isort: skip - pki sets the TLS 1.3 environment before gRPC reads it

TIMEOUT_S = 20


def request(home, blueprint):
    return pb.BeginRequest(**begin_fields(home, blueprint))


class Slow:
    """An upload that sends its first bytes and then waits to be told to go on."""

    def __init__(self, stub, blueprint, *, first=1000):
        self.digest, self.data = blueprint.statement.digest, blueprint.ciphertext
        self.go_on, self.first = threading.Event(), first
        self.call = stub.Upload.future(self._chunks())

    def _chunks(self):
        yield pb.UploadChunk(digest=self.digest, offset=0, data=self.data[: self.first])
        self.go_on.wait(TIMEOUT_S)
        for start in range(self.first, len(self.data), 64 << 10):
            data = self.data[start : start + (64 << 10)]
            yield pb.UploadChunk(digest=self.digest, offset=start, data=data)

    def code(self):
        error = self.call.exception(timeout=TIMEOUT_S)
        return grpc.StatusCode.OK if error is None else error.code()


def staged(coordinator, blueprint):
    path = coordinator.home.staging(blueprint.statement.digest)
    return path.stat().st_size if path.is_file() else 0


def places(federation, count):
    """Serve with `count` upload places."""
    path = federation.hub / "config.toml"
    text = path.read_text().splitlines()
    kept = [line for line in text if not line.startswith("upload_places")]
    path.write_text("\n".join([*kept, f"upload_places = {count}", ""]))


def test_sixteen_slow_uploads_hold_up_nobody_else(enrolled):
    places(enrolled, 1)
    with enrolled.serving() as coordinator:
        first, second, third = (enrolled.home(name) for name in "abc")
        slow, other = sealed(first), sealed(second)
        with site_stub(coordinator, first) as a, site_stub(coordinator, second) as b:
            a.Begin(request(first, slow), timeout=TIMEOUT_S)
            calls = [Slow(a, slow) for _ in range(8)] + [Slow(b, other) for _ in range(8)]
            site.wait_for(lambda: staged(coordinator, slow) == 1000)
            with pytest.raises(grpc.RpcError) as busy:
                b.Begin(request(second, other), timeout=TIMEOUT_S)
            assert busy.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            told = dict(busy.value.trailing_metadata())
            assert 100 <= int(told["grpc-retry-pushback-ms"]) <= 30_000
            began = time.monotonic()
            for _ in range(5):
                site.visit(third)
            assert time.monotonic() - began < 10
            for call in calls:
                call.go_on.set()
            ends = [call.code() for call in calls]
        assert ends.count(grpc.StatusCode.OK) == 1
        assert set(ends) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert site.submit(second).state == "received"


def test_a_waiting_site_says_so_and_sends_when_a_place_is_free(enrolled):
    places(enrolled, 1)
    with enrolled.serving() as coordinator:
        first, second = enrolled.home("a"), enrolled.home("b")
        slow, told, done = sealed(first), [], []
        with site_stub(coordinator, first) as a:
            a.Begin(request(first, slow), timeout=TIMEOUT_S)
            call = Slow(a, slow)
            site.wait_for(lambda: staged(coordinator, slow) == 1000)
            waiting = threading.Thread(
                target=lambda: done.append(site.submit(second, tell=told.append))
            )
            waiting.start()
            site.wait_for(lambda: waits(told))
            assert not done
            call.go_on.set()
            assert call.code() is grpc.StatusCode.OK
            waiting.join(TIMEOUT_S)
    assert [result.state for result in done] == ["received"]
    assert waits(told)[0].startswith("waiting: 1 transfers are under way; this site is number 1")


def waits(told):
    return [line for line in told if line.startswith("waiting: ")]


@pytest.mark.parametrize("name", ["Contact", "Download", "Upload"])
def test_a_call_whose_request_does_not_come_is_ended(enrolled, monkeypatch, name):
    monkeypatch.setattr(grpc_server, "STALL_S", 1.0)
    with enrolled.serving() as coordinator:
        home, ready = enrolled.home("a"), threading.Event()

        def never():
            ready.wait(TIMEOUT_S)
            yield from ()

        with site_channel(coordinator, home) as channel:
            # On the wire a unary call that has not sent its request yet is this.
            method = channel.stream_unary(f"/hospital_edge_kit.v1.Exchange/{name}")
            error = method.future(never()).exception(timeout=TIMEOUT_S)
            ready.set()
        assert error.code() is grpc.StatusCode.CANCELLED
        assert site.visit(home)


def test_an_upload_slower_in_all_than_the_limit_on_standing_still_is_let(enrolled, monkeypatch):
    monkeypatch.setattr(grpc_server, "STALL_S", 4.0)
    monkeypatch.setattr(wire, "CHUNK_BYTES", 40 << 10)
    began = time.monotonic()
    with enrolled.serving():
        done = site.submit(enrolled.home("a"), sent=lambda *_: time.sleep(0.6))
    assert done.state == "received"
    assert time.monotonic() - began > 4


def test_a_coordinator_that_takes_nothing_more_is_left_after_a_while(enrolled, monkeypatch):
    home = enrolled.home("a")
    monkeypatch.setattr(wire, "STALL_S", 1.0)
    held = threading.Event()
    true_append = uploads.Upload.append

    def append(upload, offset, data):
        held.wait(TIMEOUT_S)
        return true_append(upload, offset, data)

    with enrolled.serving():
        with monkeypatch.context() as patch:
            patch.setattr(uploads.Upload, "append", append)
            with pytest.raises(UnreachableError, match="nothing moved to or from") as stalled:
                site.submit(home)
            assert "goes on where it stopped" in stalled.value.hint
            held.set()
        assert site.submit(home, tell=lambda _: None).state == "received"


def test_two_uploads_of_one_blueprint_do_not_mix_and_the_later_one_wins(enrolled):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator:
        blueprint = sealed(home)
        with site_stub(coordinator, home) as first, site_stub(coordinator, home) as second:
            first.Begin(request(home, blueprint), timeout=TIMEOUT_S)
            earlier = Slow(first, blueprint)
            site.wait_for(lambda: staged(coordinator, blueprint) == 1000)
            begun = second.Begin(request(home, blueprint), timeout=TIMEOUT_S)
            assert begun.durable == 1000
            assert earlier.code() is grpc.StatusCode.CANCELLED
            earlier.go_on.set()
            rest = pb.UploadChunk(
                digest=blueprint.statement.digest, offset=1000, data=blueprint.ciphertext[1000:]
            )
            done = second.Upload(iter([rest]), timeout=TIMEOUT_S)
        assert (done.durable, done.blueprint.state) == (len(blueprint.ciphertext), "received")


def test_a_staged_file_has_one_writer_across_processes_too(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator, enrolled.open() as beside:
        blueprint = sealed(home)
        digest = blueprint.statement.digest
        submissions.begin(coordinator, "a", **begin_fields(home, blueprint))
        with submissions.uploading(coordinator, "a", digest) as upload:
            upload.append(0, blueprint.ciphertext[:10])
            with pytest.raises(BusyError, match="another upload of this blueprint"):
                submissions.commit(beside, "a", digest)
        assert submissions.commit(beside, "a", digest).durable == 10


@pytest.mark.parametrize("died", ["before the rename", "before the record"])
def test_whole_bytes_that_a_crash_kept_from_being_received_are_received_at_the_next_begin(
    enrolled, monkeypatch, died
):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        blueprint = sealed(home)
        digest, data = blueprint.statement.digest, blueprint.ciphertext
        fields = begin_fields(home, blueprint)
        submissions.begin(coordinator, "a", **fields)

        def crash(*_arguments):
            raise SystemExit("killed")

        with monkeypatch.context() as patch:
            target = (
                (uploads, "settle") if died == "before the rename" else (submissions, "_receive")
            )
            patch.setattr(*target, crash)
            with submissions.uploading(coordinator, "a", digest) as upload:
                upload.append(0, data)
                with pytest.raises(SystemExit):
                    submissions.commit(coordinator, "a", digest, upload)
        assert submissions.one_status(coordinator, "a", digest).state == "receiving"
        after = submissions.begin(coordinator, "a", **fields)
        assert (after.state, after.durable) == ("received", len(data))
        assert coordinator.home.received(digest).read_bytes() == data
        assert not coordinator.home.staging(digest).exists()


def test_whole_bytes_that_are_not_the_signed_ones_start_from_zero_at_the_next_begin(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        blueprint = sealed(home)
        digest, data = blueprint.statement.digest, blueprint.ciphertext
        fields = begin_fields(home, blueprint)
        submissions.begin(coordinator, "a", **fields)
        coordinator.home.staging(digest).write_bytes(bytes(len(data)))  # a disk that lost them
        again = submissions.begin(coordinator, "a", **fields)
        assert (again.state, again.durable) == ("receiving", 0)
        with submissions.uploading(coordinator, "a", digest) as upload:
            upload.append(0, data)
            assert submissions.commit(coordinator, "a", digest, upload).state == "received"


def test_staging_expires_on_the_coordinators_clock_and_the_site_begins_again(enrolled):
    home = enrolled.home("a")
    with enrolled.open() as coordinator:
        blueprint = sealed(home)
        digest, data = blueprint.statement.digest, blueprint.ciphertext
        fields = begin_fields(home, blueprint)
        submissions.begin(coordinator, "a", **fields)
        with submissions.uploading(coordinator, "a", digest) as upload:
            upload.append(0, data[:1000])
        hours = coordinator.config.staging_hours
        coordinator.ahead = timedelta(hours=hours - 1)
        assert staging.expire(coordinator) == 0
        coordinator.ahead = timedelta(hours=hours + 1)
        assert staging.expire(coordinator) == 1
        assert not coordinator.home.staging(digest).exists()
        coordinator.ahead = timedelta(0)
        assert submissions.begin(coordinator, "a", **fields).durable == 0
        with submissions.uploading(coordinator, "a", digest) as upload:
            upload.append(0, data)
            assert submissions.commit(coordinator, "a", digest, upload).state == "received"
        coordinator.ahead = timedelta(hours=hours + 1)
        assert staging.expire(coordinator) == 0  # what was received waits for its intake
        assert coordinator.home.received(digest).is_file()


def test_the_bytes_and_the_uploads_of_one_site_are_limited(enrolled, monkeypatch):
    mine, theirs = enrolled.home("a"), enrolled.home("b")
    with enrolled.serving() as coordinator:
        other = site.create_study(coordinator, name="other")
        site.visit(mine)
        runs.write_run(mine, other, site.LABELS["a"], name="second", seed=9)
        blueprint, second = sealed(mine), sealed(mine, run="second")
        submissions.begin(coordinator, "a", **begin_fields(mine, blueprint))
        with monkeypatch.context() as patch:
            patch.setattr(submissions, "MAX_OPEN_UPLOADS", 1)
            with pytest.raises(LimitError, match="has 1 uploads open") as refusal:
                submissions.begin(coordinator, "a", **begin_fields(mine, second))
            assert "finish" in refusal.value.hint
            yours = sealed(theirs)
            assert submissions.begin(coordinator, "b", **begin_fields(theirs, yours)).durable == 0
        settings = dataclasses.replace(coordinator.config, site_staging_mib=0)
        with monkeypatch.context() as patch:
            patch.setitem(coordinator.__dict__, "config", settings)
            with pytest.raises(LimitError, match="bytes on their way here"):
                submissions.begin(coordinator, "a", **begin_fields(mine, second))
        assert submissions.begin(coordinator, "a", **begin_fields(mine, second)).durable == 0


def test_a_site_with_too_many_calls_at_once_is_told_when_to_come_back(enrolled):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator, site_stub(coordinator, home) as stub:
        waiting = threading.Event()

        def never():
            waiting.wait(3 * TIMEOUT_S)
            yield from ()

        held = [stub.Upload.future(never()) for _ in range(8)]
        site.wait_for(lambda: sum(call.done() for call in held) == 7)  # one has the place
        (last,) = (call for call in held if not call.done())
        ends = [call.exception().code() for call in held if call is not last]
        assert ends == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 7
        assert site.visit(home)
        waiting.set()
        assert last.exception(timeout=TIMEOUT_S).code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_altered_chunk_of_another_blueprint_is_refused(enrolled):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator, site_stub(coordinator, home) as stub:
        blueprint = sealed(home)
        digest, data = blueprint.statement.digest, blueprint.ciphertext
        stub.Begin(request(home, blueprint), timeout=TIMEOUT_S)
        mixed = [
            pb.UploadChunk(digest=digest, offset=0, data=data[:9]),
            pb.UploadChunk(digest="0" * 64, offset=9, data=data[9:]),
        ]
        with pytest.raises(grpc.RpcError) as refusal:
            stub.Upload(iter(mixed), timeout=TIMEOUT_S)
        assert refusal.value.details() == "one upload call carries one blueprint"
        rest = [pb.UploadChunk(digest=digest, offset=9, data=data[9:])]
        assert stub.Upload(iter(rest), timeout=TIMEOUT_S).blueprint.state == "received"
