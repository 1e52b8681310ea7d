"""Reading the repository: python-tuf's client over files that came from anywhere.

Invariants:

- The first root is believed only under both keys that this site pinned, whatever it says itself.
- Everything else is python-tuf's client workflow (TUF section 5): versions never go back, expired
  metadata is refused, a delegated role speaks for its paths alone.
- Nothing is read from a network here: a file that was not handed over is not there (404).
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import SSlibKey
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, TargetFile, Updater, UpdaterConfig

from federation.repository import roles
from federation.repository.metadata import PublicKey
from federation.repository.roles import FIRST_ROOT, MAX_METADATA_BYTES
from kit.errors import KitError

MAX_ROOTS = 64
Files = Mapping[str, bytes]

# The client's own log is for people who debug it; what matters comes as an exception.
logging.getLogger("tuf").setLevel(logging.CRITICAL)


class RepositoryError(KitError):
    """The metadata do not hold: forged, older than what was seen, or not whole."""


class StaleError(RepositoryError):
    """The metadata hold, but their time is over."""


class _Handed(FetcherInterface):
    """python-tuf's transport over files that are here already."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix("/")
        if name not in self._files:
            raise tuf_errors.DownloadHTTPError(f"`{name}` was not sent", 404)
        return iter((self._files[name],))


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """Verified metadata, as of one moment.

    Attributes:
        kept: the files to keep for the next time, by the names they are kept under.
        expires: when the first of them ends.
        version: of the timestamp.
        find: returns what is signed about a path, or None if nothing is.
    """

    kept: dict[str, bytes]
    expires: datetime
    version: int
    find: Callable[[str], TargetFile | None]

    def target(self, path: str) -> TargetFile:
        """Return what is signed about a path.

        Raises:
            RepositoryError: nothing is: it was never published, or it was withdrawn.
        """
        found = self.find(path)
        if found is None:
            raise RepositoryError(
                f"the repository does not list `{path}`",
                hint="it was withdrawn or is not published yet; run the command again later",
            )
        return found


@contextmanager
def opened(
    kept: Files,
    sent: Files,
    *,
    pinned: tuple[PublicKey, ...],
    now: datetime,
    by_stick: bool,
) -> Iterator[Repository]:
    """Verify what was sent against what is kept, for the length of a block.

    Args:
        kept: files of the last time (`Repository.kept`); empty at the first.
        sent: files as the repository names them; what is kept need not be sent again.
        pinned: the keys that the first root must bear, all of them.
        now: the time.
        by_stick: whether a stick brought them.

    Raises:
        StaleError: they hold, but their time is over.
        RepositoryError: they do not hold.
    """
    first = kept.get(FIRST_ROOT) or sent.get(FIRST_ROOT)
    if first is None:
        raise RepositoryError(
            "the coordinator sent no repository metadata",
            hint="it is of an earlier version, or its operator has to run `coordinator repository"
            " sign`",
        )
    with tempfile.TemporaryDirectory(prefix="tuf-") as name, _errors():
        check_first(first, pinned)
        folder = Path(name)
        _lay_out(folder, kept)
        available = {**_as_served(kept), **sent}
        config = UpdaterConfig(
            max_root_rotations=MAX_ROOTS,
            snapshot_max_length=MAX_METADATA_BYTES,
            targets_max_length=MAX_METADATA_BYTES,
        )
        client: Any = Updater(
            str(folder), "/", fetcher=_Handed(available), config=config, bootstrap=first
        )
        client._trusted_set.reference_time = now  # the caller's clock: one time for one command
        client.refresh()
        for paths in roles.DELEGATED.values():
            client.get_targetinfo(paths[0])  # loads the role that speaks for it
        trusted = client._trusted_set
        _check_carriage(trusted.timestamp, by_stick=by_stick)
        yield Repository(
            kept=_collect(folder),
            expires=min(signed.expires for signed in trusted),
            version=trusted.timestamp.version,
            find=client.get_targetinfo,
        )


def check_first(data: bytes, pinned: tuple[PublicKey, ...]) -> None:
    """Want the first root under every pinned key: whoever holds one of them alone makes none.

    Raises:
        RepositoryError: it is off, or a pinned key is not among its root keys or did not sign.
    """
    try:
        found = Metadata[Root].from_bytes(data)
        role, signed = found.signed.roles["root"], found.signed_bytes
        if found.signed.version != 1 or role.threshold != len(pinned):
            raise RepositoryError("the first root of the repository is not the pinned keys'")
        for key in pinned:
            expected = SSlibKey.from_crypto(key)
            if expected.keyid not in role.keyids or expected.keyid not in found.signatures:
                raise RepositoryError(
                    "the first root of the repository is not the pinned keys'",
                    hint="do not submit, and ask the coordinator's auditor to explain",
                )
            expected.verify_signature(found.signatures[expected.keyid], signed)
    except (DeserializationError, UnverifiedSignatureError, VerificationError) as error:
        raise RepositoryError("the first root of the repository is not signed as pinned") from error


def versions(kept: Files) -> dict[str, int]:
    """Return which version of each role is kept, so that it is not sent again."""
    found: dict[str, int] = {}
    for name, data in kept.items():
        role = name.removesuffix(".json").rpartition(".")[2]
        signed = Metadata.from_bytes(data).signed
        found[role] = max(found.get(role, 0), signed.version)
    return found


def _check_carriage(signed: Timestamp, *, by_stick: bool) -> None:
    is_stick = signed.unrecognized_fields.get(roles.CARRIAGE) == roles.STICK
    if is_stick and not by_stick:
        raise RepositoryError(
            "the coordinator answers with metadata that were made for a stick",
            hint="they live for weeks, and could hide what happened since",
        )


def _lay_out(folder: Path, kept: Files) -> None:
    """Write kept files as python-tuf's client keeps them."""
    (folder / "root_history").mkdir()
    for name, data in kept.items():
        place = folder / "root_history" if name.endswith(".root.json") else folder
        (place / name).write_bytes(data)


def _collect(folder: Path) -> dict[str, bytes]:
    paths = [*folder.glob("root_history/*.json"), *folder.glob("*.json")]
    return {path.name: path.read_bytes() for path in paths if not path.is_symlink()}


def _as_served(kept: Files) -> dict[str, bytes]:
    """Return kept files under the names of the repository: unchanged ones are not sent again."""
    found = {}
    for name, data in kept.items():
        role = name.removesuffix(".json").rpartition(".")[2]
        signed = Metadata.from_bytes(data).signed
        found[roles.file_name(role, signed.version)] = data
    return found


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except KitError:
        raise
    except tuf_errors.ExpiredMetadataError as error:
        raise StaleError(
            f"the repository's metadata are out of date: {error}",
            hint="nothing is installed or submitted by them; what is installed keeps serving",
        ) from error
    except (tuf_errors.RepositoryError, tuf_errors.DownloadError, DeserializationError) as error:
        raise RepositoryError(
            f"the repository's metadata do not hold: {type(error).__name__}: {error}",
            hint="nothing is installed or submitted by them; ask the coordinator to explain",
        ) from error
