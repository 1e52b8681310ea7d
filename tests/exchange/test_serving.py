"""`serve` over a real port: what answers, who decides, and what stops it."""

import dataclasses
import http.client
import json
import os
import socket
import threading
import time
from contextlib import closing, contextmanager
from datetime import timedelta

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_agent import installed, rollout
from edge_agent.serving import protocol, server
from edge_agent.serving.figures import Figures
from edge_agent.serving.models import Models
from federation.release import statement as documents
from federation.release.onnx_lint import NOTICE
from kit import clock
from kit.errors import KitError
from pki import certificates
from tests.fakes import site

MODEL = f"/v2/models/{site.STUDY}"
IMAGES = np.random.default_rng(0).random((3, 1, 9, 11), dtype=np.float32)


def fetch(home):
    return installed.fetch(home, site.STUDY, got=lambda *_: None).release


def accept(home, digest):
    return rollout.accept(home, site.STUDY, digest[:8], unevaluated=True, now=clock.utc_now())


@dataclasses.dataclass
class Served:
    """One running server, and what a client on this machine says to it."""

    port: int

    def ask(self, method, path, body=None, **headers):
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with closing(line):
            names = {name.replace("_", "-"): text for name, text in headers.items()}
            line.request(method, path, body=body, headers=names)
            reply = line.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read()

    def get(self, path, **headers):
        status, _, body = self.ask("GET", path, **headers)
        return status, json.loads(body)

    def infer(self, images=IMAGES, **headers):
        tensor = {"name": "images", "datatype": "FP32", "shape": list(images.shape)}
        body = json.dumps({"inputs": [tensor | {"data": images.ravel().tolist()}]})
        status, _, answer = self.ask("POST", f"{MODEL}/infer", body, **headers)
        return status, json.loads(answer)

    def figures(self):
        text = self.ask("GET", "/metrics")[2].decode()
        families = text_string_to_metric_families(text)
        found = {}
        for sample in (sample for family in families for sample in family.samples):
            # The parser gives every counter OpenMetrics' suffix, which Triton's names do not have.
            key = (sample.name.removesuffix("_total"), sample.labels.get("version", ""))
            found[key] = found.get(key, 0) + sample.value
        return found


@contextmanager
def serving(home):
    counts = Figures()
    models = Models(home, (site.STUDY,), counts)
    with server.serving(models, counts, host="127.0.0.1", port=0) as port:
        yield Served(port)


@pytest.fixture
def home(released):
    """Site a with the release fetched, and accepted by a person."""
    home = released.home("a")
    with released.serving():
        digest = fetch(home)
    accept(home, digest)
    return home


def active(home):
    return rollout.stage(home, home.study(site.STUDY)).active


