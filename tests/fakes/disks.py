"""Small disks that really are full, where this user may mount one."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def small_disk(folder, size):
    """Mount a disk of `size` at `folder`, or skip where that is not allowed."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder, name="filler"):
    """Write until no byte is left; returns the file."""
    path = folder / name
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while stream.write(bytes(size)) == size:
                    pass
    return path
