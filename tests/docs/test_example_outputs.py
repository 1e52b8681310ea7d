"""What the manuals show of a command's result has the names that the command prints, in order."""

import dataclasses
import re
from pathlib import Path

import pytest

from coordinator import audit, builds, founding, recipients, registry, separation, stick
from edge_agent import enrolment, erasure, inspection, installed, renewal, submission
from pki import protecting

DOCS = Path(__file__).parents[2] / "docs"
TOLD = frozenset({"gate_passed", "quality"})  # for programs; people read sentences
SHOWN = [
    ("edge-manual.md", "edge-agent enroll", enrolment.Enrolled),
    ("edge-manual.md", "edge-agent renew", renewal.Renewed),
    ("edge-manual.md", "edge-agent inspect", inspection.Leaving),
    ("edge-manual.md", "edge-agent submit", submission.Submitted),
    ("edge-manual.md", "edge-agent status", inspection.Standing),
    ("edge-manual.md", "edge-agent fetch", installed.Fetched),
    ("edge-manual.md", "edge-agent withdraw", erasure.Erasure),
    ("edge-manual.md", "edge-agent audit verify", inspection.ReceiptAudit),
    ("edge-manual.md", "edge-agent keys protect", protecting.Protected),
    ("coordinator-manual.md", "coordinator init", founding.Founded),
    ("coordinator-manual.md", "coordinator sites confirm", registry.Site),
    ("coordinator-manual.md", "coordinator import", stick.Imported),
    ("coordinator-manual.md", "coordinator study close", registry.Closed),
    ("coordinator-manual.md", "coordinator build", builds.BuildResult),
    ("coordinator-manual.md", "coordinator audit verify", audit.Audit),
    ("coordinator-manual.md", "coordinator recipients rotate", recipients.Replaced),
    ("coordinator-manual.md", "coordinator keys separate", separation.Separated),
]


def outputs(text, command):
    """What stands under each typed line of a command: the names before two blanks or more."""
    found, inside = [], None
    for line in text.splitlines():
        if line.startswith(("$ ", "```")):
            inside = [] if line.startswith(f"$ {command} ") else None
            if inside is not None:
                found.append(inside)
        elif inside is not None and re.match(r"[a-z][a-z0-9 ]*(?:  +\S|$)", line):
            inside.append(re.split(r"  +", line)[0])
    return found


def names(kind):
    return [f.name.replace("_", " ") for f in dataclasses.fields(kind) if f.name not in TOLD]


def differences(text, command, kind):
    """The output closest to what is printed, if none is equal to it."""
    wanted = names(kind)
    shown = [each for each in outputs(text, command) if each and each[0] == wanted[0]]
    return [] if wanted in shown else (shown or ["nothing"])


@pytest.mark.parametrize(("page", "command", "kind"), SHOWN, ids=str)
def test_a_manual_shows_the_names_that_are_printed(page, command, kind):
    text = (DOCS / page).read_text()
    assert differences(text, command, kind) == [], names(kind)
    last = names(kind)[-1]
    assert differences(text.replace(f"\n{last}", f"\nother {last}"), command, kind)
