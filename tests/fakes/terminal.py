"""Both command lines as a user runs them: real processes, in a network of their own if allowed."""

import contextlib
import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 120
ROOT = Path(__file__).parents[2]
# Runs a command line where torch and what belongs to it cannot be imported.
_LIGHT = """
import sys
from importlib import import_module

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "diffusers", "opacus"):
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
program = sys.argv[1]
sys.argv = sys.argv[1:]
import_module(program.replace("-", "_") + ".cli").main()
"""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


class Namespace:
    """A network namespace with loopback only: what connects outside it cannot work."""

    def __init__(self):
        self._holder = None
        self.prefix = []

    def open(self):
        """Enter one if this machine lets us; says whether it did."""
        if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
            return False
        hold = "ip link set lo up && echo ready && exec sleep 3600"
        words = ["unshare", "--map-root-user", "--net", "sh", "-c", hold]
        self._holder = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if self._holder.stdout.readline() != b"ready\n":
            self.close()
            return False
        target = ["-t", str(self._holder.pid), "--user", "--net", "--preserve-credentials"]
        self.prefix = ["nsenter", *target, "--"]
        return True

    def close(self):
        if self._holder is not None:
            self._holder.kill()
            self._holder.wait()
            self._holder.stdout.close()


@dataclass(frozen=True)
class Terminal:
    """Runs commands with `folder`/<who> as their home."""

    folder: Path
    prefix: tuple = ()

    def words(self, program, who, *arguments, light=False, ranks=1):
        first = [str(Path(sys.executable).parent / program)]
        if ranks > 1:
            torchrun = Path(sys.executable).parent / "torchrun"
            alone = ["--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}"]
            first = [str(torchrun), *alone, "--no-python", *first]
        if light:
            first = [sys.executable, "-c", _LIGHT, program]
        home = ["--home", str(self.folder / who)] if who else []
        return [*self.prefix, *first, *map(str, arguments), *home]

    def run(self, program, who, *arguments, light=False, ranks=1, timeout_s=TIMEOUT_S, **options):
        """Run one command to its end, in several processes under torchrun if asked."""
        done = subprocess.run(
            self.words(program, who, *arguments, light=light, ranks=ranks),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment(),
            check=False,
            **options,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def json(self, program, who, *arguments, light=False, ranks=1, timeout_s=TIMEOUT_S):
        """Run one command that must succeed, and return its JSON."""
        how = {"light": light, "ranks": ranks, "timeout_s": timeout_s}
        result = self.run(program, who, *arguments, "--json", **how)
        assert result.code == 0, result.err
        return result.json

    def python(self, code, *arguments):
        """Start a Python program in the same network."""
        return self._start([*self.prefix, sys.executable, "-c", code, *map(str, arguments)], None)

    @contextlib.contextmanager
    def running(self, program, who, *arguments, log=None):
        """Run a command beside the block; kills what is left of it at the end."""
        process = self._start(self.words(program, who, *arguments), log)
        try:
            yield process
        finally:
            stop(process, signal.SIGKILL)

    def _start(self, words, log):
        stream = subprocess.DEVNULL if log is None else log.open("ab")
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                env=environment(),
            )
        finally:
            if log is not None:
                stream.close()

    @contextlib.contextmanager
    def serving(self, log):
        """Run `coordinator serve` until the end of the block."""
        seen = log.stat().st_size if log.exists() else 0
        with self.running("coordinator", "hub", "serve", log=log) as process:
            wait_for(lambda: b"enrolment on" in log.read_bytes()[seen:], process)
            yield process
            if process.poll() is None:
                assert stop(process, signal.SIGINT) == 0


def environment():
    """One thread per process: the machine is shared."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}


def stop(process, number):
    """Send a signal to one process and wait for its end."""
    if process.poll() is None:
        process.send_signal(number)
    return process.wait(timeout=TIMEOUT_S)


def wait_for(check, process=None, *, timeout_s=TIMEOUT_S):
    """Wait until `check()` is true, while `process` lives."""
    ends = time.monotonic() + timeout_s
    while not check():
        assert process is None or process.poll() is None, "the process ended too early"
        assert time.monotonic() < ends, "waited too long"
        time.sleep(0.02)


def free_ports(count):
    """Return ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def at_a_terminal(code, *typed):
    """Run Python code at a real terminal and type lines; returns what was shown, and the status."""
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=ROOT,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    for line in typed:
        while not shown.rstrip().endswith(b":") or shown.count(b": ") <= typed.index(line):
            shown += os.read(main, 1000)
        os.write(main, line.encode() + b"\n")
    while True:
        try:
            more = os.read(main, 1000)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        shown += more
    os.close(main)
    return shown.decode(), process.wait(timeout=30)
