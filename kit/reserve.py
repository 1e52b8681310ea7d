"""A disk reserve: blocks held back by a file, given up so that a full disk permits what must go on.

Whatever fills the disk, a revocation, a withdrawal and the destruction of keys need a few pages of
journal. The file's blocks are allocated (posix_fallocate), not promised: on a file system that
copies on write and compresses (btrfs, ZFS), or under a quota counted elsewhere, use the quota or
reservation of the file system instead.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Reserve:
    """A file of `size_bytes`, held back on the disk of a home."""

    path: Path
    size_bytes: int

    @property
    def held_bytes(self) -> int:
        """How much is held back now; 0 after it was given up."""
        try:
            return self.path.stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    @property
    def is_whole(self) -> bool:
        """Say whether the whole of it is held back."""
        return self.held_bytes >= self.size_bytes

    def hold(self) -> bool:
        """Hold the space back if the disk has that much and as much again; says whether it is."""
        if not self.is_whole and self._free() + self.held_bytes >= 2 * self.size_bytes:
            self._allocate(self.size_bytes)
        return self.is_whole

    def _allocate(self, size_bytes: int) -> None:
        with suppress(OSError):  # somebody was faster: the next call tries again
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, max(1, size_bytes))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _free(self) -> int:
        return shutil.disk_usage(self.path.parent).free

    def give_up(self) -> None:
        """Give the space back to the disk; nothing happens if it was given back before."""
        self.path.unlink(missing_ok=True)

    def has_room(self, needed_bytes: int) -> bool:
        """Say whether `needed_bytes` fit beside the reserve, and leave half its size free.

        While the reserve is given up, nothing fits that would eat what it was held for.
        """
        missing = 0 if self.is_whole else self.size_bytes
        return self._free() - needed_bytes >= missing + self.size_bytes // 2

    @contextmanager
    def drawn_on(self) -> Iterator[None]:
        """Run a block that must go through: on a disk that is all but full, the reserve goes first.

        What the block did not need is held back again at its end, and the whole once there is room
        (`hold`).
        """
        is_needed = self._free() < self.size_bytes // 2
        if is_needed:
            self.give_up()
        try:
            yield
        finally:
            if is_needed:
                self._allocate(min(self.size_bytes, self._free()))
