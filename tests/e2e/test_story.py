import base64
import json
import re

import pytest

from kit import canonical
from tests.e2e.conftest import LABELS, PATIENT, PATIENTS, leaves
from tests.fakes.terminal import Terminal


def is_one_clear_line(result, program, words):
    """Whether a command failed as the contract says: an error line, a hint, no traceback."""
    lines = result.err.strip().splitlines()
    errors = [line for line in lines if line.startswith(f"{program}: error: ")]
    assert result.code not in (0, None)
    assert len(errors) == 1, result.err
    assert re.search(words, errors[0]), errors[0]
    assert "Traceback" not in result.err
    return [line for line in lines if line.startswith(f"{program}: hint: ")]


def test_a_site_waits_for_a_person_with_a_code_and_an_exit_status_of_its_own(story):
    waiting = story.told["waiting"]
    assert waiting.code == 3
    assert is_one_clear_line(waiting, "edge-agent", "waiting for confirmation")
    assert story.told["enroll"]["site"] == "a"


def test_training_that_was_interrupted_or_killed_goes_on_with_the_same_command(story):
    code, said = story.told["train SIGINT"]
    assert code == 130
    assert "edge-agent: error: " in said
    assert "same command again" in said
    assert story.told["train SIGKILL"][0] == -9
    assert story.told["train"]["was_finished"] is False
    assert story.told["train"]["gate_passed"] is True
    assert story.told["train"]["privacy"]["events"][-1]["steps"] == 60


def test_an_upload_goes_on_after_the_server_was_killed(story):
    submitted = story.told["submit"]
    assert story.told["durable"] >= 64 << 10
    assert submitted["bytes_sent"] == submitted["payload_bytes"] - story.told["durable"]
    assert story.told["list"][0]["digest"] == submitted["blueprint"]
    assert story.told["list"][0]["state"] == "pending"


def test_a_coordinator_that_is_down_is_one_line_and_a_hint(story):
    for command in ("submit down", "status down", "fetch down"):
        hints = is_one_clear_line(story.told[command], "edge-agent", "cannot be reached")
        assert "is it running" in hints[0]


def test_a_second_server_on_the_same_home_is_refused(story):
    is_one_clear_line(
        story.told["second serve"], "coordinator", "another `coordinator serve` runs on this home"
    )


def test_a_build_that_was_interrupted_or_killed_goes_on_from_the_last_whole_shard(story):
    code, said = story.told["build SIGINT"]
    assert code == 130
    assert "interrupted" in said
    build = story.told["build"]
    assert story.told["build SIGKILL"][0] == -9
    assert 2 <= story.told["shards kept"] < build["shards"] == len(LABELS)
    assert build["shards_generated"] == build["shards"] - story.told["shards kept"]


def test_a16_a_production_federation_serves_only_once_its_roots_were_carried_away(story):
    early = story.told["serve too early"]
    assert early.code == 1
    assert "is the root key, and this machine can read it" in early.err
    assert story.told["list"]  # it served afterwards


def test_every_reporting_command_speaks_json(story):
    told = story.told
    assert told["init"]["federation"] == "north"
    assert told["study create"]["digest"] == told["study list"][0]["digest"]
    assert told["study show"]["classes"] == list(LABELS)
    assert told["token"]["site"] == told["sites confirm"]["id"] == "a"
    assert told["sites list"][0]["state"] == "active"
    assert told["inspect"]["outputs"] == list(LABELS)
    assert told["show"]["site"] == "a"
    assert told["approve"]["state"] == "approved"
    assert told["releases"][0]["digest"] == told["build"]["release"] == told["fetch"]["release"]
    assert told["status"]["blueprints"][0]["state"] == "approved"
    assert 0 <= told["evaluate"]["accuracy"] <= 1
    assert told["audit verify"]["size"] == len(told["audit list"])
    assert told["edge audit"]["log_root"] == told["audit verify"]["root"]
    assert (told["edge audit"]["consistent"], told["edge audit offline"]["consistent"]) == (
        True,
        None,
    )


def test_one_person_alone_sends_nothing(story):
    hints = is_one_clear_line(story.told["submit unsigned"], "edge-agent", "second person's")
    assert any("inspect" in hint for hint in hints)
    assert story.told["inspect"]["outbound_approval"] == "waits for an officer's signature"
    assert story.told["sign"]["outbound_approval"] == "signed by dr-o"
    assert story.told["sign"]["statement"] == story.told["submit"]["blueprint"]


