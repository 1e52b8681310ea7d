"""Processes of a rival's two sides: started, watched for memory and processor time, and ended."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

LOOK_S = 0.25
TICKS = os.sysconf("SC_CLK_TCK")


class Started:
    """What was started, by side, with all that these processes started in turn."""

    def __init__(self, folder, env):
        self.folder, self.env = folder, env
        self._roots, self._seen, self._lock = {}, {}, threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._look()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid, found in self._seen.items():
                if _is_same(pid, found):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            self._await_end(10)

    def start(self, side, *words):
        """Start a process of `side`; its output goes to a file named after it."""
        log = self.folder / f"{side}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=self.env,
                cwd=self.folder,
            )
        self._roots[process] = side
        return process

    def ask(self, *words, within_s=120):
        """Run a command of the rival to its end."""
        done = subprocess.run(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.env,
            cwd=self.folder,
            timeout=within_s,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{Path(words[0]).name}: {(done.stdout + done.stderr)[-500:]}")
        return done.stdout

    def wait_for(self, is_there, what, *, within_s=240):
        """Wait until `is_there()` while everything that was started still runs."""
        ends = time.monotonic() + within_s
        while not is_there():
            ended = [side for process, side in self._roots.items() if process.poll() is not None]
            if ended or time.monotonic() > ends:
                why = f"the {ended[0]} ended" if ended else f"nothing in {within_s} s"
                raise RuntimeError(f"waiting for {what}: {why}; {self._tails()}")
            time.sleep(0.05)

    def wait_for_word(self, side, said):
        """Wait until a side's output says `said`."""
        self.wait_for((lambda: said in (self.folder / f"{side}.log").read_text()), f"`{said}`")

    def forget(self):
        """Begin to look for peaks and processor time anew."""
        self._look()
        with self._lock:
            for pid, found in self._seen.items():
                found["base"], found["peak"] = found["cpu"], 0
                if _is_same(pid, found):
                    with contextlib.suppress(OSError):
                        Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mb(self, side):
        """Return the largest resident set of a process of `side`, in MB (10^6 bytes)."""
        self._look()
        return max(f["peak"] for f in self._seen.values() if f["side"] == side) * 1024 / 1e6

    def cpu_s(self, side):
        """Return the processor time that all processes of `side` used, in seconds."""
        self._look()
        return sum(f["cpu"] - f["base"] for f in self._seen.values() if f["side"] == side) / TICKS

    def _watch(self):
        while not self._stop.wait(LOOK_S):
            self._look()

    def _look(self):
        with self._lock:
            stats = _processes()
            sides = {process.pid: side for process, side in self._roots.items()}
            alive = {p: f for p, f in self._seen.items() if stats.get(p, (0, 0))[1] == f["begin"]}
            sides |= {pid: found["side"] for pid, found in alive.items()}
            for pid in sorted(stats):
                parent, begin, cpu = stats[pid]
                if side := sides.get(pid) or sides.get(parent):
                    sides[pid] = side
                    if pid not in alive:
                        self._seen[pid] = {"side": side, "begin": begin, "base": 0, "peak": 0}
                    found = self._seen[pid]
                    found["cpu"], found["peak"] = cpu, max(found["peak"], _peak(pid))

    def _await_end(self, within_s):
        ends = time.monotonic() + within_s
        while any(_is_same(pid, found) for pid, found in self._seen.items()):
            if time.monotonic() > ends:
                return
            time.sleep(0.05)
        for process in self._roots:
            process.wait()

    def _tails(self):
        logs = sorted(self.folder.glob("*.log"))
        return " | ".join(f"{log.name}: {log.read_text()[-400:].strip()}" for log in logs)


def _processes():
    """Return parent, start time and processor ticks of every process that lives."""
    stats = {int(each.name): _stat(each.name) for each in Path("/proc").glob("[0-9]*")}
    return {pid: stat[1:] for pid, stat in stats.items() if stat and stat[0] != "Z"}


def _peak(pid):
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1])
    return 0


def _stat(pid):
    """Return state, parent, start time and processor ticks of a process, or None."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12])


def _is_same(pid, found):
    """Tell whether `pid` still is the process that was seen, and no later one of that number."""
    here = _stat(pid)
    return here is not None and here[0] != "Z" and here[2] == found["begin"]
