"""This site's copy of the audit log: one leaf per line, in log order.

The copy proves nothing by itself: it is read under the root that `state/trust.json` holds. A line
more than that is what a crash left between the two files, and is written over.
"""

from pathlib import Path

from edge_agent.errors import TrustError
from edge_agent.home import Home
from federation.auditlog import merkle
from kit.files import os_errors, write_atomic

MAX_ENTRIES = 1_000_000


def load(home: Home, size: int, root: str) -> tuple[bytes, ...]:
    """Return the first `size` leaves, or none where this home keeps no copy yet.

    Raises:
        TrustError: the copy is not what this site once verified.
    """
    path = home.log_copy
    if not path.is_file():
        return ()
    with os_errors(path):
        leaves = tuple(path.read_bytes().split(b"\n")[:size])
    tree = merkle.Tree.of([merkle.leaf_hash(leaf) for leaf in leaves])
    if tree.size != size or tree.root().hex() != root:
        raise TrustError(
            f"the copy of the audit log in `{path}` is not the one that this site verified",
            hint="somebody changed this home, or the disk is failing; delete that file to have the"
            " log read again from its first entry: it must still contain what was seen before",
        )
    return leaves


def store(path: Path, held: int, leaves: tuple[bytes, ...]) -> None:
    """Keep `leaves`, of which the first `held` are in the file already."""
    if not path.is_file() or not held:
        write_atomic(path, b"".join(leaf + b"\n" for leaf in leaves), mode=0o600)
        return
    kept = sum(len(leaf) + 1 for leaf in leaves[:held])
    with os_errors(path), path.open("r+b") as stream:
        stream.seek(kept)
        stream.truncate()
        stream.write(b"".join(leaf + b"\n" for leaf in leaves[held:]))
