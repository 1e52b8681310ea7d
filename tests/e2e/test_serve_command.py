"""`edge-agent serve` as its own process, and `predict` beside it: no torch, stops when told to."""

import http.client
import json
import re
import signal
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from edge_agent import installed, rollout
from edge_agent.home import Home
from tests.fakes import site, terminal
from tests.fakes.terminal import Terminal, wait_for


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    """Site a with a release fetched, and a terminal over its federation."""
    federation = site.copy(
        "released", tmp_path_factory.mktemp("serve"), tmp_path_factory.getbasetemp()
    )
    with federation.serving():
        done = installed.fetch(federation.home("a"), site.STUDY, got=lambda *_: None)
    return Terminal(federation.folder), done.release


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


def test_serve_on_an_address_that_others_reach_is_refused(fetched):
    run = fetched[0].run
    for address in ("0.0.0.0:8500", "[::]:0", "192.0.2.7:0"):
        done = run("edge-agent", "a", "serve", "--listen", address, light=True)
        assert (done.code, "is not loopback" in done.err) == (1, True)
