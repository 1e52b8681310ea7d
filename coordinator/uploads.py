"""The bytes of uploads that are not whole yet: one file and one writer each.

Invariants:

- One writer at a time, across threads and processes: two uploads of one blueprint never mix.
- Bytes go to the exact end, and never past the signed length.
- `settle` hands a file over only with the signed digest, durable under its final name: fsync,
  rename, fsync of the folder.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from coordinator.context import Coordinator
from coordinator.errors import BusyError
from coordinator.reserve import require_room
from federation.blueprint.statement import Statement
from kit.errors import FormatError, LimitError
from kit.files import fsync, os_errors, sha256_file
from kit.flushing import Flusher

MAX_CHUNK_BYTES = 1 << 20
BUSY_RETRY_S = 5.0


class Upload:
    """The one writer of a staged blueprint."""

    def __init__(
        self,
        path: Path,
        descriptor: int,
        length: int,
        room: Callable[[int], None],
        flusher: Flusher,
    ) -> None:
        self._path, self._descriptor, self._length = path, descriptor, length
        self._room, self._flusher = room, flusher
        self.size = os.fstat(descriptor).st_size
        # Bytes of an earlier call are hashed once, at the end.
        self._sha256 = None if self.size else hashlib.sha256()

    def append(self, offset: int, data: bytes) -> bool:
        """Add bytes at the end; says whether a stretch is over: time to look who is still welcome.

        Raises:
            LimitError: the chunk is too large, goes past the signed length, or has no room.
            FormatError: the offset is not the end of what is here.
        """
        if len(data) > MAX_CHUNK_BYTES:
            raise LimitError(f"a chunk has at most {MAX_CHUNK_BYTES} bytes")
        if offset != self.size:
            raise FormatError(f"chunk starts at {offset}, the upload is at {self.size}")
        if offset + len(data) > self._length:
            raise LimitError("the upload is longer than its statement says")
        self._room(len(data))
        with os_errors(self._path):
            _write_all(self._descriptor, data)
            self.size += len(data)
            stretch_is_over = self._flusher.wrote(len(data))
        if self._sha256 is not None:
            self._sha256.update(data)
        return stretch_is_over

    def sync(self) -> None:
        """Make every byte so far durable."""
        with os_errors(self._path):
            self._flusher.settle()

    def sha256(self) -> str:
        """Return the digest of everything so far."""
        if self._sha256 is not None:
            return self._sha256.hexdigest()
        return sha256_file(self._path)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def writing(coordinator: Coordinator, statement: Statement) -> Iterator[Upload]:
    """Open the staged file of a blueprint for this writer alone.

    Raises:
        BusyError: somebody else is writing it.
    """
    path = coordinator.home.staging(statement.digest)
    with os_errors(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                "another upload of this blueprint is under way", retry_after_s=BUSY_RETRY_S
            ) from error
        room = partial(require_room, coordinator.home)
        with Flusher(descriptor) as flusher:
            yield Upload(path, descriptor, statement.ciphertext_length, room, flusher)
    finally:
        os.close(descriptor)


def settle(coordinator: Coordinator, statement: Statement, upload: Upload) -> bool:
    """Put a whole upload under its final name; says whether it is whole.

    Raises:
        FormatError: the bytes are not the signed ones; they are dropped.
    """
    upload.sync()
    if upload.size < statement.ciphertext_length:
        return False
    path = coordinator.home.staging(statement.digest)
    with os_errors(path):
        if upload.sha256() != statement.ciphertext_sha256:
            path.unlink(missing_ok=True)
            raise FormatError(
                "the uploaded bytes are not the signed ones",
                hint="submit again: it starts from zero",
            )
        path.replace(coordinator.home.received(statement.digest))
        fsync(path.parent)
    return True


def drop(coordinator: Coordinator, digest: str) -> None:
    """Delete what was uploaded of a blueprint."""
    coordinator.home.staging(digest).unlink(missing_ok=True)
    coordinator.home.received(digest).unlink(missing_ok=True)
