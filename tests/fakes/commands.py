"""Both command lines in this process, as at a terminal: starting one costs more than it does."""

import contextlib
import io
import sys

import pytest

from coordinator import cli as coordinator_cli
from edge_agent import cli as edge_agent_cli
from kit import prompts
from pki import unlocking
from tests.fakes.terminal import Result

PROGRAMS = {"coordinator": coordinator_cli.run, "edge-agent": edge_agent_cli.run}


def run(program, *words, environment=None, typed=None):
    """Run one command to its end; `typed` is what somebody at a terminal answers, None nobody."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        patch.setattr(prompts, "can_ask", lambda: typed is not None)
        patch.setattr(sys, "stdin", io.StringIO(typed or ""))
        code = PROGRAMS[program]([str(word) for word in words])
    unlocking.use(None)
    return Result(code, out.getvalue(), err.getvalue())
