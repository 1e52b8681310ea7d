"""The coordinator's intake in this process: the same two checks, without their walls and limits.

A check starts an interpreter of its own and loads torch there, some five seconds of processor time
per blueprint. Tests about what comes after the intake leave that to those of the intake.
"""

import json
import os
import sys
import threading
from contextlib import contextmanager
from importlib import import_module
from io import StringIO
from unittest import mock

from coordinator.intake import limited, sandbox

_WALLS = {"walls": [sandbox.LANDLOCK, sandbox.SECCOMP]}
_ONE = threading.Lock()


def _run(module, request, _limits, *, files):
    """Do what `limited.run` does, in this process; refusals are raised by the same lines."""
    asked = request | {name: os.dup(number) for name, number in files.items()} | _WALLS
    said = StringIO()
    with (
        _ONE,
        mock.patch.object(limited, "request", return_value=asked),
        mock.patch.object(sys, "stdout", said),
    ):
        import_module(module).main()
    verdict = limited._verdict(said.getvalue().encode())
    if "refused" in verdict:
        raise limited.CheckFailedError(json.dumps(verdict["refused"]))
    return verdict


@contextmanager
def in_this_process():
    """Take blueprints in without another process while the block runs."""
    with mock.patch.object(limited, "run", _run):
        yield
