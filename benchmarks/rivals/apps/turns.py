"""How an app of a rival is told to send: a file that asks, a file that answers. numpy and no more.

The folder is shared by both ends, which run on one machine and so share a monotonic clock too.
"""

import hashlib
import json
import time
from pathlib import Path

import numpy as np

ARRAY_BYTES = 4_000_000
LOOK_S = 0.05


def update(size):
    """Return `size` bytes of float32 in arrays of 4 MB that nothing can compress."""
    random, count = np.random.default_rng(), max(1, size // ARRAY_BYTES)
    return {f"layer{n}": random.random(size // count // 4, dtype=np.float32) for n in range(count)}


def leaving(arrays, *, since):
    """Return what the site says beside `arrays` just before it lets go of them.

    `since` is its own processor time, in seconds, when it began to make them: what making them
    and their digest took is not the exchange's.
    """
    sent = digest(arrays)
    return {
        "sent": sent,
        "else_cpu_s": time.process_time() - since,
        "began": time.monotonic(),
    }


def digest(arrays):
    """Return what tells one update from another."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(np.ascontiguousarray(arrays[name]))
    return found.hexdigest()


class Turns:
    """Each update that is asked for, and what is answered when the coordinator holds it."""

    def __init__(self, folder):
        self.folder, self.count = Path(folder), 0
        write(self.folder / "ready.json", {})

    def wait(self):
        """Return the size of the next update once somebody asks for it."""
        asked = self.folder / f"ask-{self.count}.json"
        while not asked.exists():
            time.sleep(LOOK_S)
        return json.loads(asked.read_text())["size"]

    def answer(self, arrays, left):
        """Tell how long it took and whether it is what was sent."""
        ended, used = time.monotonic(), time.process_time()
        row = {
            "bytes": sum(each.nbytes for each in arrays.values()),
            "seconds": ended - left["began"],
            "is_whole": digest(arrays) == left["sent"],
            "site_else_cpu_s": left["else_cpu_s"],
            "coordinator_else_cpu_s": time.process_time() - used,
        }
        write(self.folder / f"answer-{self.count}.json", row)
        self.count += 1


def write(path, document):
    """Write a file that is either whole or not there."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document))
    part.rename(path)
