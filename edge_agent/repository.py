"""The federation's repository as this site last verified it (TUF).

Invariants:

- Metadata that do not hold, or whose time is over, block what is new here (an installation, a
  submission), never what is installed, and never the news of a withdrawal: the audit log and the
  lists that it names are proved without them.
- What a contact brought is kept only once all of it held.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path

from edge_agent.home import Home
from federation.release.statement import FILE_NAMES, Release
from federation.repository import client, metadata, roles
from federation.repository.client import Repository, RepositoryError, StaleError
from federation.repository.metadata import PublicKey
from kit import canonical
from kit.door import note
from kit.files import os_errors, write_atomic
from pki import certificates, keys
from pki.enrolment import Pins

_PROBLEM = "problem.json"  # why the last contact's metadata were not kept


def versions(home: Home) -> dict[str, int]:
    """Return which version of each role is here, for the next request."""
    return client.versions(_kept(home))


def refresh(home: Home, sent: Mapping[str, bytes], *, now: datetime, by_stick: bool) -> None:
    """Take what a contact brought, or note why not; neither stops the contact."""
    folder, problem = _folder(home), ""
    try:
        with _opened(home, sent, now=now, by_stick=by_stick) as found:
            kept = found.kept
        for name in sorted(kept):
            write_atomic(folder / name, kept[name])
    except StaleError as error:  # what is kept has an end of its own
        problem = "" if _kept(home) else str(error)
    except RepositoryError as error:
        problem = str(error)
        note(f"alarm: {problem}")
    if problem:
        write_atomic(folder / _PROBLEM, canonical.encode({"problem": canonical.printable(problem)}))
    else:
        with os_errors(folder):
            (folder / _PROBLEM).unlink(missing_ok=True)


@contextmanager
def fresh(home: Home, *, now: datetime) -> Iterator[Repository]:
    """Yield the repository as of the last contact, for what may only be done while it is fresh.

    Raises:
        StaleError: its time is over.
        RepositoryError: what the last contact brought did not hold.
    """
    require_no_problem(home)
    with _opened(home, {}, now=now, by_stick=True) as found:
        yield found


def require_no_problem(home: Home) -> None:
    """Want what the last contact brought to have held.

    Raises:
        RepositoryError: it did not.
    """
    path = _folder(home) / _PROBLEM
    if path.is_file():
        problem = canonical.decode(home.read(path, "state of the repository"))["problem"]
        raise RepositoryError(
            problem,
            hint="nothing is installed or submitted until a contact brings metadata that hold;"
            " what is installed keeps serving",
        )


def expiries(home: Home) -> dict[str, datetime]:
    """Return when the newest metadata of each role that are kept here end, by role.

    Raises:
        RepositoryError: they do not hold.
    """
    kept = _kept(home)
    newest = client.versions(kept)
    found = {}
    for name, data in kept.items():
        role = name.removesuffix(".json").rpartition(".")[2]
        if metadata.version_of(data) == newest[role]:
            found[role] = metadata.expiry_of(data)
    return found


def require_current(home: Home, files: Mapping[str, bytes], *, now: datetime) -> None:
    """Want the repository to list files (path -> bytes) as they are here.

    Raises:
        RepositoryError: one is missing or another; or as `fresh`.
    """
    with fresh(home, now=now) as found:
        for path, data in files.items():
            _require(found, path, length=len(data), sha256=canonical.digest(data))


def require_listed(home: Home, release: Release, *, now: datetime) -> None:
    """Want every file of a release in the repository, as the release statement signs it.

    Raises:
        RepositoryError: one is missing or another; or as `fresh`.
    """
    with fresh(home, now=now) as found:
        for artefact in release.artefacts:
            path = roles.release(release.digest, FILE_NAMES[artefact.role])
            _require(found, path, length=artefact.length, sha256=artefact.sha256)


def _require(found: Repository, path: str, *, length: int, sha256: str) -> None:
    target = found.target(path)
    if (target.length, target.hashes) != (length, {"sha256": sha256}):
        raise RepositoryError(
            f"the repository lists another file as `{path}` than this site was shown",
            hint="nothing is installed or submitted; ask the coordinator to explain",
        )


def _opened(
    home: Home, sent: Mapping[str, bytes], *, now: datetime, by_stick: bool
) -> AbstractContextManager[Repository]:
    pinned = _pinned(home.pins)
    return client.opened(_kept(home), sent, pinned=pinned, now=now, by_stick=by_stick)


def _pinned(pins: Pins) -> tuple[PublicKey, ...]:
    root = certificates.from_der(pins.root_der).public_key()
    return root, keys.verifying_key(pins.study_key)  # type: ignore[return-value]


def _folder(home: Home) -> Path:
    return home.path / "state" / "repository"


def _kept(home: Home) -> dict[str, bytes]:
    folder = _folder(home)
    paths = sorted(folder.glob("*.json")) if folder.is_dir() else []
    return {p.name: p.read_bytes() for p in paths if p.name != _PROBLEM}
