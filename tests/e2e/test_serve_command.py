"""`edge-agent serve` as its own process, and `predict` beside it: no torch, stops when told to."""

import dataclasses
import http.client
import json
import re
import signal
import time
from contextlib import closing
from datetime import timedelta

import numpy as np
import pytest
from PIL import Image

from edge_agent import installed, rollout
from edge_agent.home import Home
from federation.release import statement as documents
from kit import clock
from pki import certificates
from tests.fakes import site, terminal
from tests.fakes.terminal import Terminal, wait_for


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """Site a with a release fetched where there is no torch, and a terminal over its federation."""
    federation = site.copy(
        "released", tmp_path_factory.mktemp("serve"), tmp_path_factory.getbasetemp()
    )
    terminal_ = Terminal(federation.folder)
    with federation.serving():
        done = terminal_.json("edge-agent", "a", "fetch", "--study", site.STUDY, light=True)
    assert (federation.home("a").path / "state" / "repository" / "timestamp.json").is_file()
    return terminal_, done["release"]


def test_what_trains_is_absent_in_these_processes_and_said_to_be(fetched):
    words = ("train", "--study", site.STUDY, "--data", fetched[0].folder, "--labels", "round")
    done = fetched[0].run("edge-agent", "a", *words, light=True)
    assert done.code == 1
    assert "error: this needs `torch`, which is not installed here" in done.err


def folder_of_images(path):
    """A folder with folders inside: 8 and 16 bits, two formats, and two files that are none."""
    rng = np.random.default_rng(0)
    (path / "ward" / "north").mkdir(parents=True)
    grey = rng.integers(0, 256, (9, 12), dtype=np.uint8)
    Image.fromarray(grey).save(path / "one.png")
    Image.fromarray(grey).save(path / "ward" / "two.tiff")
    deep = rng.integers(0, 65536, (9, 12), dtype=np.uint16)
    Image.fromarray(deep).save(path / "ward" / "north" / "three.png")
    (path / "ward" / "bad.png").write_bytes((path / "one.png").read_bytes()[:60])
    (path / "notes.txt").write_text("no image")
    return path


def test_predict_loses_nothing_of_a_folder_with_bad_files_in_it(fetched, tmp_path):
    run, digest = fetched[0].run, fetched[1]
    data, out = folder_of_images(tmp_path / "images"), tmp_path / "out.json"
    home = Home(fetched[0].folder / "a")
    rollout.record(home, site.STUDY).unlink(missing_ok=True)  # whichever test was first
    words = ("predict", "--study", site.STUDY, "--data", data, "--out", out)
    done = run("edge-agent", "a", *words, light=True)
    assert done.code == 1
    assert done.err.count("left out: ") == 2
    assert "left out: ward/bad.png: is truncated" in done.err
    assert "2 images could not be read; the result is of the rest" in done.err
    assert "nobody here has accepted this release" in done.err
    table = json.loads(out.read_bytes())
    files = {row["file"] for row in table["rows"]}
    assert files == {"one.png", "ward/two.tiff", "ward/north/three.png"}
    assert {row["file"] for row in table["refused"]} == {"ward/bad.png", "notes.txt"}
    assert (table["release"], "medical device" in table["notice"]) == (digest, True)
    (data / "ward" / "bad.png").unlink()
    (data / "notes.txt").unlink()
    whole = run("edge-agent", "a", *words[:-1], tmp_path / "out.csv", light=True)
    assert (whole.code, len((tmp_path / "out.csv").read_text().splitlines())) == (0, 4)


def test_a_result_whose_format_is_unclear_is_not_begun(fetched, tmp_path):
    data, out = folder_of_images(tmp_path / "images"), tmp_path / "out.txt"
    words = ("predict", "--study", site.STUDY, "--data", data, "--out", out)
    done = fetched[0].run("edge-agent", "a", *words, light=True)
    assert (done.code, out.exists()) == (1, False)
    assert "neither .csv nor .json" in done.err
    assert "left out" not in done.err  # no image was read for it


def ask(port, path, body=None):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as line:
        line.request("GET" if body is None else "POST", path, body=body)
        reply = line.getresponse()
        return reply.status, json.loads(reply.read())


