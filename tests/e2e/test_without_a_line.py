"""The page `docs/without-a-line.md`, run as it stands: no server, no network, two command lines."""

import json
import re
import shlex
from pathlib import Path

import pytest

from pki import keys
from tests.e2e.conftest import PATIENT, write_images
from tests.fakes.terminal import Terminal

PAGE = Path(__file__).parents[2] / "docs" / "without-a-line.md"
CODE, BLUEPRINT = "KRXH-5UZR", "bfde88"
OFFICER = "5c358a1fcd477425360054a57696640f0cc6da5f94a59864a61df6d2e0505164"
LABELS = "round,long,square"
MUST_FAIL = "--from-file /media/stick/after.stick"


def commands(text):
    """Return every command of the page, in order."""
    return re.findall(r"^\$ (.+)$", text, re.MULTILINE)


class Trip:
    """Runs the page's commands in a folder of this test."""

    def __init__(self, folder):
        self.folder, self.terminal = folder, Terminal(folder)
        self.told = {}
        self.key = ""
        officer = keys.new_signing_key()
        keys.save(folder / "dr-okafor.key", officer)
        self.officer = keys.public_bytes(officer).hex()
        (folder / "stick").mkdir()

    def words(self, command):
        code = self.told.get("enroll", {}).get("code", CODE)
        statement = self.told.get("inspect", {}).get("statement") or BLUEPRINT
        places = {
            "/media/stick": str(self.folder / "stick"),
            "/srv/hub": str(self.folder / "hub"),
            "/srv/edge": str(self.folder / "edge"),
            "/data/train": str(self.folder / "data"),
            "predictions.csv": str(self.folder / "predictions.csv"),
            "dr-weber.key": self.key,
            "benign,malignant": LABELS,
            CODE: code,
            f"{BLUEPRINT}28": statement[:8],
            BLUEPRINT: statement[:12],
            "/media/officer": str(self.folder),
            OFFICER: self.officer,
        }
        for name, place in places.items():
            command = command.replace(name, place)
        words = shlex.split(command)
        # eighty small images, so that the trip is short: the page's hospital has more
        short = ["--steps", "60", "--accept-expected-loss"]
        return [*words, *short] if words[1] == "train" else words

    def run(self, command):
        program, *words = self.words(command)
        wants_json = "predict" not in words
        result = self.terminal.run(program, None, *words, *(["--json"] if wants_json else []))
        if MUST_FAIL in command:
            return result
        assert result.code == 0, f"{command}\n{result.err}"
        return json.loads(result.out) if wants_json else result


def name_of(command):
    words = shlex.split(command)
    file = next((Path(w).stem for w in words if w.endswith(".stick")), "")
    return f"{words[1]} {file}".strip() if words[0] == "coordinator" else words[1]


@pytest.fixture(scope="module")
def trip(tmp_path_factory):
    """The whole trip, with the smallest build that still has every part."""
    made = Trip(tmp_path_factory.mktemp("trip"))
    write_images(made.folder / "data")
    founded = made.run("coordinator init --home /srv/hub --federation lung --grace-hours 0")
    made.key = founded["reviewer_key"]
    small = "--shard-size 64 --sampler-steps 6 --classifier-steps 4"
    shape = f"--classes {LABELS} --channels 1 --height 8 --width 8"
    made.run(f"coordinator study create nodules --home /srv/hub {shape} {small}")
    for command in commands(PAGE.read_text()):
        told = made.run(command)
        made.told.setdefault(name_of(command), told)
        made.told[f"last {name_of(command)}"] = told
    return made


def test_every_command_of_the_page_ran_and_there_was_no_server(trip):
    assert len(commands(PAGE.read_text())) > 20
    assert not (trip.folder / "serve.log").exists()
    assert trip.told["import blueprint"]["state"] == "pending"
    assert trip.told["approve"]["state"] == "approved"
    assert trip.told["fetch"]["release"] == trip.told["build"]["release"]
    assert trip.told["status"]["blueprints"][0]["state"] == "approved"
    assert trip.told["audit"]["receipts"] >= 4
    assert trip.told["audit"]["log_size"] == trip.told["export news"]["log_size"]


def test_a_site_without_a_line_predicts_and_stops_when_the_stick_says_so(trip):
    assert "not a medical device" in trip.told["predict"].err
    taken_back = {trip.told["import blueprint"]["blueprint"]: "revoked"}
    assert trip.told["import withdrawal"]["orders"] == taken_back
    assert trip.told["import renewal"]["renewed"] == ["tls", "signing"]
    refused = trip.told["last fetch"]
    assert refused.code == 1
    assert "every release of study `nodules` is withdrawn" in refused.err
    predict = next(c for c in commands(PAGE.read_text()) if " predict " in c)
    program, *words = trip.words(predict)
    stopped = trip.terminal.run(program, None, *words)
    assert stopped.code == 1
    assert "is withdrawn" in stopped.err


def test_nothing_on_the_stick_names_a_patient_or_shows_the_token(trip):
    token = json.loads((trip.folder / "stick" / "north.token").read_text())
    files = sorted((trip.folder / "stick").glob("*.stick"))
    assert len(files) >= 6
    assert any(PATIENT in path.name for path in (trip.folder / "data").rglob("*"))
    for path in files:
        assert PATIENT.encode() not in path.read_bytes()
        assert token["secret"].encode() not in path.read_bytes()
