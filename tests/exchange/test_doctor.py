"""`edge-agent doctor`: each cause by its name, in front of what really has it."""

import dataclasses
import json
import os
import ssl
from datetime import UTC, datetime, timedelta

import pytest

from edge_agent import cli
from edge_agent.doctor import line, machine, papers, rounds
from edge_agent.doctor.findings import examine
from kit import clock, door
from kit.errors import KitError
from pki import certificates, identity, keys
from tests.fakes import boxes, site
from tests.fakes.terminal import free_ports

NAME = "lung"
HOST = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class World:
    root: certificates.Authority
    issuing: certificates.Authority
    now: datetime

    def listener(self, *, hosts=(HOST,), ago=timedelta(0), who=None, **options):
        """A server with a leaf of this CA, as a coordinator's is."""
        key = keys.new_tls_key()
        who = who or identity.coordinator(NAME)
        leaf = certificates.issue_tls_server(
            self.issuing, who, key.public_key(), hosts, now=self.now - ago
        )
        return boxes.tls_listener(key, (leaf, self.issuing.certificate), **options)

    def check(self, address, proxy=""):
        """Return what the doctor says of who answers at `address`."""
        return examine(
            "coordinator",
            lambda: line.certificate(
                address, proxy, root=self.root.certificate, federation=NAME, now=self.now
            ),
        )


def authority():
    now = clock.utc_now()
    root = certificates.new_root(NAME, now=now)
    return World(root, certificates.new_issuing(root, NAME, now=now), now)


@pytest.fixture(scope="module")
def world():
    return authority()


@pytest.fixture
def well(world):
    """The positive control: the coordinator's own server."""
    with world.listener() as address:
        finding = world.check(address)
        assert finding.passed, finding
        assert "TLS 1.3, certified by this federation" in finding.seen
        yield address


def fails(finding, seen, fix):
    assert finding.passed is False, finding
    assert seen in finding.seen
    assert fix in finding.fix


def test_a_name_without_an_address(well):
    assert examine("name", lambda: line.name("localhost:1", "")).passed
    unknown = examine("name", lambda: line.name("no-such-host.invalid:8443", ""))
    fails(unknown, "`no-such-host.invalid` has no address", "DNS")
    proxied = examine("name", lambda: line.name(well, "http://no-such-proxy.invalid:3128"))
    fails(proxied, "`no-such-proxy.invalid` has no address", "DNS")


def test_a_closed_port(well):
    assert examine("port", lambda: line.port(well, "")).passed
    closed = f"{HOST}:{free_ports(1)[0]}"
    fails(examine("port", lambda: line.port(closed, "")), "nobody listens", "coordinator serve")


def test_a_port_that_never_answers(monkeypatch):
    monkeypatch.setattr(line, "TIMEOUT_S", 0.3)
    with socket_that_is_full() as address:
        fails(examine("port", lambda: line.port(address, "")), "no answer from", "firewall")


class socket_that_is_full:  # noqa: N801 - reads as a place
    """A listener whose queue is full: the next connection waits, as behind a firewall."""

    def __enter__(self):
        import socket

        self._door = socket.socket()
        self._door.bind((HOST, 0))
        self._door.listen(0)
        address = self._door.getsockname()
        self._waiting = []
        for _ in range(4):
            each = socket.socket()
            each.setblocking(False)
            each.connect_ex(address)
            self._waiting.append(each)
        return f"{HOST}:{address[1]}"

    def __exit__(self, *_):
        for each in [*self._waiting, self._door]:
            each.close()


def test_a_box_that_ends_tls(world, well):
    """The issuer is not the pinned root, and nobody claims to be the coordinator."""
    box = authority()
    with box.listener(who=identity.site("corporate", "box")) as address:
        finding = world.check(address)
    fails(finding, "something between here and the coordinator ends TLS", "exempted")
    assert "issued by `CN=lung issuing CA`" in finding.seen


def test_a_coordinator_under_another_root(world, well):
    with authority().listener() as address:
        fails(world.check(address), "does not come from the pinned root", "telephone")


def test_a_certificate_for_another_name(world, well):
    with world.listener(hosts=("hub.example.org", "10.0.0.1")) as address:
        finding = world.check(address)
    fails(finding, "not for `127.0.0.1` but for `hub.example.org`, `10.0.0.1`", "`hosts`")


def test_an_expired_and_a_future_certificate_of_the_coordinator(world, well):
    with world.listener(ago=timedelta(days=8)) as address:
        fails(world.check(address), "the coordinator's certificate expired on", "`serve`")
    with world.listener(ago=timedelta(days=-2)) as address:
        fails(world.check(address), "the coordinator's certificate holds from", "clocks is wrong")


def test_old_tls_and_no_tls(world, well):
    with world.listener(version=ssl.TLSVersion.TLSv1_2) as address:
        fails(world.check(address), "does not speak TLS 1.3", "something older")
    with boxes.saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        fails(world.check(address), "does not speak TLS (", "web server")
    with boxes.saying(b"") as address:
        fails(world.check(address), "during the handshake", "firewall")