def test_serve_answers_without_torch_and_takes_up_what_a_person_accepts(fetched, tmp_path):
    terminal_, digest = fetched
    said = tmp_path / "said.txt"
    words = terminal_.words(
        "edge-agent", "a", "serve", "--listen", "127.0.0.1:0", "--study", site.STUDY, light=True
    )
    process = terminal_._start(words, said)
    try:
        wait_for(lambda: said.exists() and b"not served yet" in said.read_bytes(), process)
        port = int(re.search(rb"http://127\.0\.0\.1:(\d+)/v2", said.read_bytes())[1])
        assert ask(port, "/v2/health/ready")[0] == 503
        accept = ("releases", "accept", "--study", site.STUDY, "--release", digest[:8])
        refused = terminal_.run("edge-agent", "a", *accept)
        assert (refused.code, "nobody evaluated release" in refused.err) == (1, True)
        assert terminal_.json("edge-agent", "a", *accept, "--unevaluated")["release"] == digest
        assert ask(port, "/v2/health/ready")[0] == 200
        tensor = {"name": "images", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}
        status, answer = ask(
            port, f"/v2/models/{site.STUDY}/infer", json.dumps({"inputs": [tensor]})
        )
        assert (status, answer["model_version"]) == (200, digest)
        [row] = terminal_.json("edge-agent", "a", "releases", "list", light=True)
        assert (row["stage"], row["unusable"]) == ("active", "")
    finally:
        code = terminal.stop(process, signal.SIGTERM)
    assert (code, b"stopping" in said.read_bytes()) == (0, True)


def lease(federation, home, digest, until):
    """Sign an installed release anew with a lease, as its coordinator could have."""
    found = dataclasses.replace(installed.claimed(home, digest), lease_until=clock.rfc3339(until))
    with federation.open() as coordinator:
        chain, key = coordinator.signer
    envelope = documents.sign(found.to_bytes(), documents.RELEASE_TYPE, key, chain[0])
    folder = installed.folder_of(home, digest)
    (folder / installed.ENVELOPE).write_bytes(envelope)
    (folder / installed.CHAIN).write_bytes(certificates.pem(*chain))


@pytest.mark.parametrize("has_lease", [True, False])
def test_a_lease_that_ends_while_serve_runs_stops_the_release_by_itself(
    fetched, tmp_path, has_lease
):
    """In a process of its own, by its own clock: no contact, no file, no person ends it."""
    terminal_, digest = fetched
    federation = site.Federation(terminal_.folder).clone(tmp_path / "federation")
    home = federation.home("a")
    rollout.record(home, site.STUDY).unlink(missing_ok=True)  # whichever test was first
    rollout.accept(home, site.STUDY, digest, unevaluated=True, now=clock.utc_now())
    for seconds in (8, 32, 128):  # a machine so busy that it starts later is given more
        until = clock.utc_now() + timedelta(seconds=seconds)
        if has_lease:
            lease(federation, home, digest, until)
        seen = served_until(Terminal(federation.folder), tmp_path / "said.txt", until)
        if seen[0] == 200:
            break
    assert seen[0] == 200
    assert seen[-1] == (503 if has_lease else 200)


def served_until(terminal_, said, until):
    """What one `serve` answers, from its start to a little after a moment."""
    said.unlink(missing_ok=True)
    words = ("serve", "--listen", "127.0.0.1:0", "--study", site.STUDY)
    process = terminal_._start(terminal_.words("edge-agent", "a", *words, light=True), said)
    tensor = {"name": "images", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}
    body, seen = json.dumps({"inputs": [tensor]}), []
    try:
        wait_for(lambda: said.exists() and b"/v2 (" in said.read_bytes(), process)
        port = int(re.search(rb"http://127\.0\.0\.1:(\d+)/v2", said.read_bytes())[1])
        while not seen or clock.utc_now() < until + timedelta(seconds=1):
            status, answer = ask(port, f"/v2/models/{site.STUDY}/infer", body)
            assert status == 200 or "lease of the installed release is over" in answer["error"]
            seen.append(status)
            time.sleep(0.2)
        status, answer = ask(port, f"/v2/models/{site.STUDY}/infer", body)
        assert ask(port, "/v2/health/ready")[0] == status
        assert ask(port, "/v2/health/live")[0] == 200  # the process itself stays
    finally:
        assert terminal.stop(process, signal.SIGTERM) == 0
    return [*seen, status]


def test_serve_on_an_address_that_others_reach_is_refused(fetched):
    run = fetched[0].run
    for address in ("0.0.0.0:8500", "[::]:0", "192.0.2.7:0"):
        done = run("edge-agent", "a", "serve", "--listen", address, light=True)
        assert (done.code, "is not loopback" in done.err) == (1, True)
