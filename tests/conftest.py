"""`--must-run=MARK,...`: on a machine that claims to have everything, a skip is a failure.

A test that needs a token, a network namespace or vectors skips where there is none, and says why.
In CI that would hide it: there, a skipped test with one of the marks fails, and so does a run in
which no test with such a mark passed.
"""

import signal
from collections import Counter

import pytest

MUST_RUN = pytest.StashKey[frozenset[str]]()
PASSED = pytest.StashKey[Counter]()


def pytest_addoption(parser):
    parser.addoption(
        "--must-run",
        default="",
        metavar="MARKS",
        help="marks, by commas, whose tests must not be skipped here",
    )


def pytest_configure(config):
    marks = frozenset(filter(None, config.getoption("--must-run").split(",")))
    known = {line.partition(":")[0] for line in config.getini("markers")}
    if marks - known:
        raise pytest.UsageError(f"--must-run: no such mark: {', '.join(sorted(marks - known))}")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # a job in the background ignores ctrl-C, and so would every command that it starts
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[MUST_RUN] = marks
    config.stash[PASSED] = Counter()
    config.pluginmanager.register(_Count(config))


class _Count:
    """Counts what passed where reports arrive: in this process, or from the ones beside it."""

    def __init__(self, config):
        self._config = config

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.passed:
            self._config.stash[PASSED].update(self._config.stash[MUST_RUN] & set(report.keywords))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    marks = item.config.stash[MUST_RUN] & {mark.name for mark in item.iter_markers()}
    if report.skipped and marks and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"must not be skipped here ({', '.join(sorted(marks))}): {reason}"
    return report


def pytest_sessionfinish(session):
    if session.exitstatus == pytest.ExitCode.OK and _idle(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    for mark in _idle(config):
        terminalreporter.write_line(f"--must-run: no test marked `{mark}` passed", red=True)


def _idle(config):
    if hasattr(config, "workerinput"):  # beside others: the process that hears of all of them asks
        return []
    return sorted(mark for mark in config.stash[MUST_RUN] if not config.stash[PASSED][mark])