def test_a_proxy_that_lets_through_and_those_that_do_not(world, well):
    with boxes.proxy(well) as (through, seen):
        proxy = f"http://{through}"
        assert "through the proxy" in examine("proxy", lambda: line.port(well, proxy)).seen
        assert world.check(well, proxy).passed
        assert all(request.startswith(b"CONNECT " + well.encode()) for request in seen)
        other = examine("proxy", lambda: line.port("127.0.0.1:1", proxy))
        fails(other, "the proxy refuses `127.0.0.1:1`: HTTP/1.1 403", "allow CONNECT")
    with boxes.proxy(well, credentials="Basic bWU6c2VjcmV0") as (through, _):  # me:secret
        anonymous = examine("proxy", lambda: line.port(well, f"http://{through}"))
        fails(anonymous, "wants a name and a password", "config.toml")
        assert examine("proxy", lambda: line.port(well, f"http://me:secret@{through}")).passed
    with boxes.saying(b"220 smtp ready\r\n\r\n") as no_proxy:
        fails(examine("p", lambda: line.port(well, f"http://{no_proxy}")), "refuses", "CONNECT")
    closed = f"http://{HOST}:{free_ports(1)[0]}"
    fails(examine("p", lambda: line.port(well, closed)), "nobody listens", "config.toml")


def test_a_full_disk(tmp_path):
    assert "GiB free" in machine.disk(tmp_path, at_least=1)
    fails(
        examine("disk", lambda: machine.disk(tmp_path, at_least=1 << 60)),
        "MiB are free on the disk",
        "free some",
    )


def test_keys_that_others_can_reach(enrolled):
    secrets = enrolled.home("a").secrets
    assert "alone" in machine.permissions(secrets)
    key = secrets.home / "keys" / "tls.key"
    for path, mode, fix in ((key, 0o640, "chmod 600"), (key.parent, 0o755, "chmod 700")):
        kept = path.stat().st_mode
        path.chmod(mode)
        fails(examine("p", lambda: machine.permissions(secrets)), "reached by others", fix)
        path.chmod(kept)
    if os.geteuid() == 0:
        os.chown(key, 12345, -1)
        fails(examine("p", lambda: machine.permissions(secrets)), "another user (uid 12345)", "run")
        os.chown(key, 0, -1)
    assert "alone" in machine.permissions(secrets)


def test_this_sites_own_expired_certificate_and_a_clock_that_is_behind(enrolled):
    home, now = enrolled.home("a"), clock.utc_now()
    assert "TLS until" in papers.own_certificates(home, now=now)
    late = examine("c", lambda: papers.own_certificates(home, now=now + timedelta(days=8)))
    fails(late, "this site's TLS certificate expired on", "enroll --token NEW")
    early = examine("c", lambda: papers.own_certificates(home, now=now - timedelta(days=1)))
    fails(early, "this site's TLS certificate holds from", "clock is behind")


def test_a_key_that_is_not_the_certificates(enrolled):
    home = enrolled.home("a")
    assert "fits" in papers.own_keys(home)
    kept = home.key("tls.key").read_bytes()
    keys.save(home.key("tls.key"), keys.new_tls_key())
    fails(examine("k", lambda: papers.own_keys(home)), "not the certificate's", "enroll --token")
    home.key("tls.key").write_bytes(kept)
    assert "fits" in papers.own_keys(home)


def test_clocks_that_differ(enrolled):
    home = enrolled.home("a")
    with enrolled.serving():
        papers.conversation(home)
    now = clock.utc_now()
    assert "within" in papers.clocks(home, now=now)
    ahead = examine("clock", lambda: papers.clocks(home, now=now + timedelta(minutes=30)))
    fails(ahead, "ahead of the coordinator's", "NTP")
    behind = examine("clock", lambda: papers.clocks(home, now=now - timedelta(minutes=6)))
    fails(behind, "behind the coordinator's", "NTP")


TORCH = {"version": "2.9", "built_for": "13.0", "available": True, "device": "X", "difference": 0.0}
RUNTIME = {"version": "1.3", "available": True, "used": "CUDAExecutionProvider", "difference": 0.0}


@pytest.mark.parametrize(
    ("judge", "found", "gpu", "seen", "fix"),
    [
        (machine.judge_torch, None, True, "not installed", None),
        (machine.judge_torch, TORCH, True, "computes on CUDA (X)", None),
        (machine.judge_torch, TORCH | {"available": False}, False, "uses the CPU", None),
        (machine.judge_torch, TORCH | {"available": False}, True, "not reach it", "nvidia-smi"),
        (
            machine.judge_torch,
            TORCH | {"available": False, "built_for": ""},
            True,
            "built without CUDA",
            "CUDA build",
        ),
        (machine.judge_torch, TORCH | {"error": "out of memory"}, True, "out of memory", "nvidia"),
        (machine.judge_torch, TORCH | {"difference": 3.0}, True, "differs", "do not compute"),
        (machine.judge_torch, TORCH | {"difference": float("nan")}, True, "differs", "do not"),
        (machine.judge_runtime, None, False, "no ONNX runtime", "extra"),
        (machine.judge_runtime, RUNTIME, True, "computes on CUDA", None),
        (machine.judge_runtime, RUNTIME | {"available": False}, False, "uses the CPU", None),
        (machine.judge_runtime, RUNTIME | {"available": False}, True, "no CUDA in it", "`gpu`"),
        (
            machine.judge_runtime,
            RUNTIME | {"used": "CPUExecutionProvider"},
            True,
            "silently computes on `CPUExecutionProvider`",
            "cuDNN",
        ),
        (machine.judge_runtime, RUNTIME | {"error": "no driver"}, False, "no driver", "nvidia"),
    ],
)
def test_a_gpu_that_silently_fell_back(judge, found, gpu, seen, fix):
    finding = examine("gpu", lambda: judge(found, has_gpu=gpu))
    assert seen in finding.seen
    assert finding.passed is (fix is None)
    assert (fix or "") in finding.fix