def test_every_answer_says_which_release_spoke_and_what_it_is_not_for(home):
    digest = active(home)
    with serving(home) as served:
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", MODEL, f"{MODEL}/ready",
                     f"{MODEL}/versions/{digest}", "/metrics"):  # fmt: skip
            status, headers, _ = served.ask("GET", path)
            assert status == 200, path
            assert headers["Notice"] == NOTICE
            assert headers["Release-Digest"] == f"{site.STUDY}={digest}"
            assert NOTICE in headers["Server"]
            assert not [name for name in headers if name.lower().startswith("access-control")]
        status, headers, _ = served.ask("GET", "/v2/nothing")
        assert (status, headers["Release-Digest"]) == (404, f"{site.STUDY}={digest}")
        status, table = served.infer()
        assert status == 200
        assert table["parameters"]["notice"] == NOTICE
        assert table["parameters"]["release"] == table["model_version"] == digest
        _, about = served.get(MODEL)
    assert about["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 1, -1, -1]}]
    assert about["labels"] == list(site.CLASSES)
    assert (about["name"], about["versions"]) == (site.STUDY, [digest])


def test_an_answer_is_what_predict_gives_as_json_and_as_raw_bytes(home):
    found, is_accepted = rollout.load(home, site.STUDY, now=clock.utc_now())
    expected = rollout.opened(home, site.STUDY, found).predict(list(IMAGES))
    assert is_accepted
    tensor = {"name": "images", "datatype": "FP32", "shape": list(IMAGES.shape)}
    raw = IMAGES.astype("<f4").tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    head = json.dumps(asked).encode()
    with serving(home) as served:
        table = served.infer()[1]
        size = {"Inference_Header_Content_Length": str(len(head))}
        status, headers, body = served.ask("POST", f"{MODEL}/infer", head + raw, **size)
        figures = served.figures()
    rows = np.array(table["outputs"][0]["data"]).reshape(table["outputs"][0]["shape"])
    assert np.allclose(rows, expected, atol=1e-6)
    length = int(headers["Inference-Header-Content-Length"])
    assert (status, json.loads(body[:length])["model_version"]) == (200, active(home))
    assert np.allclose(np.frombuffer(body[length:], "<f4"), expected.ravel(), atol=1e-6)
    digest = active(home)
    assert figures["nv_inference_request_success", digest] == 2
    assert figures["nv_inference_count", digest] == 2 * len(IMAGES)
    assert figures["nv_inference_exec_count", digest] == 2
    assert figures["nv_inference_pending_request_count", digest] == 0
    assert figures["nv_inference_request_duration_us", digest] > 0
    assert ("nv_inference_request_failure", digest) not in figures


def test_a_web_page_reaches_nothing_by_rebinding_or_across_origins(home):
    """The browser is this machine's, so the port is reachable; the names it sends are not ours."""
    with serving(home) as served:
        for host in ("localhost", "127.0.0.1:9", "[::1]:80", f"localhost:{served.port}"):
            assert served.get(MODEL, Host=host)[0] == 200, host
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "",
                     "[::2]", "10.0.0.1", "localhost@evil.example", "127.0.0.1:80/x"):  # fmt: skip
            status, headers, body = served.ask("GET", MODEL, Host=host)
            assert status == 403, host
            assert (headers["Release-Digest"], b"Host" in body) == ("none", True)
        for origin in ("https://evil.example", "null", f"http://127.0.0.1:{served.port}"):
            assert served.infer(Origin=origin)[0] == 403
        status, headers, _ = served.ask("OPTIONS", f"{MODEL}/infer")
        assert (status, served.infer()[0]) == (405, 200)
        assert "Access-Control-Allow-Origin" not in headers
        assert served.figures()["edge_agent_refused_requests", ""] == 12


def test_no_path_leads_to_a_file_and_no_name_to_another_model(home):
    with serving(home) as served:
        assert served.get(MODEL)[0] == 200
        for path in ("/../../etc/passwd", "/v2/models/../../keys", "/v2/models/%2e%2e%2fkeys",
                     "/v2/models/other", f"{MODEL}/versions/{'0' * 64}", f"{MODEL}/config", "/",
                     f"{MODEL}/versions", "/v2/" + "a" * 5000, "//etc/passwd",
                     "/v2/repository/index", f"/v2/models/{site.STUDY}%00"):  # fmt: skip
            status, answer = served.get(path)
            assert status == 404, path
            assert "error" in answer
        for method in ("PUT", "DELETE", "PATCH", "POST"):
            assert served.ask(method, MODEL)[0] == 405


def test_an_oversized_or_malformed_request_costs_an_error_and_nothing_else(home):
    many = np.zeros((257, 1, 2, 2), dtype=np.float32)
    nan = np.full((1, 1, 8, 8), np.nan, dtype=np.float32)
    colour = np.zeros((1, 3, 8, 8), dtype=np.float32)
    with serving(home) as served:
        assert served.infer()[0] == 200
        for wrong, status in ((many, 413), (nan, 400), (colour, 400), (IMAGES * 2, 400)):
            assert served.infer(wrong)[0] == status
        assert served.infer(Content_Encoding="gzip")[0] == 415
        assert served.ask("POST", f"{MODEL}/infer", b"{}")[0] == 400
        length = {"Inference_Header_Content_Length": "-1"}
        assert served.ask("POST", f"{MODEL}/infer", b"{}", **length)[0] == 400
        # Said to be large, and large: refused by its length, before the bytes are there.
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as line:
            size = protocol.MAX_BODY_BYTES + 1
            head = f"POST {MODEL}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}"
            line.sendall(head.encode() + b"\r\n\r\n" + b"x" * 4096)
            assert b" 413 " in line.makefile("rb").readline()
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as line:
            line.sendall(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (17 << 10) + b"\r\n\r\n"
            )
            assert b" 431 " in line.makefile("rb").readline()
        assert served.infer()[0] == 200
        figures = served.figures()
    assert figures["nv_inference_request_failure", active(home)] == 7
    assert figures["nv_inference_request_success", active(home)] == 2


