"""Limited processes: a hostile payload may end one of them, never the coordinator.

A child is a module of this package. It gets one JSON request on standard input, works on open
files that it is handed, and answers with one JSON verdict. Memory, processor time and file size
are limited by itself, before it reads; `sandbox` says which walls it puts up besides.
"""

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from coordinator.intake import sandbox
from kit import canonical
from kit.errors import FormatError, KitError, LimitError

_log = logging.getLogger(__name__)
_MAX_VERDICT_BYTES = 64 * 1024
_MAX_WORDS = 300
_MEMORY_ENV = "INTAKE_MEMORY_BYTES"
_MAX_CPU_S = 900
_MAX_FILE_BYTES = 256 << 20  # the payload, sealed again
_MAX_OPEN_FILES = 256  # importing the model check's framework takes a few dozen
_BLOCK_BYTES = 64 * 1024
_LAST_WORDS_S = 5.0
_STOPPED = {-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one check may use: private memory in bytes, seconds on the wall clock."""

    memory_bytes: int
    timeout_s: float


class CheckFailedError(FormatError):
    """A check refused its payload, or did not end within its limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    status: int
    stdout: bytes
    stderr: bytes


def run(
    module: str, request: dict[str, Any], limits: Limits, *, files: Mapping[str, int]
) -> dict[str, Any]:
    """Run `python -m module` on `request` and return its verdict.

    `files` are open descriptors; the child finds their numbers in its request, by these names.

    Raises:
        CheckFailedError: the payload was refused, or the check ran out of memory or time.
        KitError: the check was stopped or could not write, which says nothing of the payload.
    """
    ended = _run(module, json.dumps(request | dict(files)).encode(), limits, tuple(files.values()))
    if ended.status in _STOPPED:
        raise KitError("a check was stopped from outside", hint="it starts again by itself")
    if ended.status != 0:
        last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        _log.warning("%s ended with %d: %s", module, ended.status, canonical.printable(last))
        raise CheckFailedError(
            f"the check ended without a verdict (status {ended.status}): memory limit or crash"
        )
    verdict = _verdict(ended.stdout)
    missing = {sandbox.LANDLOCK, sandbox.SECCOMP} - set(verdict.get("walls", ()))
    if missing:
        _log.warning("this machine gives a check no %s", " and no ".join(sorted(missing)))
    if "failed" in verdict:
        raise KitError(_said(verdict["failed"]), hint="the blueprint waits and is tried again")
    if "refused" in verdict:
        raise CheckFailedError(_said(verdict["refused"]))
    return verdict


def _said(words: object) -> str:
    """Return what a process that ran a stranger's network said, fit for a terminal."""
    return canonical.printable(str(words))[:_MAX_WORDS]


def _verdict(stdout: bytes) -> dict[str, Any]:
    try:
        verdict = json.loads(stdout) if len(stdout) <= _MAX_VERDICT_BYTES else None
    except (ValueError, RecursionError) as error:
        raise CheckFailedError("the check gave no readable verdict") from error
    if not isinstance(verdict, dict):
        raise CheckFailedError("the check gave no readable verdict")
    return verdict


def _run(module: str, request: bytes, limits: Limits, descriptors: tuple[int, ...]) -> _Ended:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        cwd="/",
        env=_environment(limits),
        start_new_session=True,  # ctrl-C in the server's terminal is not the payload's doing
    )
    stdout, stderr = bytearray(), bytearray()
    threads = [
        threading.Thread(target=_write, args=(process.stdin, request), daemon=True),
        threading.Thread(target=_read, args=(process.stdout, stdout), daemon=True),
        threading.Thread(target=_read, args=(process.stderr, stderr), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        process.wait(limits.timeout_s)
    except subprocess.TimeoutExpired as error:
        raise CheckFailedError(f"the check took longer than {limits.timeout_s:g} s") from error
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whatever it may have started
        process.wait()
        for thread in threads:
            thread.join(_LAST_WORDS_S)  # nobody holds the pipes any more
    return _Ended(status=process.returncode, stdout=bytes(stdout), stderr=bytes(stderr))


def _environment(limits: Limits) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        _MEMORY_ENV: str(limits.memory_bytes),
    }


def _write(stream: IO[bytes] | None, data: bytes) -> None:
    if stream is not None:
        with suppress(BrokenPipeError), stream:  # a child that ended early does not read
            stream.write(data)


def _read(stream: IO[bytes] | None, kept: bytearray) -> None:
    """Keep the beginning of a stream, a verdict's length and a byte, and let the rest go by."""
    if stream is not None:
        with stream:
            while block := os.read(stream.fileno(), _BLOCK_BYTES):
                kept += block[: _MAX_VERDICT_BYTES + 1 - len(kept)]


def request() -> dict[str, Any]:
    """In the child: take on the limits and put up the walls, then read the request."""
    limit = int(os.environ[_MEMORY_ENV])
    # RLIMIT_DATA counts what a payload can make a process allocate, not the mapped libraries.
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_MAX_CPU_S, _MAX_CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES))
    walls = sandbox.enter(p for p in sys.path if p)
    value: dict[str, Any] = json.load(sys.stdin)
    return value | {"walls": walls}


def read_open(descriptor: int, *, limit: int, what: str) -> bytes:
    """In the child: return the whole of an open file of at most `limit` bytes.

    Raises:
        LimitError: it is longer.
    """
    size = os.fstat(descriptor).st_size
    if size > limit:
        raise LimitError(f"{what} is over {limit} bytes")
    with open(descriptor, "rb") as stream:
        return stream.read(size)


def write_open(descriptor: int, data: bytes) -> None:
    """In the child: write the whole of an open file.

    Raises:
        KitError: the disk does not take it.
    """
    try:
        with open(descriptor, "wb") as stream:
            stream.write(data)
    except OSError as error:
        raise KitError(f"the payload cannot be kept: {(error.strerror or '').lower()}") from error


def answer(request: dict[str, Any], **verdict: Any) -> None:
    """In the child: give the verdict."""
    sys.stdout.write(json.dumps(verdict | {"walls": request["walls"]}))
