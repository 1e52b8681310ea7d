"""The PKI runbook, as it is printed: every line of every console block runs, in order.

Only what a page cannot know is put in its place: folders, ports, times, and the code that a person
would read out. A line with `: error: ` says that the command above it must fail, with these words.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge_agent.doctor import machine
from pki import protection
from tests.fakes import commands, softhsm
from tests.fakes.secrets import CHEAP, files_with_clear_keys
from tests.fakes.terminal import free_ports, stop, wait_for

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "pki-runbook.md"
PLACES = ("/srv", "/media", "/run/secrets")
CODE = re.compile(r"\b[A-Z2-7]{4}-[A-Z2-7]{4}\b")
TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2} UTC")
WORDS = {
    name: f"the {name} words of this drill"
    for name in (
        *("hub", "hub-new", "root", "study", "weber", "okafor"),
        *("officer", "officer-new", "edge", "edge-new", "south"),
    )
}


@dataclass
class Step:
    """One typed line, what the page shows of its errors, and the section it stands in."""

    section: str
    line: str
    errors: list[str] = field(default_factory=list)


def steps(text):
    """Return every typed line of a page, in order."""
    found, section, inside = [], "", False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            found.append(Step(section, line[2:]))
        elif inside and ": error: " in line:
            found[-1].errors.append(line)
        elif inside:
            raise AssertionError(f"neither a command nor an error: {line}")
        elif line.startswith("## "):
            section = line[3:]
    return found


class Stage:
    """Folders, a server, and whatever was exported so far."""

    def __init__(self, folder, environment):
        self.folder, self.environment = folder, dict(environment)
        self.ports, self.server, self.code = free_ports(2), None, "????-????"
        for place in PLACES:
            (folder / place[1:]).mkdir(parents=True)
        for medium in ("safe", "weber", "okafor", "officer", "stick", "backup", "mirror", "clinic"):
            (folder / "media" / medium).mkdir()
        for name, words in {**WORDS, "pin": softhsm.PIN}.items():
            path = folder / "run" / "secrets" / name
            path.write_text(words + "\n")
            path.chmod(0o600)

    def play(self, step):
        """Run one line and hold it to what the page shows."""
        line = step.line.replace("hub.example.org", "127.0.0.1")
        line = CODE.sub(self.code, line)
        for place in PLACES:
            line = re.sub(rf"(?<![\w/]){place}/", f"{self.folder}{place}/", line)
            line = re.sub(rf"(?<![\w/]){place}(?=\s|$)", f"{self.folder}{place}", line)
        status, err = self._run(line)
        self.code = (CODE.findall(err) or [self.code])[-1]
        shown = [TIME.sub("then", CODE.sub(self.code, text)) for text in step.errors]
        plain = err.replace(str(self.folder), "")
        seen = [TIME.sub("then", text) for text in plain.splitlines() if ": error: " in text]
        assert seen == shown, f"{step.line}\n{err}"
        assert (status != 0) == bool(shown), f"{step.line} ended with {status}\n{err}"

    def _run(self, line):
        words = shlex.split(line)
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self.environment[name] = value
            return 0, ""
        if words[0] == "systemctl":
            return getattr(self, words[1])(), ""
        if words[0] in commands.PROGRAMS:
            return self._kit(words[0], words[1:])
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            capture_output=True,
            text=True,
            env=os.environ | self.environment,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stderr

    def _kit(self, program, words):
        if words[0] == "init":
            words = [*words, "--exchange-port", self.ports[0], "--enrol-port", self.ports[1]]
        done = commands.run(program, *words, environment=self.environment)
        return done.code, done.err

    def start(self):
        """Run `coordinator serve` as a service would."""
        log = self.folder / "serve.log"
        seen = log.stat().st_size if log.exists() else 0
        code = "from coordinator.cli import main; main()"
        home = str(self.folder / "srv" / "hub")
        with log.open("ab") as stream:
            self.server = subprocess.Popen(
                [sys.executable, "-c", code, "serve", "--home", home],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                cwd=ROOT,
                env=os.environ | self.environment,
            )
        wait_for(lambda: b"enrolment on" in log.read_bytes()[seen:], self.server)
        return 0

    def stop(self):
        """Stop it as a service would."""
        status = stop(self.server, signal.SIGTERM)
        self.server = None
        return status


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The whole page, played once; returns the stage and the sections that ran."""
    folder = tmp_path_factory.mktemp("runbook")
    environment = {"PYTHONPATH": str(ROOT)}
    (folder / "tokens").mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    environment["SOFTHSM2_CONF"] = str(configuration)
    stage, ran = Stage(folder, environment), []
    try:
        has_token = softhsm.module()
    except pytest.skip.Exception:
        has_token = False
    with pytest.MonkeyPatch.context() as patch:
        for part in ("training_gpu", "inference_gpu"):  # not of this page, and slow
            patch.setattr(machine, part, lambda: "tried elsewhere")
        patch.setattr(protection, "COST", CHEAP)
        try:
            for step in steps(PAGE.read_text()):
                if has_token or not _wants_token(step.section):
                    stage.play(step)
                    ran.append(step)
            yield stage, ran
        finally:
            if stage.server is not None:
                stop(stage.server, signal.SIGKILL)


def _wants_token(section):
    return section == "Move a site's keys into a token"


def test_every_line_of_the_runbook_runs_as_it_is_printed(played):
    stage, ran = played
    expected = [s for s in steps(PAGE.read_text()) if not _wants_token(s.section)]
    assert [s for s in ran if not _wants_token(s.section)] == expected
    assert len(expected) > 60
    assert stage.server is None  # the page stops what it starts


@pytest.mark.softhsm
def test_the_section_with_a_token_ran_too(played):
    softhsm.module()
    lines = [step.line for step in played[1] if _wants_token(step.section)]
    assert any("--hsm" in line for line in lines)
    assert lines[-1].startswith("edge-agent status")


def test_the_drills_left_no_key_in_clear_where_a_passphrase_was_chosen(played):
    stage, _ = played
    clear = files_with_clear_keys(stage.folder)
    chosen = [
        name
        for name in clear
        if not name.startswith(("srv/south/", "srv/east/", "media/clinic/", "tokens/"))
    ]
    assert chosen == []
    assert any(name.startswith("srv/south/keys/") for name in clear)  # enrolled anew, in clear


def test_a_line_that_does_not_work_would_be_noticed(tmp_path):
    stage = Stage(tmp_path, {"PYTHONPATH": str(ROOT)})
    stage.play(Step("", "mkdir /srv/somewhere"))
    assert (tmp_path / "srv" / "somewhere").is_dir()
    with pytest.raises(AssertionError, match="ended with 1"):
        stage.play(Step("", "rmdir /srv/nowhere"))
    absent = "coordinator: error: no coordinator home at `/srv/hub`"
    with pytest.raises(AssertionError, match="no coordinator home"):
        stage.play(Step("", "coordinator audit verify --home /srv/hub"))
    stage.play(Step("", "coordinator audit verify --home /srv/hub", [absent]))
    with pytest.raises(AssertionError, match="neither a command nor an error"):
        steps("```console\nsome output\n```")