def test_a_withdrawn_release_stops_at_the_next_contact_without_a_restart(released, home):
    with serving(home) as served, released.serving() as coordinator:
        assert served.infer()[0] == 200
        site.revocation_of(released, coordinator, "c")
        assert served.infer()[0] == 200  # the site does not know yet
        site.visit(home)
        status, answer = served.infer()
        assert status == 503
        assert "is withdrawn" in answer["error"]
        assert served.get("/v2/health/live")[0] == 200
        status, health = served.get("/v2/health/ready")
        assert (status, health["ready"]) == (503, False)
        assert served.get(f"{MODEL}/ready")[0] == 503
        figures = served.figures()
        assert (figures["edge_agent_release_ready", ""], "error" in answer) == (0, True)
        site.build(released)
        fresh = fetch(home)
        assert served.infer()[0] == 503  # fetched, but nobody accepted it
        with pytest.raises(KitError, match="which was accepted here, is withdrawn"):
            rollout.load(home, site.STUDY, now=clock.utc_now())
        with pytest.raises(KitError, match="no earlier accepted release"):
            rollout.rollback(home, site.STUDY, now=clock.utc_now())
        accept(home, fresh)
        status, answer = served.infer()
        assert (status, answer["model_version"]) == (200, fresh)
        assert json.loads(answer["parameters"]["labels"]) == ["round", "long", "dark", "pale"]


def lease(federation, home, until):
    """Sign the accepted release anew with a lease, as its coordinator could have."""
    digest = active(home)
    found = dataclasses.replace(installed.claimed(home, digest), lease_until=clock.rfc3339(until))
    with federation.open() as coordinator:
        chain, key = coordinator.signer
    folder = installed.folder_of(home, digest)
    kind = documents.RELEASE_TYPE
    (folder / installed.ENVELOPE).write_bytes(documents.sign(found.to_bytes(), kind, key, chain[0]))
    (folder / installed.CHAIN).write_bytes(certificates.pem(*chain))


def test_a_lease_and_a_wound_back_clock_stop_a_running_release(released, home, monkeypatch):
    start = clock.utc_now()
    lease(released, home, start + timedelta(days=2))
    ahead = [timedelta(0)]
    monkeypatch.setattr(clock, "utc_now", lambda: start + ahead[0])
    with serving(home) as served:
        for moment, status, words in (
            (timedelta(0), 200, ""),
            (timedelta(days=2, seconds=1), 503, "lease of the installed release is over"),
            (timedelta(days=1), 200, ""),
            (timedelta(hours=-2), 503, "behind the newest time"),
            (timedelta(days=2), 200, ""),
        ):
            ahead[0] = moment
            found, answer = served.infer()
            assert (found, words in answer.get("error", "")) == (status, True), moment
    with serving(home) as served:  # a start at a wrong hour heals as well, without a restart
        ahead[0] = timedelta(days=3)
        assert served.get("/v2/health/ready")[0] == 503
        ahead[0] = timedelta(days=1)
        assert served.get("/v2/health/ready")[0] == 200
        ahead[0] = timedelta(days=3)
        assert served.infer()[0] == 503
        lease(released, home, start + timedelta(days=4))  # the same model, signed anew
        os.utime(installed.pointer(home, site.STUDY))  # as `fetch` writes it
        assert served.infer()[0] == 200


@pytest.fixture
def twice(approved_in_turn):
    """Site a with two releases, the older one fetched first; neither is withdrawn."""
    return approved_in_turn


@pytest.fixture
def approved_in_turn(pending):
    home, digests = pending.home("a"), []
    for names in (("a", "b"), ("c",)):
        for name in names:
            site.approve(pending, name)
        site.build(pending)
        with pending.serving():
            digests.append(fetch(home))
    return home, *digests


