"""`edge-agent adapt` and what uses its model, as their own processes; and metrics that are sent."""

import csv
import json
import re
import signal

import pytest

from coordinator import revocation
from edge_agent import installed
from tests.e2e.test_serve_command import ask
from tests.fakes import sharing, site, terminal
from tests.fakes.terminal import Terminal, wait_for

STUDY = ("--study", site.STUDY)


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    return sharing.copy(tmp_path_factory.mktemp("adapt"), tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return sharing.write_images(tmp_path_factory.mktemp("images"), sharing.LABELS["a"])


def test_a_site_adapts_predicts_and_serves_until_its_release_is_withdrawn(
    federation, data, tmp_path
):
    shell, home = Terminal(federation.folder), federation.home("a")
    release = installed.fetched(home, home.study(site.STUDY))
    words = ("adapt", release[:8], *STUDY, "--data", data, "--name")
    refused = shell.run("edge-agent", "a", *words, site.STUDY)
    assert (refused.code, refused.out) == (1, "")
    [line] = [each for each in refused.err.splitlines() if "error:" in each]
    assert "is the name of a study or run here" in line
    made = shell.json("edge-agent", "a", *words, "ward", timeout_s=600)
    assert (made["release"], made["own_classes"]) == (release, list(sharing.LABELS["a"]))
    adapted = made["judged"][0]
    assert (adapted["model"], adapted["on_own"]["accuracy"] > 0.7) == ("adapted", True)
    out = tmp_path / "out.csv"
    shown = shell.run(
        "edge-agent", "a", "predict", *STUDY, "--adapted", "ward", "--data", data, "--out", out,
        light=True,
    )  # fmt: skip
    assert (shown.code, "for this site alone" in shown.err) == (0, True)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {(row["release"], row["adapted"]) for row in rows} == {(release, made["model"])}
    assert sum(row["label"] == row["file"].split("/")[0] for row in rows) > 0.7 * len(rows)
    sent = shell.run("edge-agent", "a", "submit", *STUDY, "--run", "ward")
    assert (sent.code, "never leaves" in sent.err) == (1, True)
    _serve_until_withdrawn(federation, shell, release, made["model"], tmp_path / "said.txt")


def _serve_until_withdrawn(federation, shell, release, model, said):
    options = ("--listen", "127.0.0.1:0", *STUDY, "--adapted", "ward")
    process = shell._start(shell.words("edge-agent", "a", "serve", *options, light=True), said)
    try:
        wait_for(lambda: said.exists() and b"ward: " in said.read_bytes(), process)
        port = int(re.search(rb"http://127\.0\.0\.1:(\d+)/v2", said.read_bytes())[1])
        tensor = {"name": "images", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}
        body = json.dumps({"inputs": [tensor]})
        status, answer = ask(port, "/v2/models/ward/infer", body)
        assert (status, answer["model_name"], answer["model_version"]) == (200, "ward", model)
        assert answer["parameters"]["release"] == release
        assert answer["parameters"]["adapted"] == model
        with federation.serving() as coordinator:
            key = federation.reviewer()
            revocation.revoke(coordinator, federation.digest("b"), reviewer_key=key, reason="gone")
            site.visit(federation.home("a"))
        status, answer = ask(port, "/v2/models/ward/infer", body)
        assert (status, "is withdrawn" in answer["error"]) == (503, True)
    finally:
        code = terminal.stop(process, signal.SIGTERM)
    assert code == 0
