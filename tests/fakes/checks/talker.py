"""A check that answers without end: no verdict, and no memory of the coordinator."""

import sys

from coordinator.intake import limited

if __name__ == "__main__":
    limited.request()
    for _ in range(512):
        sys.stdout.buffer.write(b"x" * (1 << 20))
