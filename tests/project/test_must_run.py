"""CI cannot pass by skipping: `--must-run` is tried on a small suite of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SUITE = """
import pytest

@pytest.fixture
def token():
    pytest.skip("no token here")

@pytest.mark.softhsm
def test_with_a_token(token):
    pass

@pytest.mark.netns
@pytest.mark.skipif(True, reason="no namespace")
def test_in_a_namespace():
    pass

@pytest.mark.vectors
def test_vectors():
    pass

def test_unmarked():
    pytest.skip("nobody minds")
"""


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_suite.py").write_text(SUITE)
    marks = "".join(f"    {name}: x\n" for name in ("softhsm", "netns", "vectors"))
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nmarkers =\n{marks}")

    def run(*options):
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *options]
        return subprocess.run(
            words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_skips_pass_where_nothing_is_required(suite):
    done = suite()
    assert done.returncode == 0, done.stdout
    assert "1 passed, 3 skipped" in done.stdout


@pytest.mark.parametrize(
    ("mark", "reason"), [("softhsm", "no token here"), ("netns", "no namespace")]
)
def test_a_required_test_that_skips_fails_and_says_why(suite, mark, reason):
    assert suite("--must-run=vectors").returncode == 0
    done = suite(f"--must-run=vectors,{mark}")
    assert done.returncode == 1, done.stdout
    assert f"must not be skipped here ({mark})" in done.stdout
    assert reason in done.stdout
    assert "1 passed, 2 skipped" in done.stdout or "2 skipped, 1 error" in done.stdout


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_required_mark_without_a_test_that_passed_fails(suite, processes):
    side_by_side = ("-n", processes)
    assert suite(*side_by_side, "--must-run=vectors", "-k", "vectors").returncode == 0
    done = suite(*side_by_side, "--must-run=vectors", "-k", "unmarked")
    assert done.returncode == 1
    assert "no test marked `vectors` passed" in done.stdout


def test_a_mark_that_nobody_declared_is_refused(suite):
    done = suite("--must-run=sofhtsm")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no such mark: sofhtsm" in done.stderr


def test_ci_requires_every_mark():
    script = (CONFTEST.parents[1] / ".ci" / "run").read_text()
    assert "--must-run=softhsm,netns,vectors,postgresql,s3,ray" in script
    assert "system_package softhsm2-util softhsm2" in script
    assert "system_package initdb postgresql" in script


def test_the_vectors_are_those_of_the_installed_cryptography():
    lines = (CONFTEST.parents[1] / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert pins["cryptography-vectors"] == pins["cryptography"]
