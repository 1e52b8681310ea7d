"""A check that tries to get out, and says what it managed."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from coordinator.intake import limited


def attempts(folder: Path) -> dict[str, Callable[[], object]]:
    """Return every way out, by name; `folder` lies outside what a check may read."""
    secret, environment = folder / "secret", Path(f"/proc/{os.getppid()}/environ")
    return {
        "read a file": secret.read_bytes,
        "list a folder": lambda: list(folder.iterdir()),
        "write a file": lambda: (folder / "mine").write_bytes(b"x"),
        "change a file": lambda: secret.open("r+b").close(),
        "delete a file": (folder / "spare").unlink,
        "look into its parent": environment.read_bytes,
        "open a connection": lambda: socket.socket(socket.AF_INET),
        "open a local socket": socket.socketpair,
        "run a program": lambda: subprocess.run(["/bin/true"], check=True),
        "start a process": lambda: _in_child(lambda: None),
        "leave its session": lambda: _in_child(os.setsid),
        "signal its parent": lambda: os.kill(os.getppid(), 0),
    }


def _in_child(action: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    os.waitpid(child, 0)


def managed(folder: Path) -> list[str]:
    """Try every way out, and return the names of those that led somewhere."""
    found = []
    for name, attempt in attempts(folder).items():
        try:
            attempt()
        except OSError:
            continue
        found.append(name)
    return found


def main() -> None:
    """Try from within the walls, or with a folder as argument from without."""
    if sys.argv[1:]:
        sys.stdout.write(json.dumps(managed(Path(sys.argv[1]))))
        return
    request = limited.request()
    limited.answer(request, managed=managed(Path(request["folder"])))


if __name__ == "__main__":
    main()
