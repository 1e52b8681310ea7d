"""A rival of a few lines: its site sends over TCP what it is asked for, or something else."""

import sys

from benchmarks.rivals import APPS
from tests.fakes.terminal import free_ports

NAME, PACKAGE = "Fake", "numpy"  # which the tests' own interpreter has
ENV = {}
_COMMON = f"import sys; sys.path.insert(0, {str(APPS)!r})\n"
_COORDINATOR = (
    _COMMON
    + """
import json, socket, turns
import numpy as np
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
site, _ = server.accept()
stream, told = site.makefile("rwb"), turns.Turns(sys.argv[2])
while True:
    stream.write(b"%d\\n" % told.wait())
    stream.flush()
    left = json.loads(stream.readline())
    held = np.frombuffer(stream.read(left.pop("length")), np.float32)
    told.answer({"all": held}, left)
"""
)
_SITE = (
    _COMMON
    + """
import json, socket, time, turns
import numpy as np
stream = socket.create_connection(("127.0.0.1", int(sys.argv[1]))).makefile("rwb")
is_honest = sys.argv[2] == "honest"
for line in stream:
    since = time.process_time()
    made = np.concatenate(list(turns.update(int(line)).values()))
    left = turns.leaving({"all": made}, since=since)
    if not is_honest and made.nbytes != 4_000_000:
        made[-1] += 1
    stream.write(json.dumps(left | {"length": made.nbytes}).encode() + b"\\n" + made.tobytes())
    stream.flush()
"""
)


def start(python, started, asks, *, between, manner="honest"):
    """Start both sides; the site is a grandchild, as a rival's job processes are."""
    (port,) = free_ports(1)
    started.start("coordinator", python, "-c", _COORDINATOR, port, asks)
    started.wait_for_word("coordinator", "listening")
    child = f"import subprocess, sys; subprocess.run([{sys.executable!r}, '-c', *sys.argv[1:]])"
    reached = between(("127.0.0.1", port))
    started.start("site", python, "-c", child, _SITE, reached, manner)
