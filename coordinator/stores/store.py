"""What a store offers; names are `NAME` or `FOLDER/NAME`, of digests and suffixes."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol


class Store(Protocol):
    """Entries by name, each whole or absent."""

    def put(self, name: str, data: bytes) -> None:
        """Keep `data`; an entry of this name is replaced.

        Raises:
            KitError: the store is full or cannot be reached.
        """

    def writing(self, name: str) -> AbstractContextManager[Path]:
        """Yield an empty file of this machine to fill; at the end of the block it is the entry.

        Raises:
            KitError: the store is full or cannot be reached.
        """

    def get(self, name: str, *, limit: int, what: str) -> bytes:
        """Return an entry of at most `limit` bytes.

        Raises:
            KitError: there is none, it is larger, or the store cannot be reached.
        """

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open an entry to read it from any offset.

        Raises:
            KitError: there is none, or the store cannot be reached.
        """

    def local(self, name: str) -> AbstractContextManager[Path]:
        """Yield an entry as a file of this machine, a copy of it if it lies elsewhere.

        Raises:
            KitError: there is none, or the store cannot be reached.
        """

    def has(self, name: str) -> bool:
        """Say whether there is an entry of this name.

        Raises:
            KitError: the store cannot be reached.
        """

    def names(self) -> list[str]:
        """Return what lies at the top: entries, folders of entries, and parts of dead writers.

        Raises:
            KitError: the store cannot be reached.
        """

    def delete(self, name: str) -> None:
        """Delete an entry or a whole folder of them; nothing happens if it is gone already.

        Raises:
            KitError: the store cannot be reached.
        """
