"""What a check that was taken over can reach, and what it costs the coordinator."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coordinator.intake import limited, sandbox
from kit.errors import KitError
from tests.fakes.checks import escape

LIMITS = limited.Limits(memory_bytes=256 << 20, timeout_s=60)


def folder_with_secrets(path):
    path.mkdir()
    for name in ("secret", "spare"):
        (path / name).write_text(name)
    return path


def test_s21_a_check_reaches_no_file_network_program_or_process(tmp_path):
    free, walled = (folder_with_secrets(tmp_path / name) for name in ("free", "walled"))
    # The control: the same attempts by the same user, with no walls around them.
    command = [sys.executable, "-m", "tests.fakes.checks.escape", str(free)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == list(escape.attempts(free))
    verdict = limited.run("tests.fakes.checks.escape", {"folder": str(walled)}, LIMITS, files={})
    if verdict["walls"] != [sandbox.LANDLOCK, sandbox.SECCOMP]:
        pytest.skip(f"this machine offers a check only {verdict['walls']}")
    assert verdict["managed"] == []
    assert sorted(path.name for path in walled.iterdir()) == ["secret", "spare"]


def test_an_answer_without_end_is_no_verdict_and_fills_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(limited.CheckFailedError, match="no readable verdict"):
        limited.run("tests.fakes.checks.talker", {}, LIMITS, files={})
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 64 << 10
    escaped = limited.run("tests.fakes.checks.escape", {"folder": "/nowhere"}, LIMITS, files={})
    assert "managed" in escaped


@pytest.mark.parametrize("answer", ["", "{", "[]", "7", "null", "[" * 60_000, '"passed"'])
def test_what_is_no_verdict_refuses(answer, tmp_path, monkeypatch):
    (tmp_path / "says.py").write_text(f"import sys\nsys.stdout.write({answer!r})\n")
    (tmp_path / "passes.py").write_text("import sys\nsys.stdout.write('{\"passed\": true}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert limited.run("passes", {}, LIMITS, files={}) == {"passed": True}
    with pytest.raises(limited.CheckFailedError, match="no readable verdict"):
        limited.run("says", {}, LIMITS, files={})


def test_a_child_of_a_check_does_not_outlive_it_or_hold_the_coordinator(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    (tmp_path / "forks.py").write_text(  # a check without its walls, so that it can start one
        "import os, pathlib, sys, time\n"
        "if os.fork() == 0:\n"
        f"    pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(3600)\n"
        f"while not pathlib.Path({str(mark)!r}).exists(): time.sleep(0.01)\n"
        "sys.stdout.write('{\"passed\": true}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    began = time.monotonic()
    assert limited.run("forks", {}, LIMITS, files={}) == {"passed": True}
    assert time.monotonic() - began < 30
    grandchild = int(mark.read_text())
    for _ in range(100):
        if not is_running(grandchild):
            break
        time.sleep(0.05)
    assert not is_running(grandchild)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_check_that_could_not_write_says_nothing_of_its_payload(tmp_path, monkeypatch):
    (tmp_path / "fails.py").write_text(
        "from coordinator.intake import limited\n"
        "request = limited.request()\n"
        "limited.answer(request, failed='no space left on device')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KitError, match="no space left") as caught:
        limited.run("fails", {}, LIMITS, files={})
    assert not isinstance(caught.value, limited.CheckFailedError)
