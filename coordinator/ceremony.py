"""Whether the offline keys have left this machine, as far as it can see (A16).

A production federation, one of any name but `demo`, serves only once no readable private half of
the root or the study key is found: anywhere in the home, by content and under whatever name (see
`coordinator.keyfinder` for the forms and bounds), and in key files (`.key`, `.pem`) beside it or
where `init` wrote them. A copy elsewhere on the machine, one that another user alone can read, one
that is compressed, and a sealed one under another name are not found: this is a check against
forgetting, not against hiding.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from coordinator import keyfinder
from coordinator.errors import StateError
from coordinator.home import Home
from coordinator.roots import (
    ROOT,
    STUDY,
    WHAT,
    default_folder,
    folder_of,
    reviewer_file,
    reviewers,
    study_public,
)
from kit.errors import KitError
from kit.files import read_limited
from pki import certificates, keys, protecting, protection, tokens
from pki.identity import DEMO_FEDERATION
from pki.protecting import KeyFile

AWAY = "away"
MAX_FILES = 10_000  # of one folder, that are looked at
_MAX_CERTIFICATE_BYTES = 64 * 1024
_SUFFIXES = (".key", ".pem")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One offline key that this process could read, and where."""

    name: str
    path: Path


def require_separated(home: Home) -> None:
    """Refuse to serve while an offline key can be read from here.

    A demo federation serves on loopback only, so there it may lie beside the home; in the home,
    never.

    Raises:
        StateError: one can; the message says which file.
    """
    inside = next(_seen(home, _in(home)), None)
    if inside is not None:
        raise StateError(
            f"`{inside.path}` is {WHAT[inside.name]}, in the home of the coordinator",
            hint=_way_out(home, inside.path),
        )
    if home.config.federation == DEMO_FEDERATION:
        return
    found = still_here(home)
    if found:
        raise StateError(
            f"`{found[0].path}` is {WHAT[found[0].name]}, and this machine can read it",
            hint=f"move `{found[0].path.parent}` to a medium and take that out; commands that need"
            " it then take --roots DIR. Only a federation called `demo` serves beside its roots",
        )


def _way_out(home: Home, path: Path) -> str:
    if path.parent == home.key(path.name).parent and path.name in WHAT:
        return (
            f"run `coordinator keys separate --home {home.path}`: it moves what must be offline to"
            " a folder of its own"
        )
    return "if it is kept offline as well, remove this copy (`shred -u`); else move it there first"


def still_here(home: Home) -> list[Seen]:
    """Return every offline key found in the home, beside it, or where `init` wrote it.

    A sealed file is known by its name only, so it counts in those three places and not in every
    folder beside the home; a clear one is compared with the public keys, whatever it is called.
    """
    found = {seen.path: seen for seen in _seen(home, _in_or_at(home))}
    for seen in _seen(home, _beside(home), sealed=False):
        found.setdefault(seen.path, seen)
    return list(found.values())


def inventory(home: Home) -> list[KeyFile]:
    """Say how each offline key is kept where `init` wrote it; `away` if it is not there to be read.

    Opens none.
    """
    folder = folder_of(home)
    names = (ROOT, STUDY, *map(reviewer_file, reviewers(home)))
    return [_kept(folder / name) for name in names if not home.key(name).is_file()]


def _kept(path: Path) -> KeyFile:
    if not os.access(path, os.R_OK):
        return KeyFile(name=str(path), kept=AWAY, mode="-")
    mode = f"{path.stat().st_mode & 0o777:04o}"
    return KeyFile(name=str(path), kept=protecting.how_kept(path), mode=mode)


def same_key(one: Path, other: Path) -> bool:
    """Say whether two files hold one private key; opens both."""
    return keys.public_of(one) == keys.public_of(other)


def _in(home: Home) -> list[Path]:
    return keyfinder.small_files(home.path, never=home.database_files)


def _in_or_at(home: Home) -> Iterator[Path]:
    yield from _in(home)
    yield from _files(folder_of(home))
    yield from _files(default_folder(home.path))


def _beside(home: Home) -> Iterator[Path]:
    yield from _files(home.path.parent)
    with suppress(OSError):
        for folder in islice(sorted(home.path.parent.iterdir()), MAX_FILES):
            if folder.is_dir() and folder != home.path:
                yield from _files(folder)


def _seen(home: Home, files: Iterable[Path], *, sealed: bool = True) -> Iterator[Seen]:
    publics = _publics(home)
    for path in files:
        name = _which(path, publics, sealed=sealed)
        if name is not None:
            yield Seen(name=name, path=path)


def _files(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        for path in islice(sorted(folder.iterdir()), MAX_FILES):
            if path.suffix in _SUFFIXES and path.is_file() and os.access(path, os.R_OK):
                yield path


def _which(path: Path, publics: dict[str, object], *, sealed: bool) -> str | None:
    """Return which offline key a file holds, if any; a reference to a token is no private key."""
    try:
        data = read_limited(path, limit=keyfinder.MAX_FILE_BYTES, what="key")
    except (KitError, OSError):
        return None
    if tokens.is_reference(data):
        return None
    named = path.name if path.name in publics else None
    if protection.is_sealed(data):
        return named if sealed else None
    for public in keyfinder.public_keys(data):
        for name, known in publics.items():
            if known == public:
                return name
    unread = keyfinder.holds_pem_key(data) and not any(keyfinder.public_keys(data))
    return named if unread else None


def _publics(home: Home) -> dict[str, object]:
    path = home.certificate("root.pem")
    root = certificates.from_pem(
        read_limited(path, limit=_MAX_CERTIFICATE_BYTES, what="certificate")
    )[0]
    return {ROOT: root.public_key(), STUDY: keys.verifying_key(study_public(home))}
