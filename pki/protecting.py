"""Putting a home's private keys under a passphrase, changing it, and saying how each is kept.

Invariants:

- A crash leaves every key readable: in clear or sealed, never half. The same command goes on.
- A new passphrase is one atomic replacement of one file.
- A key that is made to leave its home (`portable`) carries its own protection.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kit.files import os_errors, private_folder, read_limited, write_secret
from pki import keys, protection, tokens, unlocking
from pki.errors import IdentityError
from pki.protection import Protection

CLEAR, SEALED, ALONE, TOKEN = "clear", "home passphrase", "own passphrase", "token"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """One private key or secret of a home, and what stands between it and a thief of the disk."""

    name: str
    kept: str
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Protected:
    """What `protect` did."""

    home: str
    sealed_now: int
    sealed_before: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a home's secrets lie: folders below `home`, and which file names are portable."""

    home: Path
    folders: tuple[str, ...]
    portable: tuple[str, ...] = ()

    def files(self) -> Iterator[Path]:
        """Yield every secret's file, what a crash left of one included."""
        for name in self.folders:
            folder = self.home / name
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.is_file() and (".key" in path.name or ".secret" in path.name):
                    yield path

    def is_portable(self, path: Path) -> bool:
        """Say whether this key will leave the home one day."""
        return any(path.match(pattern) for pattern in self.portable)


def inventory(place: Place) -> list[KeyFile]:
    """Say how each secret of a home is kept; opens none."""
    return [
        KeyFile(
            name=str(path.relative_to(place.home)),
            kept=how_kept(path),
            mode=f"{path.stat().st_mode & 0o777:04o}",
        )
        for path in place.files()
    ]


def how_kept(path: Path) -> str:
    """Say what protects the secret in a file."""
    data = _read(path)
    if tokens.is_reference(data):
        return TOKEN
    if not protection.is_sealed(data):
        return CLEAR
    return ALONE if isinstance(protection.protection_of(data), Protection) else SEALED


def begin(home: Path, new: Callable[[], str]) -> str:
    """Give a home a protection if it has none; returns its passphrase (sensitive).

    Everything that `pki.keys` writes there afterwards is sealed from its first byte on.

    Raises:
        WrongPassphraseError: the home has one, and what is on offer does not open it.
        IdentityError: the passphrase is missing or too short.
    """
    file = home / protection.FILE
    if file.is_file():
        return unlocking.passphrase(_protection(file), f"the keys in `{home}`")
    chosen = new()
    fresh, key = Protection.create(chosen)
    unlocking.remember(fresh, key)
    write_secret(private_folder(home) / protection.FILE, fresh.to_bytes())
    return chosen


def protect(place: Place, new: Callable[[], str]) -> Protected:
    """Seal every secret of a home under its passphrase; `new` is asked for one the first time.

    The clear files are overwritten before they are let go; a flash disk may still hold their
    blocks for a while.

    Raises: as `begin`.
    """
    passphrase = begin(place.home, new)
    found = _protection(place.home / protection.FILE)
    key = unlocking.sealing_key(found, f"the keys in `{place.home}`")
    counts = {True: 0, False: 0}
    for path in place.files():
        if path.name.startswith("."):
            shred(path)  # what a crash left of a key that is there in its place, or nowhere
            continue
        data = _read(path)
        is_clear = not (protection.is_sealed(data) or tokens.is_reference(data))
        counts[is_clear] += 1
        if is_clear and place.is_portable(path):
            _replace(path, protection.seal_alone(data, passphrase))
        elif is_clear:
            _replace(path, protection.seal(data, key, home=found.id))
    return Protected(home=str(place.home), sealed_now=counts[True], sealed_before=counts[False])


def protect_file(path: Path, new: Callable[[], str]) -> None:
    """Seal one key file that travels alone.

    Raises:
        IdentityError: it is sealed already, or the passphrase is too short.
    """
    data = _read(path)
    if protection.is_sealed(data):
        raise IdentityError(
            f"key `{path}` is sealed already", hint="`keys passphrase` changes its passphrase"
        )
    _replace(path, protection.seal_alone(data, new()))


def copy_to_travel(home: Path, path: Path, target: Path) -> None:
    """Copy a key out of its home: in clear if it lay so, else under a passphrase of its own.

    That is the home's, until `keys passphrase --key` gives it another.

    Raises:
        IdentityError: the home's passphrase is missing or wrong.
    """
    data = _read(path)
    if protection.is_sealed(data) and isinstance(protection.protection_of(data), str):
        own = unlocking.passphrase(_protection(home / protection.FILE), f"the keys in `{home}`")
        data = protection.seal_alone(keys.read_secret(path), own)
    write_secret(target, data)


def change(home: Path, new: Callable[[], str]) -> None:
    """Put a home's keys under another passphrase, at once or not at all.

    An old copy of the home still opens with the old passphrase.

    Raises:
        IdentityError: the home has no passphrase; or the old one is missing, wrong; or the new
            one is too short.
    """
    file = home / protection.FILE
    if not file.is_file():
        raise IdentityError(f"`{home}` has no passphrase", hint="run `keys protect` first")
    found = _protection(file)
    unlocking.passphrase(found, f"the keys in `{home}`")  # even if this process has the key
    key = unlocking.sealing_key(found, f"the keys in `{home}`")
    write_secret(file, found.rewrap(key, new()).to_bytes())


def change_file(path: Path, new: Callable[[], str]) -> None:
    """Put one key file that travels alone under another passphrase. Raises as `change`."""
    data = _read(path)
    own = protection.protection_of(data) if protection.is_sealed(data) else None
    if not isinstance(own, Protection):
        raise IdentityError(
            f"key `{path}` has no passphrase of its own", hint="run `keys protect` first"
        )
    secret = keys.read_secret(path)
    write_secret(path, protection.seal_alone(secret, new()))


def _protection(file: Path) -> Protection:
    data = read_limited(file, limit=protection.MAX_PROTECTION_BYTES, what="protection")
    return Protection.from_bytes(data)


def _read(path: Path) -> bytes:
    return read_limited(path, limit=protection.MAX_SEALED_BYTES, what="key")


def _replace(path: Path, sealed: bytes) -> None:
    """Put the sealed bytes in place, then overwrite the clear ones through the old file."""
    with os_errors(path), path.open("r+b") as clear:
        write_secret(path, sealed)
        _overwrite(clear.fileno())


def shred(path: Path) -> None:
    """Overwrite a secret's file and remove it; a flash disk may keep its blocks for a while."""
    with os_errors(path), suppress(FileNotFoundError):
        with path.open("r+b") as stream:
            _overwrite(stream.fileno())
        path.unlink()


def _overwrite(descriptor: int) -> None:
    os.pwrite(descriptor, os.urandom(os.fstat(descriptor).st_size), 0)
    os.fsync(descriptor)
