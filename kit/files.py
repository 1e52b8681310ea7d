"""Files: whole or not at all, private when secret, one holder at a time."""

import errno
import fcntl
import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from kit.errors import DiskFullError, FormatError, KitError

CHUNK_BYTES = 1 << 20
Document = TypeVar("Document")


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` to `path` so that a reader or a crash sees the old file or the new, whole.

    Raises:
        KitError: the disk is full or the folder cannot be written.
    """
    with replacing(path, mode=mode) as part, part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def write_secret(path: Path, data: bytes) -> None:
    """Write a secret readable by its owner only (0600 from the first byte on)."""
    write_atomic(path, data, mode=0o600)


@contextmanager
def replacing(path: Path, *, mode: int = 0o644, keeps_modes: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync and rename it over `path`.

    `keeps_modes` is False on a foreign medium: FAT knows no modes and may refuse to set one.

    Raises:
        KitError: the disk is full or the folder cannot be written.
    """
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(descriptor)
        part = Path(name)
        try:
            yield part
            with suppress(*() if keeps_modes else (PermissionError,)):
                part.chmod(mode)
            fsync(part)
            part.replace(path)
            fsync(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one clear line.

    Raises:
        DiskFullError: no space is left.
        KitError: the file may not grow, or not be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = _free_bytes(path)
            raise DiskFullError(
                f"no space left on the disk of `{path}` ({free} bytes free)",
                hint="free some space and run the same command again; nothing was half-written",
            ) from error
        if error.errno == errno.EFBIG:
            raise KitError(f"file size limit reached writing `{path}`") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise KitError(f"no permission for `{path}`") from error
        raise


def _free_bytes(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def fsync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def open_foreign(path: Path, *, what: str) -> Iterator[tuple[io.FileIO, int]]:
    """Open a file on somebody else's medium; yields the stream and the length in bytes.

    Links are not followed, and pipes and devices are refused before a byte is read from them.

    Raises:
        KitError: the file is missing, unreadable, or no plain file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise KitError(f"{what} `{path}` is a link; links are not followed") from error
        words = "does not exist" if error.errno == errno.ENOENT else "cannot be read"
        raise KitError(f"{what} `{path}` {words}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise KitError(f"{what} `{path}` is not a plain file")
    # Unbuffered: what is read is what lies there now, so a change shows in the digest.
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        yield stream, status.st_size


@contextmanager
def medium_errors() -> Iterator[None]:
    """Turn a medium that fails while it is read into one clear line.

    Raises:
        KitError: it did.
    """
    try:
        yield
    except OSError as error:
        raise KitError(
            f"the medium cannot be read: {(error.strerror or str(error)).lower()}",
            hint="was it pulled out? copy the file again, to another stick",
        ) from error


def read_limited(path: Path, *, limit: int, what: str) -> bytes:
    """Read a whole file of at most `limit` bytes.

    Raises:
        KitError: the file is missing, unreadable or too large.
    """
    try:
        with path.open("rb") as stream:
            # Python allocates what `read` is asked for, so it is asked for what is there.
            size = min(os.fstat(stream.fileno()).st_size, limit)
            data = stream.read(size + 1)
            if len(data) > size:  # a pipe, or a file that grows: its size says nothing
                data += stream.read(limit + 1 - len(data))
    except FileNotFoundError as error:
        raise KitError(f"{what} `{path}` does not exist", hint=_where(path)) from error
    except OSError as error:
        raise KitError(f"{what} `{path}` cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise KitError(f"{what} `{path}` is over {limit} bytes")
    return data


def _where(path: Path) -> str | None:
    """Say what a person may look for when a file is not there."""
    folder = path.absolute().parent
    if folder.is_dir():
        return None
    return f"nor is there a folder `{folder}`: is the path right, and the medium mounted?"


def read_document(
    path: Path, parse: Callable[[bytes], Document], *, limit: int, what: str, hint: str
) -> Document:
    """Read a file that a person named, as `parse` reads its bytes.

    `what` is what should be in it, and `hint` says where such a file comes from.

    Raises:
        KitError: the file is missing, unreadable or too large.
        FormatError: it holds something else; the message names it.
    """
    try:
        data = read_limited(path, limit=limit, what=what)
    except KitError as error:
        error.hint = error.hint or hint
        raise
    try:
        return parse(data)
    except KitError as error:
        raise FormatError(f"`{path}` is no {what}: {error}", hint=error.hint or hint) from error


def read_folder(path: Path, *, limit: int, what: str) -> dict[str, bytes]:
    """Read every file of a folder that holds nothing but plain files, by name.

    Raises:
        KitError: it is no such folder, or a file is over `limit` bytes.
    """
    if not path.is_dir():
        raise KitError(f"{what} `{path}` is not a folder", hint=_where(path) or "give its folder")
    entries = sorted(path.iterdir())
    if not all(entry.is_file() and not entry.is_symlink() for entry in entries):
        raise KitError(f"{what} `{path}` holds something else than plain files")
    return {entry.name: read_limited(entry, limit=limit, what=what) for entry in entries}


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder of their own, which must be new or empty.

    Raises:
        KitError: it is not, the disk is full, or the folder cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise KitError(f"`{path}` exists and is not empty", hint="choose another folder")
    for name, data in files.items():
        write_atomic(path / name, data)


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def private_folder(path: Path) -> Path:
    """Make (if needed) a folder that only its owner enters, and return it."""
    with os_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    return path


@contextmanager
def exclusive(path: Path, *, busy: str, hint: str | None = None) -> Iterator[None]:
    """Hold an exclusive lock on `path` while the block runs; released even by kill -9.

    Raises:
        KitError: another process holds it; the message is `busy`.
    """
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise KitError(busy, hint=hint) from error
        yield
    finally:
        os.close(descriptor)
