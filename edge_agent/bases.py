"""Bases at a site: fetched as releases are, chosen for a training, named in what leaves.

Invariants:

- A base is believed because the audit log that this site verified records its publication: its file
  is named by its digest, so a file from anywhere, a stick too, is checked without a line.
- A base that the coordinator withdrew starts no training, and no run trained from it leaves.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edge_agent import contact, installed, repository
from edge_agent.errors import TrustError
from edge_agent.exchange import Source
from edge_agent.home import Home
from edge_agent.trust import World
from federation.release import base as rules
from federation.release.base import Base
from federation.release.statement import FILE_NAMES, Role
from federation.study import Study
from kit import canonical
from kit.errors import KitError
from kit.files import read_document

FILE = FILE_NAMES[Role.INITIAL_WEIGHTS]
MIN_PREFIX = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedBase:
    """What `fetch --base` did."""

    base: str
    study: str
    origin: str
    recipe: dict[str, object]
    bytes_downloaded: int
    withdrawn: tuple[str, ...]
    file: Path


def fetch(
    home: Home,
    study_name: str,
    *,
    got: Callable[[int, int], None],
    tell: Callable[[str], None] = lambda _: None,
) -> FetchedBase:
    """Bring the newest base of a study here, after checking everything about it.

    Raises:
        KitError: there is none, the download is not what was signed, or the disk is full.
        TrustError: the coordinator contradicts what it proved before.
    """
    return installed.brought(home, study_name, install, got=got, tell=tell)


def install(
    home: Home,
    study_name: str,
    world: World,
    source: Source,
    *,
    got: Callable[[int, int], None],
    now: datetime,
) -> FetchedBase:
    """Keep the newest base of a study in a verified world, with bytes from `source`.

    Raises:
        KitError: there is none, or its bytes are not what was signed.
        RepositoryError: the repository does not list it, or is out of date.
    """
    study = home.study(study_name)
    gone = installed.remove_withdrawn(home, world)
    offer = installed.newest(home, study, world, is_base=True)
    repository.require_listed(home, offer.release, now=now)
    downloaded = installed.download(home, source, offer, offer.release.model, got)
    path = installed.folder_of(home, offer.release.digest) / FILE
    found = _read(path)
    _check_study(found, study)
    return FetchedBase(
        base=found.digest,
        study=study.id,
        origin=found.manifest.origin,
        recipe=found.manifest.recipe,
        bytes_downloaded=downloaded,
        withdrawn=gone,
        file=path,
    )


def choose(home: Home, study: Study, named: str, *, tell: Callable[[str], None]) -> Base | None:
    """Return the base that `train --base` names: the first digits of a fetched one, or a file.

    Raises:
        KitError: there is none, it is another study's, or the coordinator withdrew it.
    """
    if not named:
        return None
    path = _path(home, named)
    found = _read(path)
    _check_study(found, study)
    digest = found.digest
    if path.parent.parent == home.releases and path.parent.name != digest:
        raise KitError(
            f"the base `{path.parent.name[:16]}` was altered",
            hint="run `edge-agent fetch --base` again and find out who wrote to this machine",
        )
    require_in_use(home, digest)
    manifest = found.manifest
    origin = f"{manifest.origin} images, {_figures(manifest.recipe)}"
    tell(f"starts from base `{digest[:16]}`: public, {origin}; it costs no privacy budget")
    if not _is_logged(home, digest):
        tell(
            f"warning: the audit log as this site knows it records no base `{digest[:16]}`: unless"
            " the coordinator publishes it, what is trained from it will be refused"
        )
    return found


def require_in_use(home: Home, digest: str | None) -> None:
    """Check that a base was not withdrawn, as far as this site knows.

    Raises:
        KitError: it was.
    """
    known = contact.known(home)
    if digest is not None and known is not None and digest in known.withdrawn_releases:
        raise KitError(
            f"base `{digest[:16]}` is withdrawn, and with it what was trained from it",
            hint="train a new run, from another base or none",
        )


def _path(home: Home, named: str) -> Path:
    path = Path(named)
    if path.is_file():
        return path
    if len(named) >= MIN_PREFIX and set(named) <= set("0123456789abcdef"):
        found = sorted(home.releases.glob(f"{named}*/{FILE}"))
        if len(found) == 1:
            return found[0]
    raise KitError(
        f"there is no base `{canonical.printable(named)}` here",
        hint=f"give a file, or at least {MIN_PREFIX} first digits of one that `edge-agent fetch"
        " --base` brought",
    )


def _read(path: Path) -> Base:
    return read_document(
        path,
        Base.from_bytes,
        limit=rules.MAX_BYTES,
        what="base",
        hint="it is what `edge-agent fetch --base` or `coordinator base make` wrote",
    )


def _check_study(found: Base, study: Study) -> None:
    if found.manifest.study != study.digest:
        raise KitError(
            f"the base `{found.digest[:16]}` was made for another study than `{study.id}`",
            hint="its pseudo-classes and image shape are that study's",
        )


def _is_logged(home: Home, digest: str) -> bool:
    """Say whether the log that this site last verified records the publication."""
    try:
        history = contact.log_view(home).history
    except TrustError:  # no contact yet: nothing is known
        return False
    return history.releases.get(digest) is False


def _figures(recipe: dict[str, object]) -> str:
    return ", ".join(f"{name} {canonical.printable(recipe[name])}" for name in sorted(recipe))
