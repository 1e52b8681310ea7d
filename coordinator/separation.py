"""Moving the offline keys out of a home of an early version, which kept them inside (A16).

Interrupted anywhere, the same command goes on: a key is copied, its public half kept, and only then
is the original overwritten and removed.
"""

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from coordinator import ceremony, delegations, recipients, roots, state
from coordinator.context import Coordinator
from coordinator.errors import NotFoundError
from coordinator.state import SERVE_LOCK
from federation.study import Study
from kit.errors import FormatError
from kit.files import exclusive
from pki import keys, protecting

_REVIEWERS = "reviewer-*.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Separated:
    """What `keys separate` did."""

    roots: Path
    moved: tuple[str, ...]
    delegated: tuple[str, ...]


def separate(coordinator: Coordinator, folder: Path | None) -> Separated:
    """Move root, study and reviewers' keys from `keys/` to a folder of their own.

    Every open study without one gets a delegation, since its recipient keys were signed by the
    study key itself. Studies, pins and sites stay as they are.

    Raises:
        NotFoundError: none of them is in the home.
        KitError: a server runs on it, or the folder cannot take them.
    """
    home = coordinator.home
    busy = "a `coordinator serve` runs on this home"
    with exclusive(home.path / SERVE_LOCK, busy=busy, hint="stop it first"):
        inside = _inside(coordinator)
        if not inside:
            raise NotFoundError(
                "no offline key lies in this home",
                hint=f"`coordinator init` wrote them to `{roots.folder_of(home)}`",
            )
        target = roots.outside(folder or roots.folder_of(home), home.path)
        roots.make_folder(target)
        _publish(coordinator, inside)
        done = _delegate(coordinator)
        for path in inside:
            _move(home.path, path, target / path.name)
    return Separated(roots=target, moved=tuple(p.name for p in inside), delegated=done)


def _inside(coordinator: Coordinator) -> list[Path]:
    folder = coordinator.home.key("").parent / "keys"
    named = [folder / name for name in (roots.ROOT, roots.STUDY)]
    return [*(path for path in named if path.is_file()), *sorted(folder.glob(_REVIEWERS))]


def _publish(coordinator: Coordinator, inside: list[Path]) -> None:
    people = {
        path.stem.removeprefix("reviewer-"): keys.public_bytes(keys.load_signing(path))
        for path in inside
        if path.match(_REVIEWERS)
    }
    roots.publish(coordinator.home, study=coordinator.study_public, reviewers=people)


def _delegate(coordinator: Coordinator) -> tuple[str, ...]:
    path, done = coordinator.home.key(roots.STUDY), []
    if not path.is_file():
        return ()
    signer = keys.load_signing(path)
    with coordinator.write() as tx:
        kept = delegations.digests(tx)
        for row in tx.all(sa.select(state.studies).where(state.studies.c.open)):
            if row.digest not in kept:
                study = Study.from_bytes(row.manifest)
                delegations.issue(coordinator, tx, study, signer=signer)
                recipients.offer(coordinator, tx, study)
                done.append(study.id)
    return tuple(done)


def _move(home: Path, path: Path, target: Path) -> None:
    """Copy a key, sealed for itself if it is sealed, then overwrite and remove the original."""
    if target.exists() and not ceremony.same_key(path, target):
        raise FormatError(f"`{target}` is another key than `{path}`")
    if not target.exists():
        protecting.copy_to_travel(home, path, target)
    protecting.shred(path)
