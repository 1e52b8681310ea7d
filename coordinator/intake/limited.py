"""Limited processes: a hostile payload may end one of them, never the coordinator.

A child is a module of this package. It gets one JSON request on standard input and answers with
one JSON verdict. Memory, processor time and file size are limited by itself, before it reads.
"""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from kit import canonical
from kit.errors import FormatError, KitError

_log = logging.getLogger(__name__)
_MAX_VERDICT_BYTES = 64 * 1024
_MEMORY_ENV = "INTAKE_MEMORY_BYTES"
_MAX_CPU_S = 900
_MAX_FILE_BYTES = 256 << 20  # the payload, sealed again
_STOPPED = {-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one check may use: private memory in bytes, seconds on the wall clock."""

    memory_bytes: int
    timeout_s: float


class CheckFailedError(FormatError):
    """A check refused its payload, or did not end within its limits."""


def run(module: str, request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Run `python -m module` on `request` and return its verdict.

    Raises:
        CheckFailedError: the payload was refused, or the check ran out of memory or time.
        KitError: the check was stopped or could not write, which says nothing of the payload.
    """
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        _MEMORY_ENV: str(limits.memory_bytes),
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=limits.timeout_s,
            env=environment,
            check=False,
            start_new_session=True,  # ctrl-C in the server's terminal is not the payload's doing
        )
    except subprocess.TimeoutExpired as error:
        raise CheckFailedError(f"the check took longer than {limits.timeout_s:g} s") from error
    if done.returncode in _STOPPED:
        raise KitError("a check was stopped from outside", hint="it starts again by itself")
    if done.returncode != 0 or len(done.stdout) > _MAX_VERDICT_BYTES:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        _log.warning("%s ended with %d: %s", module, done.returncode, canonical.printable(last))
        raise CheckFailedError(
            f"the check ended without a verdict (status {done.returncode}): memory limit or crash"
        )
    try:
        verdict: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise CheckFailedError("the check gave no readable verdict") from error
    if "failed" in verdict:
        raise KitError(str(verdict["failed"]), hint="the blueprint waits and is tried again")
    if "refused" in verdict:
        raise CheckFailedError(str(verdict["refused"]))
    return verdict


def request() -> dict[str, Any]:
    """In the child: take on the limits, then read the request."""
    limit = int(os.environ[_MEMORY_ENV])
    # RLIMIT_DATA counts what a payload can make a process allocate, not the mapped libraries.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_S, _MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
    value: dict[str, Any] = json.load(sys.stdin)
    return value


def answer(verdict: dict[str, Any]) -> None:
    """In the child: give the verdict."""
    sys.stdout.write(json.dumps(verdict))
