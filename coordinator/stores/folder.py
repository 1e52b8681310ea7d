"""A store in a folder of this machine: synced to the disk, renamed into place."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from kit.errors import KitError
from kit.files import os_errors, private_folder, read_limited, replacing, write_atomic


class Folder:
    """A folder (a `Store`)."""

    def __init__(self, folder: Path, *, mode: int) -> None:
        self.folder = folder
        self._mode = mode

    def path(self, name: str) -> Path:
        """Return the file of an entry."""
        return self.folder / name

    def put(self, name: str, data: bytes) -> None:
        """Write, sync and rename."""
        self._prepare()
        write_atomic(self.path(name), data, mode=self._mode)

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """Yield a file beside the entry, synced and renamed at the end."""
        self._prepare()
        return replacing(self.path(name), mode=self._mode)

    def get(self, name: str, *, limit: int, what: str) -> bytes:
        """Read the file."""
        return read_limited(self.path(name), limit=limit, what=what)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open the file."""
        with self.local(name) as path, path.open("rb") as stream:
            yield stream

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """Yield the file itself."""
        path = self.path(name)
        if not path.is_file():
            raise KitError(f"`{path}` does not exist")
        yield path

    def has(self, name: str) -> bool:
        """Look for the file."""
        return self.path(name).is_file()

    def names(self) -> list[str]:
        """List the folder."""
        return sorted(path.name for path in self.folder.glob("*")) if self.folder.is_dir() else []

    def delete(self, name: str) -> None:
        """Remove the file or folder."""
        path = self.path(name)
        with os_errors(path):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _prepare(self) -> None:
        if not self._mode & 0o077:
            private_folder(self.folder)
