"""Rivals as guests of our own measurement: started, asked in turns, and put into one table."""

import contextlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.rivals import flower, nvflare
from benchmarks.rivals.running import running
from tests.fakes.relay import Relay

RIVALS = (nvflare, flower)
_VERSIONS = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""
_DIFFERENCES = """
Ours: from the weights' file to a durable, logged, receipted `received`: contact, seal, two
digests, signature, mutual TLS, fsync at both ends. Theirs: from the site's code letting go of
float32 arrays in memory to the coordinator's code holding them in memory, over TLS alone: nothing
is sealed, signed, on a disk or in a log. Processor time is of all processes of a side, without
what made the update; MB are of the biggest process; bytes are those between the two sides.
"""


def interpreter(text):
    """Return the path of an interpreter; end with one line where `text` names none."""
    python = Path(text).absolute()  # not resolved: a virtual environment is known by its link
    try:
        versions(python)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        sys.exit(f"exchange: error: `{text}` is no Python that answers: {error}")
    return python


def versions(python, rivals=RIVALS):
    """Return the version of each rival that an interpreter has, None where it has none.

    Raises OSError where there is no such program, ValueError where it answers not as Python does.
    """
    words = [str(python), "-c", _VERSIONS, *(rival.PACKAGE for rival in rivals)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise ValueError(f"it ended with status {done.returncode}")
    return json.loads(done.stdout)


class Guest:
    """One rival in our run: what each update took, or why there is none."""

    def __init__(self, rival, python, folder, version):
        self.name = f"{rival.NAME} {version}" if version else rival.NAME
        self._rival, self._python, self._folder = rival, python, folder
        self._one, self._rows, self._ratios = None, {}, {}
        self.why = None if version else "not installed there"
        self.has_failed = False

    def start(self, stack):
        """Start it until the stack is closed, if it is there."""
        if self.why:
            return
        with self._noting_failure():
            timed = running(self._rival, self._python, self._folder / "timed")
            self._one = stack.enter_context(timed)

    def send(self, size):
        """Have it send `size` bytes, if it was started."""
        if self.why:
            return
        with self._noting_failure():
            self._rows.setdefault(size, []).append(self._one.send(size))

    def count_bytes(self):
        """Start it anew, a relay between its sides, and have it send the least size once more."""
        if self.why:
            return
        with self._noting_failure(), contextlib.ExitStack() as stack:
            relays = []

            def between(address):
                relays.append(stack.enter_context(Relay(address)))
                return relays[0].port

            counted = self._folder / "counted"
            one = stack.enter_context(running(self._rival, self._python, counted, between=between))
            size, before = min(self._rows), relays[0].up + relays[0].down
            one.send(size)
            self._ratios[size] = (relays[0].up + relays[0].down - before) / size

    def told(self):
        """Return what was measured."""
        rows = [self._row(size, rows) for size, rows in self._rows.items() if rows]
        return {"name": self.name, "why": self.why, "failed": self.has_failed, "rows": rows}

    def _row(self, size, rows):
        middle = {what: statistics.median(row[what] for row in rows) for what in rows[0]}
        return {
            "megabytes": size / 1e6,
            "times": len(rows),
            "seconds_median": middle["seconds"],
            "seconds_best": min(row["seconds"] for row in rows),
            "site_cpu_s": middle["site_cpu_s"],
            "coordinator_cpu_s": middle["coordinator_cpu_s"],
            "bytes_ratio": self._ratios.get(size),
            "site_mb": max(row["site_mb"] for row in rows),
            "coordinator_mb": max(row["coordinator_mb"] for row in rows),
        }

    @contextlib.contextmanager
    def _noting_failure(self):
        try:
            yield
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            self.why, self.has_failed = " ".join(str(error).split()), True


def invited(python, folder, rivals=RIVALS):
    """Return a guest for each rival; without an interpreter none of them is started."""
    found = versions(python, rivals) if python else {}
    guests = [
        Guest(each, python, folder / each.PACKAGE, found.get(each.PACKAGE)) for each in rivals
    ]
    for guest in guests:
        if not python:
            guest.why = "name an interpreter that has it with --rivals"
    return guests


def show(found):
    """Print one table of ours and theirs, and what was not run."""
    guests = found["beside"]
    if any(guest["rows"] for guest in guests):
        sizes = {row["megabytes"] for guest in guests for row in guest["rows"]}
        ours = {row["megabytes"]: row for row in found["submissions"] if row["megabytes"] in sizes}
        print(
            "\n| system | MB | times | seconds (median) | best | ours = 1 | CPU s site |"
            " CPU s coordinator | ours = 1 | bytes | site MB | coordinator MB |"
        )
        print("|" + "---|" * 12)
        for name, rows in [("ours", ours.values()), *((g["name"], g["rows"]) for g in guests)]:
            for row in rows:
                print(_line(name, row, ours[row["megabytes"]]))
        print(_DIFFERENCES)
    for guest in guests:
        if guest["why"]:
            print(f"{guest['name']}: {'failed' if guest['failed'] else 'not run'}: {guest['why']}")


def _line(name, row, ours):
    spent, our_spent = (each["site_cpu_s"] + each["coordinator_cpu_s"] for each in (row, ours))
    ratio = "not counted" if row["bytes_ratio"] is None else f"{row['bytes_ratio']:.4f}x"
    return (
        f"| {name} | {row['megabytes']:.0f} | {row['times']} | {row['seconds_median']:.2f} |"
        f" {row['seconds_best']:.2f} | {row['seconds_median'] / ours['seconds_median']:.1f} |"
        f" {row['site_cpu_s']:.2f} | {row['coordinator_cpu_s']:.2f} | {spent / our_spent:.1f} |"
        f" {ratio} | {row['site_mb']:.0f} | {row['coordinator_mb']:.0f} |"
    )
