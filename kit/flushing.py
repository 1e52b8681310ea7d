"""Making a file durable behind its writer's back: the disk works while the bytes still come.

`settle` is the only promise: what was written before it is on the disk when it returns. A refusal
of the disk is not lost in between: the next call raises it.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

STRETCH_BYTES = 8 << 20
MAX_BEHIND = 4  # stretches that the disk may be behind before the writer waits for it


class Flusher:
    """Follows one writer of an open file; the file stays the caller's to close, afterwards."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._behind = 0  # bytes that no flush has begun for
        self._flight: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="flush")  # a thread at the first use

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    def wrote(self, size_bytes: int) -> bool:
        """Note bytes that were written; says whether a stretch of them began its way to the disk.

        Raises:
            OSError: the disk refused something that was written before.
        """
        self._behind += size_bytes
        is_busy = self._flight is not None and not self._flight.done()
        if self._behind < (MAX_BEHIND * STRETCH_BYTES if is_busy else STRETCH_BYTES):
            return False
        self._land()
        self._flight, self._behind = self._pool.submit(os.fdatasync, self._descriptor), 0
        return True

    def settle(self) -> None:
        """Wait until everything written so far is durable.

        Raises:
            OSError: the disk refused it.
        """
        self._land()
        os.fdatasync(self._descriptor)
        self._behind = 0

    def _land(self) -> None:
        if self._flight is not None:
            flight, self._flight = self._flight, None
            flight.result()


class FlushedFile:
    """A file that is written once, from its beginning to its end, and flushed on the way."""

    def __init__(self, descriptor: int, flusher: Flusher) -> None:
        self._descriptor, self._flusher = descriptor, flusher

    def write(self, data: bytes, /) -> int:
        """Write all of `data`.

        Raises:
            OSError: the disk refuses it, or refused something before.
        """
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._flusher.wrote(len(data))
        return len(data)


@contextmanager
def flushed(path: Path) -> Iterator[FlushedFile]:
    """Open an existing file to write it anew; durable when the block ends without an error.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        with Flusher(descriptor) as flusher:
            yield FlushedFile(descriptor, flusher)
            flusher.settle()
    finally:
        os.close(descriptor)