def test_the_self_tests_compute_on_this_machine():
    assert "torch" in machine.training_gpu()
    assert "onnxruntime" in machine.inference_gpu()


def test_a_self_test_that_crashes_is_one_finding():
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    finding = examine("gpu", lambda: machine._self_test("json", crash))
    fails(finding, "gave no answer to a small computation", "damaged")
    assert machine._self_test("no_such_package", crash) is None
    assert machine._self_test("json", "print('{}')") == {}


@pytest.fixture
def without_self_tests(monkeypatch):
    """They take their time, and have a test of their own."""
    for part in ("training_gpu", "inference_gpu"):
        monkeypatch.setattr(machine, part, lambda: "tried elsewhere")


def doctor(home, capsys):
    words = ["doctor", "--home", str(home.path), "--json"]
    status = door.run("edge-agent", lambda: cli.app(words, standalone_mode=False))
    out, err = capsys.readouterr()
    return status, json.loads(out), err


def test_the_rounds_pass_with_a_coordinator_and_name_its_absence_without(
    enrolled, without_self_tests
):
    home = enrolled.home("a")
    with enrolled.serving():
        findings = list(rounds.rounds(home, clock.utc_now))
    assert [f for f in findings if not f.passed] == []
    assert [f.check for f in findings][:7] == [
        "disk", "permissions", "certificates", "keys", "name", "port", "coordinator"
    ]  # fmt: skip
    found = {f.check: f for f in rounds.rounds(home, clock.utc_now)}
    assert found["port"].passed is False
    assert found["coordinator"].passed is found["contact"].passed is found["clock"].passed is None
    assert "`port` has to pass first" in found["contact"].seen


def test_the_command_exits_0_only_if_all_is_well(enrolled, without_self_tests, capsys):
    home = enrolled.home("a")
    with enrolled.serving():
        status, findings, err = doctor(home, capsys)
        assert (status, err) == (0, "")
        assert {f["passed"] for f in findings} == {True}
        home.key("tls.key").chmod(0o644)
        status, findings, err = doctor(home, capsys)
        assert status == 1
        assert "edge-agent: error: failed: permissions, keys" in err
        home.key("tls.key").chmod(0o600)
    status, findings, err = doctor(home, capsys)
    assert status == 1
    assert "error: failed: port" in err
    assert {f["check"]: f["passed"] for f in findings}["port"] is False


def test_a_machine_is_looked_at_before_it_enrols(tmp_path, without_self_tests):
    federation, home = site.found(tmp_path), tmp_path / "not" / "yet"

    def look(at=clock.utc_now):
        return {f.check: f for f in rounds.before_enrolment(home, token, "", at)}

    with federation.serving() as coordinator:
        token = site.enrolments.issue_token(coordinator, "a")
        found = look()
        assert {f.passed for f in found.values()} == {True}, found
        assert {"enrolment port", "exchange coordinator", "token"} <= set(found)
        late = look(lambda: clock.utc_now() + timedelta(hours=25))
        fails(late["token"], "the token expired on", "new token")
    down = look()
    assert not home.exists()
    fails(down["enrolment port"], "nobody listens", "coordinator serve")
    fails(down["exchange port"], "nobody listens", "coordinator serve")
    assert down["exchange coordinator"].passed is None
    assert "`exchange port`" in down["exchange coordinator"].seen


def test_a_revoked_site_is_told_so(enrolled):
    home = enrolled.home("a")
    with enrolled.serving() as coordinator:
        assert "verified" in papers.conversation(home)
        site.registry.revoke_site(coordinator, "a")
        finding = examine("contact", lambda: papers.conversation(home))
    assert finding.passed is False
    assert "revoked" in finding.seen


def test_explanations_say_what_the_clock_here_says(world):
    key = keys.new_tls_key()
    leaf = certificates.issue_tls_server(
        world.issuing, identity.coordinator(NAME), key.public_key(), [HOST], now=world.now
    )
    then = datetime(2031, 1, 1, tzinfo=UTC)
    error = line.explain(10, leaf, f"{HOST}:1", federation=NAME, now=then)
    assert isinstance(error, KitError)
    assert "it is 2031-01-01T00:00:00Z here" in str(error)
