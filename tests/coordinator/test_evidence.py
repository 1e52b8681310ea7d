"""The auditor's dossier: every command it names runs, and a gap or a failure is not left out."""

import json
import subprocess
import sys

import pytest

from coordinator import cli, evidence, payloads, revocation
from coordinator.evidence import Standing
from kit.errors import KitError
from tests.fakes import site


def rows(coordinator):
    return {row.rule.split(":")[0]: row for row in evidence.gather(coordinator).rows}


def run(command, capsys):
    """Run one command of the dossier; returns its JSON."""
    if command[0] == "python":
        done = subprocess.run([sys.executable, *command[1:]], capture_output=True, check=True)
        return json.loads(done.stdout)
    cli.app(list(command[1:]), prog_name="coordinator", standalone_mode=False)
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def lived(released):
    """A federation with a release, one blueprint revoked and shredded, and a new release."""
    with released.open() as coordinator:
        digest = released.digest("c")
        revocation.revoke(coordinator, digest, reviewer_key=released.reviewer(), reason="asked")
    site.build(released)
    return released


def test_every_command_of_the_dossier_runs_and_shows_what_its_row_says(lived, capsys):
    with lived.open() as coordinator:
        dossier = evidence.gather(coordinator)
    assert dossier.failing == ()
    assert {row.standing for row in dossier.rows} >= {Standing.SHOWN, Standing.GAP}
    commands = {row.command for row in dossier.rows if row.command}
    answers = {command: run(command, capsys) for command in commands}
    assert len(answers) >= 7
    by_words = {command[1:-3]: answer for command, answer in answers.items()}
    found = {row.rule.split(":")[0]: row.result for row in dossier.rows}
    log = found["HIPAA 164.312(b), EU AI Act 12, 19, 26(6)"]
    assert by_words["audit", "verify"]["root"] == log["root"]
    assert len(by_words["audit", "list"]) == log["entries"]
    assert len(by_words["sites", "list"]) == 3
    current = [r["digest"] for r in by_words["releases",] if not r["withdrawn"]]
    assert found["HIPAA 164.312(c), EU AI Act 15"]["current"] == current
    [case] = found["GDPR 17"]["cases"]
    assert case["blueprint"] == lived.digest("c")
    assert case["destroyed"]
    assert case["releases_made_from_it"]
    assert found["GDPR 17"]["not_reached"] == revocation.NOT_REACHED


def test_every_row_says_what_it_does_not_show(lived):
    with lived.open() as coordinator:
        dossier = evidence.gather(coordinator)
        text = dossier.to_text()
    assert all(row.gap for row in dossier.rows)
    for row in dossier.rows:
        assert (row.standing is Standing.GAP) == (not row.command)
        assert row.gap in text
    for words in evidence.WORDS:
        assert words in text
    assert "not compliance" in text


def test_a_federation_without_a_past_has_nothing_to_show_and_nothing_that_fails(tmp_path):
    with site.found(tmp_path).open() as coordinator:
        found = rows(coordinator)
    assert found["GDPR 17"].standing is Standing.NOTHING
    assert found["EU AI Act 14"].standing is Standing.NOTHING
    assert Standing.FAILS not in {row.standing for row in found.values()}


def test_a_check_that_fails_is_in_the_dossier_and_in_the_exit_status(lived, tmp_path, capsys):
    words = ["evidence", "--home", str(lived.hub), "--out", str(tmp_path / "dossier"), "--json"]
    cli.app(words, prog_name="coordinator", standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "dossier" / "evidence.json").read_text()) == shown
    assert "GDPR 17" in (tmp_path / "dossier" / "evidence.txt").read_text()
    with lived.open() as coordinator:
        payloads.keystore(coordinator).create(payloads.BLUEPRINT, lived.digest("c"))
        [model] = (lived.hub / "releases").glob("*.onnx")
        model.write_bytes(model.read_bytes() + b"x")
        found = rows(coordinator)
        for rule in ("GDPR 17", "HIPAA 164.312(c), EU AI Act 15"):
            assert found[rule].standing is Standing.FAILS
            assert found[rule].result["error"]
        assert found["HIPAA 164.312(a)(1), (d)"].standing is Standing.SHOWN
    with pytest.raises(KitError, match="2 checks fail"):
        cli.app(words, prog_name="coordinator", standalone_mode=False)
