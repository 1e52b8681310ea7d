"""One rival, running: asked for one update after the other."""

import contextlib
import json
import os

from benchmarks.rivals.started import Started

WARM_BYTES = 4_000_000
WITHIN_S = 900


class Running:
    """A rival's two sides, with an app that waits for what it is asked (`apps/turns.py`)."""

    def __init__(self, started, asks):
        self._started, self._asks, self._count = started, asks, 0

    def send(self, size):
        """Have the site send `size` bytes; return seconds, memory and processor time of it.

        Raises RuntimeError where no update comes, or another than was sent.
        """
        self._started.forget()
        ask = self._asks / f"ask-{self._count}.json"
        answer = self._asks / f"answer-{self._count}.json"
        self._count += 1
        ask.with_suffix(".part").write_text(json.dumps({"size": size}))
        ask.with_suffix(".part").rename(ask)
        self._started.wait_for(answer.exists, "an update", within_s=WITHIN_S)
        told = json.loads(answer.read_text())
        if not told["is_whole"] or told["bytes"] != size:
            raise RuntimeError("its coordinator does not hold what its site sent")
        return {"seconds": told["seconds"]} | {
            f"{side}_{what}": figure
            for side in ("site", "coordinator")
            for what, figure in (
                ("mb", self._started.peak_mb(side)),
                ("cpu_s", self._started.cpu_s(side) - told[f"{side}_else_cpu_s"]),
            )
        }


@contextlib.contextmanager
def running(rival, python, folder, *, between=lambda address: address[1]):
    """Start a rival and have it send a small update once; end all of it after the block.

    `between` is given the coordinator's address and returns the port the site shall connect to.
    Raises RuntimeError where the rival does not come up.
    """
    asks = folder / "asks"
    asks.mkdir(parents=True)
    env = os.environ | rival.ENV | {"OMP_NUM_THREADS": "1", "HOME": str(folder)}
    env["PATH"] = f"{python.parent}{os.pathsep}{env['PATH']}"
    env.pop("PYTHONPATH", None)
    with Started(folder, env) as started:
        rival.start(python, started, asks, between=between)
        started.wait_for((asks / "ready.json").exists, "the coordinator's code")
        one = Running(started, asks)
        one.send(WARM_BYTES)
        yield one
