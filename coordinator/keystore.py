"""The key store: small secrets whose destruction makes everything sealed under them unreadable.

One file per secret, 0600, sealed if the home has a passphrase. It stands outside ordinary backups
(A4): a backup of the rest of the home restores nothing that was destroyed here.
"""

import os
from contextlib import suppress
from pathlib import Path

from coordinator.errors import NotFoundError
from kit import canonical
from kit.files import os_errors
from pki import keys

SECRET_BYTES = 32


class KeyStore:
    """Secrets by kind (`recipient`, `blueprint`) and digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self, kind: str, digest: str) -> bytes:
        """Make and keep a fresh secret; returns it (sensitive)."""
        secret = os.urandom(SECRET_BYTES)
        self.put(kind, digest, secret)
        return secret

    def put(self, kind: str, digest: str, secret: bytes) -> None:
        """Keep a secret."""
        keys.write_secret(self._path(kind, digest), secret)

    def get(self, kind: str, digest: str) -> bytes:
        """Return a secret (sensitive).

        Raises:
            NotFoundError: it was destroyed or never existed.
        """
        path = self._path(kind, digest)
        if not path.is_file():
            raise NotFoundError(f"the {kind} key of `{digest[:16]}` is not in the key store")
        return keys.read_secret(path, limit=SECRET_BYTES)

    def has(self, kind: str, digest: str) -> bool:
        """Say whether a secret is here."""
        return self._path(kind, digest).is_file()

    def digests(self, kind: str) -> set[str]:
        """Return the digests of every secret of a kind."""
        names = (path.stem for path in self._folder.glob(f"{kind}-*.key"))
        return {name.removeprefix(f"{kind}-") for name in names}

    def destroy(self, kind: str, digest: str) -> None:
        """Overwrite and remove a secret; nothing happens if it is gone already.

        A server and a command line may both find the same secret due; either may finish first.
        """
        path = self._path(kind, digest)
        with os_errors(path), suppress(FileNotFoundError):
            with path.open("r+b") as stream:
                stream.write(os.urandom(path.stat().st_size))
                stream.flush()
                os.fsync(stream.fileno())
            path.unlink()

    def _path(self, kind: str, digest: str) -> Path:
        return self._folder / f"{kind}-{canonical.sha256_hex(digest)}.key"
