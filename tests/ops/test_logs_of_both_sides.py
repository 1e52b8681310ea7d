"""What `serve` and the edge agent write while they work: JSON, tied together, without a name."""

import json
import re

import pytest

from edge_agent import journal
from kit import logs
from kit.errors import KitError
from tests.exchange import channels
from tests.fakes import site

PATIENT = "Mustermann-Erika"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_call_leaves_one_line_with_request_site_and_outcome(enrolled, tmp_path):
    path = tmp_path / "serve.jsonl"
    with logs.to_file(path), enrolled.serving() as coordinator:
        site.visit(enrolled.home("a"))
        site.submit(enrolled.home("b"))
        with channels.anonymous_stub(coordinator) as stub, pytest.raises(channels.grpc.RpcError):
            stub.Contact(channels.pb.ContactRequest(), timeout=10)
        [(_, request)] = shown(coordinator, enrolled.home("a"))
        pseudonyms = {row.id: row.pseudonym for row in site.registry.list_sites(coordinator)}
    calls = [line for line in lines(path) if line["event"] == "call ended"]
    methods = [line["method"] for line in calls if line.get("site") == pseudonyms["b"]]
    assert [name for name in methods if name != "Cosign"] == ["Contact", "Begin", "Upload"]
    assert {line["code"] for line in calls} == {"OK"}
    assert calls[-1]["request"] == request
    assert len({line["request"] for line in calls}) == len(calls)
    assert all(line["seconds"] >= 0 for line in calls)
    assert '"b"' not in path.read_text()


def shown(coordinator, home):
    """The metadata that a caller gets back."""
    with channels.site_stub(coordinator, home) as stub:
        call = stub.Contact.with_call(channels.pb.ContactRequest(), timeout=10)[1]
        return [(k, v) for k, v in call.initial_metadata() if k == "request-id"]


def test_a_refusal_is_logged_with_its_call_and_without_its_values(enrolled, tmp_path):
    path = tmp_path / "serve.jsonl"
    with (
        logs.to_file(path),
        enrolled.serving() as coordinator,
        channels.site_stub(coordinator, enrolled.home("a")) as stub,
    ):
        with pytest.raises(channels.grpc.RpcError):
            next(stub.Download(channels.pb.DownloadRequest(release=PATIENT), timeout=10))
        stub.Contact(channels.pb.ContactRequest(), timeout=10)
    found = lines(path)
    refused = next(line for line in found if "refused" in line["event"])
    ended = next(line for line in found if line.get("code") not in (None, "OK"))
    assert refused["request"] == ended["request"]
    assert ended["method"] == "Download"
    assert PATIENT not in path.read_text()


def test_a_sites_log_says_how_commands_ended_and_names_no_image(enrolled):
    home = enrolled.home("a")
    with pytest.raises(KitError), journal.command(home, "submit"):
        raise KitError(f"image `/data/{PATIENT}/1.png` cannot be read")
    with enrolled.serving(), journal.command(home, "status"):
        site.visit(home)
    text = (home.logs / "agent.jsonl").read_text()
    assert PATIENT not in text
    found = [json.loads(line) for line in text.splitlines()]
    failed, done = [line for line in found if line["source"] == "edge_agent.journal"]
    assert (failed["command"], failed["code"], failed["error"]) == ("submit", "failed", "KitError")
    assert (done["command"], done["code"]) == ("status", "done")
    assert re.fullmatch(r"image `\.\.\.` cannot be read", failed["reason"])