def test_a_person_accepts_tries_a_shadow_and_goes_back(twice):
    home, old, new = twice
    now, study = clock.utc_now(), home.study(site.STUDY)
    with serving(home) as served:
        assert served.infer()[0] == 503
        with pytest.raises(KitError, match="nobody evaluated release") as refusal:
            rollout.accept(home, site.STUDY, old[:8], now=now)
        assert "--unevaluated" in refusal.value.hint
        rollout.note_evaluation(home, old, now=now)
        rollout.accept(home, site.STUDY, old[:12], now=now)
        assert rollout.stage(home, study) == rollout.Stage(accepted=(old,), shadow=new)
        assert served.infer()[1]["model_version"] == old
        ends = time.monotonic() + 30
        while served.figures().get(("edge_agent_shadow_images", new), 0) < len(IMAGES):
            assert time.monotonic() < ends
            time.sleep(0.05)
        assert 0 <= served.figures()["edge_agent_shadow_agreements", new] <= len(IMAGES)
        assert ("nv_inference_count", new) not in served.figures()  # it answered nobody
        accept(home, new)
        assert served.infer()[1]["model_version"] == new
        assert served.get(f"{MODEL}/versions/{old}")[0] == 404
        assert rollout.rollback(home, site.STUDY, now=now).release == old
        assert served.infer()[1]["model_version"] == old
    with pytest.raises(KitError, match="no earlier accepted release"):
        rollout.rollback(home, site.STUDY, now=now)
    done = rollout.acts(home, study)
    assert [(act.act, act.release) for act in done] == [
        ("accept", old), ("accept", new), ("rollback", old),
    ]  # fmt: skip
    shown = {row.release: (row.stage, row.unusable) for row in rollout.listing(home, now=now)}
    assert shown == {old: ("active", ""), new: ("shadow", "")}


def test_only_a_whole_release_that_is_named_is_accepted_and_served(home):
    digest = active(home)
    for prefix, words in (
        (digest[:7], "too short"),
        ("0" * 64, "no installed release"),
        (digest, "accepted one already"),
        ("../" + digest, "no installed release"),
    ):
        with pytest.raises(KitError, match=words):
            accept(home, prefix) if len(prefix) < 64 else rollout.accept(
                home, site.STUDY, prefix, unevaluated=True, now=clock.utc_now()
            )
    model = installed.folder_of(home, digest) / installed.MODEL
    good = model.read_bytes()
    with serving(home) as served:
        assert served.infer()[0] == 200
        rollout.record(home, site.STUDY).unlink()
        model.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(KitError, match="was altered"):
            accept(home, digest)
        assert served.infer()[0] == 503
        model.write_bytes(good)
        accept(home, digest)
        assert served.infer()[0] == 200
        proved = home.trust.read_bytes()
        home.trust.write_bytes(b"{}")
        assert served.infer()[0] == 503
        home.trust.unlink()  # whoever removes it would make the site forget a withdrawal
        status, answer = served.infer()
        assert (status, "a withdrawal may be unknown" in answer["error"]) == (503, True)
        home.trust.write_bytes(proved)
        assert served.infer()[0] == 200


def test_serve_listens_on_loopback_alone():
    assert server.parse_address("127.0.0.1:0") == ("127.0.0.1", 0)
    assert server.parse_address("[::1]:8500") == ("::1", 8500)
    for text in ("0.0.0.0:80", "[::]:80", "10.1.2.3:80", "[fe80::1]:80", "[::ffff:10.0.0.1]:80"):
        with pytest.raises(KitError, match="is not loopback"):
            server.parse_address(text)
    for text in ("localhost:80", "127.0.0.1", ":80", "127.0.0.1:http", "127.0.0.1:70000"):
        with pytest.raises(KitError):
            server.parse_address(text)


def test_a_taken_port_is_one_clear_line_and_the_door_closes_behind_itself(home):
    counts = Figures()
    with serving(home) as served:
        models = Models(home, (site.STUDY,), counts)
        with (
            pytest.raises(KitError, match="cannot listen"),
            server.serving(models, counts, host="127.0.0.1", port=served.port),
        ):
            pass
        assert served.infer()[0] == 200
    with pytest.raises(ConnectionRefusedError):
        served.ask("GET", "/v2")
    assert not [t for t in threading.enumerate() if t.name in ("http", "tick", "shadow")]