def test_predictions_say_that_they_are_for_research(story):
    assert story.told["predict"].code == 0, story.told["predict"].err
    assert "not a medical device" in story.told["predict"].err
    assert story.told["predictions"].count(PATIENT) == PATIENTS * 4  # local: files by their names


def test_a_withdrawn_release_no_longer_predicts(story):
    unasked = is_one_clear_line(story.told["withdraw unasked"], "edge-agent", "nobody is at")
    assert "--yes" in unasked[0]
    assert story.told["withdraw"]["state"] == "revoked"
    hints = is_one_clear_line(story.told["predict after"], "edge-agent", "is withdrawn")
    assert "edge-agent fetch" in hints[0]


@pytest.mark.netns
def test_the_whole_story_ran_with_no_network_but_loopback(story):
    if not story.is_offline:
        pytest.skip("this machine allows no network namespace")
    outside = "import socket; socket.create_connection(('192.0.2.1', 443), timeout=2)"
    done = story.terminal.python(outside)
    assert done.wait(timeout=30) != 0  # nothing outside could have been reached
    assert story.told["fetch"]["bytes_downloaded"] > 0


def forms(text):
    """A text as it may lie in a file: plain, in base64 at each of three offsets, in hexadecimal."""
    data = text.encode()
    shifted = [base64.b64encode(b"\0" * n + data)[n + 1 + (n > 0) : -4] for n in range(3)]
    return [data, data.lower(), data.hex().encode(), *shifted]


def files_with(text, *places):
    found = []
    for place in places:
        for path in [place] if place.is_file() else place.rglob("*"):
            if path.is_file() and any(form in path.read_bytes() for form in forms(text)):
                found.append(path)
    return found


@pytest.mark.parametrize("offset", range(3))
def test_the_finder_sees_a_name_inside_signed_documents(tmp_path, offset):
    hidden = base64.b64encode(b"{" * offset + f'"file":"{PATIENT}.png"'.encode())
    (tmp_path / "envelope.json").write_bytes(b'{"payload":"' + hidden + b'"}')
    assert files_with(PATIENT, tmp_path)
    assert not files_with("somebody-else-entirely", tmp_path)


def test_a_patients_name_reaches_nothing_outside_the_hospital(story):
    assert len(files_with(PATIENT, story.data)) == 1  # the finder finds: `patients.csv`
    token = story.told["status"]["blueprints"][0]["digest"]
    assert files_with(token[:24], story.hub)
    assert files_with(PATIENT, story.hub, story.log, story.folder / "build.log") == []
    wire, agent = story.folder / "wire", story.folder / "a"
    seen = {path.suffix for path in wire.rglob("*") if path.is_file()}
    assert {".onnx", ".json", ".c2sp", ".sealed", ".sqlite"} <= seen
    assert files_with(PATIENT, wire, agent / "receipts", agent / "state") == []
    assert PATIENT not in leaves(story)
    assert PATIENT not in json.dumps(story.told["list"]) + json.dumps(story.told["show"])


def test_commands_that_are_wrong_fail_in_one_line(tmp_path):
    terminal = Terminal(tmp_path)
    for program, who, words, reason in (
        ("edge-agent", None, ["dance"], "dance"),
        ("coordinator", None, ["dance"], "dance"),
        ("edge-agent", "nowhere", ["status"], "is not enrolled"),
        ("coordinator", "nowhere", ["list"], "no coordinator home"),
        ("edge-agent", "nowhere", ["fetch"], "study"),
        ("coordinator", None, ["list"], "home"),
        ("edge-agent", "nowhere", ["enroll"], "no enrolment has begun"),
        ("coordinator", "nowhere", ["audit", "verify"], "no coordinator home"),
    ):
        result = terminal.run(program, who, *words, light=True)
        hints = is_one_clear_line(result, program, reason)
        assert hints, (program, words)
        assert result.out == ""
        assert not (tmp_path / "nowhere").exists()


def test_help_is_for_people_and_loads_no_torch(tmp_path):
    terminal = Terminal(tmp_path)
    for program, word in (("edge-agent", "withdraw"), ("coordinator", "revoke")):
        for arguments in (["--help"], [word, "--help"]):
            result = terminal.run(program, None, *arguments, light=True)
            assert result.code == 0
            assert word in result.out
            assert "Traceback" not in result.err
    assert canonical.printable(result.out)
