"""The offline keys: the root's, the study key, and the first reviewer's (A16).

`init` writes them into a folder of their own, beside the home or where the operator says, and no
file of the home can sign in their place: what works without them is what they signed for. A
production federation serves only once they have left (`coordinator.ceremony`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from coordinator.errors import NotFoundError, StateError
from coordinator.home import Home
from kit.files import private_folder, write_atomic
from pki import keys
from pki.errors import IdentityError

ROOT, STUDY = "root.key", "study.key"
STUDY_PUBLIC = "study.pem"
WHAT = {ROOT: "the root key", STUDY: "the study key"}

_Key = TypeVar("_Key", keys.TlsKey, keys.SigningKey)


def default_folder(home: Path) -> Path:
    """Return where `init` puts the offline keys unless it is told: beside the home, not in it."""
    home = home.absolute()
    return home.with_name(f"{home.name}-roots")


def folder_of(home: Home) -> Path:
    """Return where `init` wrote the offline keys of this home."""
    return Path(home.config.roots) if home.config.roots else default_folder(home.path)


def reviewer_file(name: str) -> str:
    """Return the name of a reviewer's key file."""
    return f"reviewer-{name}.key"


def outside(folder: Path, home: Path) -> Path:
    """Return an absolute folder if it lies outside the home at `home`.

    Raises:
        StateError: it does not.
    """
    folder = folder.absolute()
    if folder.resolve().is_relative_to(home.resolve()):
        raise StateError(f"`{folder}` lies in the home", hint="give a folder of its own to --roots")
    return folder


def fresh(folder: Path, home: Path, *, reviewer: str) -> Path:
    """Return an absolute folder that may take the offline keys of a new home at `home`.

    Raises:
        StateError: it lies in the home, or holds such keys already.
    """
    folder = outside(folder, home)
    for name in (ROOT, STUDY, reviewer_file(reviewer)):
        if (folder / name).exists():
            raise StateError(
                f"`{folder / name}` exists already",
                hint="one folder per federation: another --roots",
            )
    return folder


def root_key(home: Home, folder: Path | None, *, certificate: x509.Certificate) -> keys.TlsKey:
    """Return the root's key from the folder that was brought.

    Raises:
        NotFoundError: it is not there.
        IdentityError: it is another federation's, or cannot be opened.
    """
    key = _load(home, folder, ROOT, keys.load_tls)
    if key.public_key() != certificate.public_key():
        raise _foreign(home, folder, ROOT)
    return key


def study_key(home: Home, folder: Path | None) -> keys.SigningKey:
    """Return the study key from the folder that was brought.

    Raises: as `root_key`.
    """
    key = _load(home, folder, STUDY, keys.load_signing)
    if keys.public_bytes(key) != study_public(home):
        raise _foreign(home, folder, STUDY)
    return key


def study_public(home: Home) -> bytes:
    """Return the public half of the study key (32 bytes), which every site pins.

    Raises:
        StateError: the home is from before the offline keys had a folder of their own, and the
            study key is not in it any more either.
    """
    path = home.certificate(STUDY_PUBLIC)
    if path.is_file():
        return keys.load_public(path)
    old = home.key(STUDY)
    if not old.is_file():
        raise StateError(
            f"the home lacks `certificates/{STUDY_PUBLIC}`", hint="restore `certificates` whole"
        )
    return keys.public_bytes(keys.load_signing(old))


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner enters; one that is there stays as it is.

    Raises:
        KitError: it cannot be made.
    """
    if not folder.is_dir():
        private_folder(folder)


def publish(home: Home, *, study: bytes, reviewers: dict[str, bytes]) -> None:
    """Keep the public halves of what goes offline (32 bytes each) where the certificates are."""
    write_atomic(home.certificate(STUDY_PUBLIC), keys.public_pem(study))
    for name, public in reviewers.items():
        write_atomic(home.certificate(_reviewer_public(name)), keys.public_pem(public))


def reviewers(home: Home) -> dict[str, bytes]:
    """Return the public keys (32 bytes) of the reviewers whom `init` made keys for, by name."""
    found = sorted(home.certificate("").glob(_reviewer_public("*")))
    return {path.stem.removeprefix("reviewer-"): keys.load_public(path) for path in found}


def _reviewer_public(name: str) -> str:
    return f"reviewer-{name}.pem"


def _load(home: Home, folder: Path | None, name: str, load: Callable[[Path], _Key]) -> _Key:
    path = (folder_of(home) if folder is None else folder.absolute()) / name
    if not path.is_file():
        inside = home.key(name)
        if inside.is_file():
            raise StateError(
                f"{WHAT[name]} still lies in the home, at `{inside}`",
                hint=f"run `coordinator keys separate --home {home.path}` first",
            )
        raise NotFoundError(
            f"{WHAT[name]} is not at `{path}`",
            hint=f"bring the medium that holds `{name}`, and give its folder with --roots",
        )
    return load(path)


def _foreign(home: Home, folder: Path | None, name: str) -> IdentityError:
    where = folder_of(home) if folder is None else folder
    return IdentityError(
        f"`{where / name}` is not {WHAT[name]} of this federation",
        hint=f"bring the medium of federation `{home.config.federation}`",
    )
