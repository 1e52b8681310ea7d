"""A build's synthetic images on the disk while a classifier is trained on them.

Training asks for images of every shard in every batch. Kept in memory they would need as much of it
as there are blueprints; here each lies in a file without a name, sealed under a key that this
process draws, holds in memory and never writes: when the process ends, nothing is left to read.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from kit.errors import KitError
from kit.files import os_errors, private_folder

_KEY_BITS, _TAG_BYTES = 256, 16
_NONCE_BYTES = 12  # an image's number; a key seals every number once


class Spool:
    """Images of one shape, written once and read by number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with os_errors(folder):
            self._file = tempfile.TemporaryFile(dir=private_folder(folder))  # noqa: SIM115
        self._key, self._count = AESGCM(AESGCM.generate_key(_KEY_BITS)), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, images: NDArray[np.uint8]) -> "Stored":
        """Write [M, C, H, W] images; returns them as they are read."""
        first = self._count
        with os_errors(self._folder):
            for image in images:
                nonce = self._count.to_bytes(_NONCE_BYTES)
                self._file.write(self._key.encrypt(nonce, image.tobytes(), None))
                self._count += 1
            self._file.flush()
        return Stored(self, first, images.shape)

    def read(self, number: int, length: int) -> bytes:
        """Return one image's `length` bytes.

        Raises:
            KitError: the file was altered.
        """
        sealed = length + _TAG_BYTES
        with os_errors(self._folder):
            data = os.pread(self._file.fileno(), sealed, number * sealed)
        try:
            return self._key.decrypt(number.to_bytes(_NONCE_BYTES), data, None)
        except InvalidTag as error:
            raise KitError(
                "an image of this build was altered on the disk",
                hint="look for who else writes to the disk of the coordinator's home; build again",
            ) from error


class Stored:
    """One shard in a spool: read by index, as an array is."""

    def __init__(self, spool: Spool, first: int, shape: tuple[int, ...]) -> None:
        self._spool, self._first, self.shape = spool, first, shape
        self._bytes = int(np.prod(shape[1:]))

    def __getitem__(self, index: NDArray[np.int64], /) -> NDArray[Any]:
        """Return the images at these positions."""
        data = b"".join(self._spool.read(self._first + int(i), self._bytes) for i in index)
        return np.frombuffer(data, dtype=np.uint8).reshape(len(index), *self.shape[1:])
