"""Private keys by content: what a file holds in clear, whatever it is called and wherever it lies.

Found are PEM blocks (PKCS #8, SEC 1 and OpenSSH; also inside a larger file such as a tar archive,
or with escaped line ends as in JSON), the DER forms of Ed25519 (RFC 8410) and P-256 (RFC 5915)
keys anywhere in a file, and a bare 32-byte secret. Not found: what is compressed, encrypted or
encoded in another way.
"""

import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

MAX_FILE_BYTES = 1 << 20  # of one file that is looked into: payloads and models are larger
MAX_TOTAL_BYTES = 64 << 20
MAX_FILES = 100_000
SECRET_BYTES = 32

_BEGIN = re.compile(rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----")
_END = re.compile(rb"-----END [A-Z ]{0,20}PRIVATE KEY-----")
_ED25519 = bytes.fromhex("06032b657004220420")  # RFC 8410: the algorithm, then the secret
_P256 = bytes.fromhex("0201010420")  # RFC 5915: version 1, then the secret

_log = logging.getLogger(__name__)


def small_files(folder: Path, *, never: Iterable[Path] = ()) -> list[Path]:
    """Return every readable file of up to 1 MiB under a folder, smallest first, links followed.

    At most 100,000 files, and 64 MiB of them together; a warning says when that left any out.

    `never` are files not to be opened, under whatever name: a database of this process. To close
    any descriptor of one drops the process's POSIX locks on it (fcntl(2)), and the next process
    takes the database for its own.
    """
    found: list[tuple[int, Path]] = []
    seen: set[tuple[int, int]] = set()
    spared = {place for place in map(_place, never) if place is not None}
    for where, folders, names in os.walk(folder, followlinks=True):
        place = _place(Path(where))
        if place is None or place in seen or len(found) >= MAX_FILES:  # a link back up, or enough
            folders.clear()
            continue
        seen.add(place)
        found += _candidates(Path(where), names, spared)
    total, kept = 0, []
    for size, path in sorted(found)[:MAX_FILES]:
        total += size
        if total > MAX_TOTAL_BYTES:
            break
        kept.append(path)
    if len(kept) < len(found) or len(found) >= MAX_FILES:
        _log.warning("only the %d smallest files of %s were searched for keys", len(kept), folder)
    return kept


def public_keys(data: bytes) -> Iterator[object]:
    """Yield the public half of each private key that bytes hold in clear."""
    for block in _pem_blocks(data.replace(b"\\n", b"\n")):
        with suppress(ValueError, TypeError, UnsupportedAlgorithm):
            yield _load(block).public_key()
    for marker, make in ((_ED25519, _ed25519), (_P256, _p256)):
        for at in _places(data, marker):
            secret = data[at + len(marker) :][:SECRET_BYTES]
            with suppress(ValueError):
                yield make(secret)
    if len(data) == SECRET_BYTES:
        yield _ed25519(data)
        with suppress(ValueError):
            yield _p256(data)


def holds_pem_key(data: bytes) -> bool:
    """Say whether a private key stands there as PEM, encrypted or in clear."""
    return next(_pem_blocks(data), None) is not None


def _place(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _candidates(
    folder: Path, names: list[str], spared: set[tuple[int, int]]
) -> Iterator[tuple[int, Path]]:
    for name in names:
        path = folder / name
        with suppress(OSError):
            status = path.stat()
            is_small = stat.S_ISREG(status.st_mode) and 0 < status.st_size <= MAX_FILE_BYTES
            is_spared = (status.st_dev, status.st_ino) in spared
            if is_small and not is_spared and os.access(path, os.R_OK):
                yield status.st_size, path


def _pem_blocks(data: bytes) -> Iterator[bytes]:
    """Yield what stands between a line that begins a private key and the next that ends one."""
    end = 0
    while (ends := _END.search(data, end)) is not None:
        begins = [*_BEGIN.finditer(data, end, ends.start())]
        end = ends.end()
        if begins:
            yield data[begins[-1].start() : end] + b"\n"


def _places(data: bytes, marker: bytes) -> Iterator[int]:
    at = data.find(marker)
    while at >= 0:
        yield at
        at = data.find(marker, at + 1)


def _load(block: bytes) -> Any:
    if b"OPENSSH" in block:
        return serialization.load_ssh_private_key(block, password=None)
    return serialization.load_pem_private_key(block, password=None)


def _ed25519(secret: bytes) -> object:
    return ed25519.Ed25519PrivateKey.from_private_bytes(secret).public_key()


def _p256(secret: bytes) -> object:
    number = int.from_bytes(secret, "big")
    return ec.derive_private_key(number, ec.SECP256R1()).public_key()
